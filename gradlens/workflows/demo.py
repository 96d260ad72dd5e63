"""Demo: the whole story on the data and the models that come with gradlens, ending in one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gradlens.report.page import Section, index
from gradlens.runtime import Runtime
from gradlens.workflows.measure import Measurement, Request, shift_eval
from gradlens.workflows.see import CamRequest, CamRun, cam

COLLECTION = "vehicles"
# one network with skips, one with windows, one with a class token: their depths differ most
LAYER_WISE = ("densenet", "swin", "vit")
SCENES = 4  # of different classes, each in distribution and shifted
# the first learnt the vehicles with their usual backgrounds, the second without; one convolves, one has windows
TWINS = tuple(f"{collection}/{name}" for name in ("densenet", "swin") for collection in (COLLECTION, "twins"))
SWAPPED = "vehicles-context"
MAPS = 32  # scenes whose maps are compared


@dataclass(frozen=True)
class Demo:
    """What the demo left.

    Attributes:
        measurement: every model on every probe set.
        shortcut: models that learnt a shortcut beside their twins that did not, before swapped backgrounds.
    """

    page: Path
    grids: list[CamRun]
    measurement: Measurement
    shortcut: Measurement


def demo(folder: Path, runtime: Runtime, *, command: str = "gradlens demo") -> Demo:
    """Grids of three models at all depths, of all at their last, the gaps, who rests on the background; and a page."""
    grids = []
    for model in LAYER_WISE:
        runtime.say(f"maps of {model} at every depth")
        request = CamRequest(models=[f"{COLLECTION}/{model}"], layers=["all"], n=SCENES)
        grids.append(cam(request, runtime, folder / "cam" / model))
    runtime.say("maps of every model at its last depth")
    together = cam(CamRequest(models=[f"{COLLECTION}/*"], n=SCENES), runtime, folder / "cam" / "models")
    runtime.say("scores of every model on the test set and on every probe set")
    out = folder / "shift-eval"
    measured = shift_eval(Request(out=out, models=(f"{COLLECTION}/*",), command=command), runtime)
    runtime.say("maps of models and their twins when only the background changes")
    twins = Request(
        out=folder / "shortcut",
        models=TWINS,
        in_dist=f"{COLLECTION}-test",
        probes=(SWAPPED,),
        analyses=("explanations",),
        cam_images=MAPS,
        command=command,
    )
    told = shift_eval(twins, runtime)
    sections = [
        Section(
            "Where does every model look?",
            "Each vehicle of the test set stands above the same scene as the internet might show it. Below each map "
            "is that model's prediction. Maps at the last depth that has a gradient.",
            together.figures,
        ),
        *(
            Section(
                f"{name}, from the first depth to the last",
                "Depths are found from the network's graph: every path from the pixels to the logits crosses them.",
                run.figures,
            )
            for name, run in zip(LAYER_WISE, grids, strict=True)
        ),
    ]
    sections.append(
        Section(
            "Which models rest on the background?",
            "Two networks that learnt vehicles with their usual backgrounds, beside twins that learnt them without.",
            [twins.out / "figures" / f"{stem}.png" for stem in ("shortcut", "explanation_depths")],
            [finding for name in ("shortcut", "explanations") for finding in told.outcomes[name].findings],
        )
    )
    page = index(folder, "gradlens demo", sections, run=out)
    return Demo(page, [*grids, together], measured, told)
