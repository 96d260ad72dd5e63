"""``gradlens app``: the page in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from gradlens.cli.options import model_option, runtime_options, weights_option, zoo_option
from gradlens.cli.sections import SectionedCommand
from gradlens.runtime import Runtime


@click.command(
    "app",
    cls=SectionedCommand,
    sections={
        "What is compared": ["--model", "--zoo", "--weights", "--classes", "--image", "--in-dist", "--run"],
        "The server": ["--host", "--port", "--memory", "--concurrency", "--max-upload", "--title", "--export"],
        "Common options": ["--device", "--precision", "--batch-size", "--workers", "--seed", "--offline", "--quiet",
                           "--debug", "--config"],
    },
    epilog="""\b
Examples:
  gradlens app
  gradlens app --model densenet --model vit --run runs/shift-eval-20260101-120000
  gradlens app --model 'cifar10/*' --in-dist cifar10-test.parquet --port 8000
  gradlens app --model 'vehicles/*' --memory 500MB --export my-space
""",
)  # fmt: skip
@model_option
@zoo_option
@weights_option
@click.option("--classes", type=click.IntRange(1), default=None, help="Outputs of an architecture [default: 1000].")
@click.option(
    "--image", "images", type=click.Path(path_type=Path), multiple=True,
    help="Example pictures: files, folders (repeatable) [default: some of the models' own test set].",
)  # fmt: skip
@click.option(
    "--in-dist", metavar="SOURCE", default=None,
    help="Images like the training data, which pictures are compared with [default: the models' own test set].",
)  # fmt: skip
@click.option(
    "--run", "run", type=click.Path(path_type=Path), metavar="RUN_DIR", default=None,
    help="Show the table of this finished shift evaluation in a tab.",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets others in.")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="[default: the first free one from 7860]")
@click.option("--memory", default="2GB", show_default=True, metavar="SIZE",
              help="Room for models and what their passes allocate; those not used for longest leave.")  # fmt: skip
@click.option("--concurrency", type=click.IntRange(1), default=2, show_default=True,
              help="Pictures looked at at once; others queue.")  # fmt: skip
@click.option("--max-upload", default="20MiB", show_default=True, metavar="SIZE", help="Largest file that is taken.")
@click.option("--title", default="gradlens", show_default=True, help="What the page is called.")
@click.option("--export", type=click.Path(path_type=Path), metavar="DIR", default=None,
              help="Write a folder that runs as a hosted Gradio Space, and serve nothing.")  # fmt: skip
@runtime_options
def command(
    models: tuple[str, ...],
    zoo: Path | None,
    weights: str | None,
    classes: int | None,
    images: tuple[Path, ...],
    in_dist: str | None,
    run: Path | None,
    host: str,
    port: int | None,
    memory: str,
    concurrency: int,
    max_upload: str,
    title: str,
    export: Path | None,
    runtime: Runtime,
) -> None:
    """A page in the browser: drop a picture, and see what every model takes it for and where it looks.

    Models stand side by side with their five best classes and a map at any depth; a warning says when the picture is
    unlike the images they were tested on; a playground blurs, darkens, crops and compresses it, and shows predictions
    and maps before and after. Models are loaded when they are chosen. Nothing is sent elsewhere, nothing comes from
    elsewhere, and only this machine can open the page unless --host says otherwise. The address is printed; Ctrl-C
    ends it.

    Needs Gradio: pip install "gradlens[app]".
    """
    from gradlens.app.settings import Settings, size_in_bytes
    from gradlens.zoo import checkpoints

    sizes = {}
    for option, text in (("--memory", memory), ("--max-upload", max_upload)):
        try:
            sizes[option] = size_in_bytes(text)
        except ValueError as err:
            raise click.UsageError(f"{option}: {err}") from None
    settings = Settings(
        models=tuple(checkpoints.expand(models or ("all",), zoo)),
        zoo=zoo,
        weights=weights,
        classes=classes,
        memory=sizes["--memory"],
        concurrency=concurrency,
        images=images,
        in_dist=in_dist,
        run=run,
        max_upload=sizes["--max-upload"],
        title=title,
    )
    if export is not None:
        from gradlens.app.export import export_space

        click.echo(export_space(settings, runtime, export))
        return
    from gradlens.app.serve import serve

    serve(settings, runtime, host, port)
