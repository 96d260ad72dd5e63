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


@dataclass(frozen=True)
class Demo:
    """What the demo left."""

    page: Path
    grids: list[CamRun]
    measurement: Measurement


def demo(folder: Path, runtime: Runtime, *, command: str = "gradlens demo") -> Demo:
    """Grids of three models at all depths, of all models at their last, the gap table, and a page that shows it all."""
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
    page = index(folder, "gradlens demo", sections, run=out)
    return Demo(page, [*grids, together], measured)
