"""The page: Gradio's components, and which function of the service answers which of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from PIL import Image

from gradlens import __version__
from gradlens.app import cards
from gradlens.app.changes import CHANGES, MOST
from gradlens.app.looking import quick_methods
from gradlens.app.run_table import EVERYWHERE, HEADS, RunTable
from gradlens.app.service import OWN, Example, Service
from gradlens.errors import GradlensError
from gradlens.report.answers import short_models

DEEP = 90  # where the depth slider stands at first: the last depth of some networks has no gradient
NO_PICTURE, ANOTHER, NO_MODEL = (
    "Drop, paste or photograph a picture",
    "Give another picture",
    "Choose at least one model.",
)
MAY_BREAK = "\u200b"  # has no width
KEPT_SECONDS = 3600  # that an uploaded picture stays on the disk

KINDS: list[Literal["str", "number"]] = ["str" if head in ("model", "data set") else "number" for head in HEADS]

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

Outputs = dict[Any, Any]


def _picture_input() -> gr.Image:
    """An image input that hands on the uploaded file as it came.

    Gradio's own would decode it first, by other rules, and fail with a message for programmers where it cannot. The
    method is replaced on the object, because Gradio writes a file beside the source of every class made from its own.
    """
    picture = gr.Image(
        label="Picture", type="filepath", image_mode=None, height=236,
        sources=["upload", "clipboard", "webcam"], elem_id="picture", buttons=[],
    )  # fmt: skip
    decoded = picture.preprocess

    def uploaded(payload: Any) -> Any:
        return payload.path if payload is not None and payload.path else decoded(payload)

    picture.preprocess = uploaded  # type: ignore[method-assign]
    return picture


def build(service: Service, examples: Sequence[Example], folder: Path) -> gr.Blocks:
    """The whole page.

    Args:
        service: answers.
        examples: pictures to begin with.
        folder: where they are written for the server to send.
    """
    settings = service.settings
    or_example = ", or click on an example." if examples else "."
    no_picture, another = NO_PICTURE + or_example, ANOTHER + or_example
    with gr.Blocks(
        title=settings.title, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS), fill_width=True
    ) as page:
        gr.HTML(_head(settings.title), elem_classes="gl-head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280, elem_id="left"):
                picture = _picture_input()
                if examples:
                    gr.HTML(
                        cards.render("thumbnails.html.j2", pictures=[cards.thumbnail(one.pixels) for one in examples])
                    )
                    gr.Examples(
                        _written(examples, folder), picture, label="Examples", examples_per_page=8, elem_id="examples",
                        example_labels=[one.name for one in examples], api_visibility="private",
                    )  # fmt: skip
                models = gr.CheckboxGroup(
                    [
                        (short.replace("/", "/" + MAY_BREAK), name)
                        for name, short in short_models(service.pool.names).items()
                    ],
                    value=service.at_first, label="Models", elem_id="models",
                )  # fmt: skip
            with gr.Column(scale=7, min_width=280, elem_id="right"):
                problem = gr.HTML(elem_id="problem")
                with gr.Row(elem_id="bar") as bar:
                    depth = gr.Slider(
                        0, 100, DEEP, step=1, label="Depth: 0 is the first, 100 the last", elem_id="depth",
                        buttons=[], scale=4, min_width=240,
                    )  # fmt: skip
                    method = gr.Dropdown(
                        [(m.title, m.name) for m in quick_methods()], value="gradcam", label="Method", elem_id="method",
                        filterable=False, scale=2, min_width=130,
                    )  # fmt: skip
                    target = gr.Dropdown(
                        [("its own prediction", OWN), *((name, name) for name in service.classes)],
                        value=OWN, label="Class to explain", elem_id="target", filterable=False, scale=2, min_width=130,
                    )  # fmt: skip
                with gr.Tabs(elem_id="tabs"):
                    with gr.Tab("Compare", id="compare") as comparing:
                        summary = gr.HTML(elem_id="summary")
                        familiar = gr.HTML(elem_id="familiar")
                        found = gr.HTML(cards.empty(no_picture), elem_id="cards")
                    with gr.Tab("Shift playground", id="playground") as playing:
                        with gr.Row():
                            change = gr.Dropdown(
                                [(c.title, name) for name, c in CHANGES.items()], value=next(iter(CHANGES)),
                                label="What happens to the picture", elem_id="change", filterable=False,
                            )  # fmt: skip
                            severity = gr.Slider(
                                0, MOST, 2, step=1, label="Severity: 0 as it is, 5 the worst", elem_id="severity",
                                buttons=[],
                            )  # fmt: skip
                        pairs = gr.HTML(cards.empty(no_picture), elem_id="pairs")
                    if service.run is not None:
                        with gr.Tab("Run", id="run") as running:
                            _run_tab(service.run)
                        # no map there to turn to another depth
                        running.select(lambda: gr.Row(visible="hidden"), None, bar, queue=False, **QUIET)
        gr.HTML(_foot(service), elem_classes="gl-foot")
        here = gr.State("compare")

        def compare(path: str | None, names: list[str], method: str, target: str, depth: float) -> Iterator[Outputs]:
            if path is None or not names:
                said = no_picture if path is None else NO_MODEL
                yield {problem: "", summary: "", familiar: "", found: cards.empty(said)}
                return
            try:
                photo = service.photo(path)
            except GradlensError as err:
                yield {problem: cards.message(str(err)), summary: "", familiar: "", found: cards.empty(another)}
                return
            yield {
                problem: "",
                familiar: cards.render("checking.html.j2"),
                found: cards.cards(dict.fromkeys(names), depth / 100),
            }
            for outcomes in service.outcomes(photo, _ordered(service, names), method, target):
                yield {found: cards.cards(outcomes, depth / 100), summary: cards.summary(outcomes)}

        def warn(path: str | None, names: list[str], method: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
            return _quietly(
                lambda: cards.familiarity(
                    *service.familiarity(
                        service.photo(str(path)), _ordered(service, names), method,
                        lambda share, what: progress(share, desc=what),
                    )
                )
                if path is not None and names
                else ""
            )  # fmt: skip

        def play(
            path: str | None, names: list[str], method: str, target: str, depth: float, change: str, severity: int,
            here: str,
        ) -> Iterator[Any]:  # fmt: skip
            if here != "playground":
                yield gr.skip()
                return
            if path is None or not names:
                yield cards.empty(no_picture if path is None else NO_MODEL)
                return
            try:
                photo = service.photo(path)
            except GradlensError:
                yield cards.empty(another)  # the line above the tabs says what is wrong
                return
            told = service.before_after(photo, _ordered(service, names), method, target, change, int(severity))
            for both in told:
                yield cards.before_after(both, depth / 100, CHANGES[change].title, int(severity), CHANGES[change].what)

        look = [picture, models, method, target, depth]
        turn = [*look, change, severity, here]
        limit: dict[str, Any] = {"concurrency_id": "look", "concurrency_limit": settings.concurrency}
        chosen = gr.on(
            [picture.change, models.change, method.change, target.change],
            compare, look, [problem, summary, familiar, found], trigger_mode="always_last", **limit, **QUIET,
        )  # fmt: skip
        chosen.then(play, turn, pairs, **limit, **QUIET)
        chosen.then(
            warn, [picture, models, method], familiar, concurrency_id="familiar", concurrency_limit=1,
            api_visibility="private", show_progress="minimal",
        )  # fmt: skip

        def redraw(path: str | None, names: list[str], method: str, target: str, depth: float) -> str | Outputs:
            if path is None or not names:
                return gr.skip()
            return _quietly(lambda: cards.cards(_all(service, str(path), names, method, target), depth / 100))

        gr.on([depth.input, depth.release], redraw, look, found, trigger_mode="always_last", **limit, **QUIET)
        gr.on(
            [depth.release, change.change, severity.input, severity.release],
            play, turn, pairs, trigger_mode="always_last", **limit, **QUIET,
        )  # fmt: skip
        shown = gr.Row(visible=True)
        comparing.select(lambda: ("compare", shown), None, [here, bar], queue=False, **QUIET)
        playing.select(lambda: ("playground", shown), None, [here, bar], queue=False, **QUIET).then(
            play, turn, pairs, **limit, **QUIET
        )

        def classify(path: str, names: list[str], method: str) -> dict[str, Any]:
            try:
                return service.answer(path, names, method)
            except GradlensError as err:
                raise gr.Error(str(err)) from err

        told = gr.JSON(visible=False)
        gr.Button(visible=False).click(
            classify, [picture, models, method], told, api_name="classify",
            api_description="The five best classes of each model, and how far the models agree.", **limit,
        )  # fmt: skip
    page.queue(default_concurrency_limit=settings.concurrency, max_size=64)
    return page


def _all(service: Service, path: str, names: Sequence[str], method: str, target: str) -> dict[str, cards.Outcome]:
    photo = service.photo(path)
    return {name: service.outcome(photo, name, method, target) for name in _ordered(service, names)}


def _ordered(service: Service, names: Sequence[str]) -> list[str]:
    """In the order of the list, not in that of the clicks."""
    return [name for name in service.pool.names if name in names]


def _quietly(make: Callable[[], str]) -> str:
    """What ``make`` gives; nothing where the picture cannot be read, which the page says elsewhere."""
    try:
        return make()
    except GradlensError:
        return ""


def _written(examples: Sequence[Example], folder: Path) -> list[list[str]]:
    paths = []
    for i, one in enumerate(examples):
        path = folder / f"example-{i + 1}.png"
        Image.fromarray(one.pixels).save(path)
        paths.append([str(path)])
    return paths


def _run_tab(table: RunTable) -> None:
    with gr.Row():
        metric = gr.Dropdown(table.metrics, value=table.metrics[0], label="Metric", filterable=False, elem_id="metric")
        dataset = gr.Dropdown(
            [EVERYWHERE, *table.run.datasets], value=EVERYWHERE, label="Data set", filterable=False, elem_id="dataset"
        )
    note = gr.HTML(cards.hint(table.note(table.metrics[0])), elem_id="run-note")
    rows = gr.Dataframe(
        table.table(table.metrics[0]), headers=list(HEADS), datatype=KINDS, interactive=False,
        label=f"Run {table.run.folder.name}: the menu of a heading sorts and filters", elem_id="run-table", wrap=True,
        max_height=700, buttons=[],
    )  # fmt: skip
    gr.on(
        [metric.change, dataset.change],
        lambda m, d: (table.table(m, d), cards.hint(table.note(m))),
        [metric, dataset], [rows, note], queue=False, **QUIET,
    )  # fmt: skip


def _head(title: str) -> str:
    return cards.render(
        "head.html.j2", title=title,
        help="One picture, many classifiers: what each takes it for, and where each looks, at every depth.",
    )  # fmt: skip


def _foot(service: Service) -> str:
    return cards.render(
        "foot.html.j2", version=__version__, device=str(service.runtime.torch_device()), hour=KEPT_SECONDS // 60,
        most=f"{service.settings.max_upload / 2**20:.3g} MiB",  # as the browser says it of a file that is larger
    )  # fmt: skip
