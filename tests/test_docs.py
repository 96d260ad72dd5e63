"""README and docs/ do what they say: every command and block of code runs, every link leads somewhere.

A command is run as it stands, in a scratch folder that holds what the pages take for granted (``photo.jpg``,
``photos/``, ``../shared/data``, ...). Only what would download, take very long or open a server is replaced, by
:data:`INSTEAD`; also then the command itself must be one that the program accepts, with these options and values.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
from functools import partial
from pathlib import Path

import click
import pytest
from docs_world import furnish
from documents import ROOT, Block, Command, anchors, blocks, inline, links, name_of, pages, spans

from gradlens.cli.main import cli, main

# (which commands, why they are not run as they stand, what is added to them or, after "=", run in their place)
INSTEAD = (
    (r"gradlens .*--ray ", "starts a cluster (tests/test_cluster.py does)", None),
    (r"gradlens .*--shard ", "is one of sixteen jobs (tests/test_distributed.py runs several)", None),
    (r"gradlens .*--stream ", "reads a thousand files (tests/test_streams.py reads fewer)", None),
    (r"gradlens train .*imagenet", "downloads weights", None),
    (r"gradlens train cifar10$", "names the recipe", None),
    (r"gradlens train (?!--list)", "trains for up to an hour", "--dry-run"),
    (r"gradlens study .*--scale full", "says what a machine without a network lacks, and leaves with 1", None),
    (r"gradlens study (?!--list)", "trains for hours", "--dry-run"),
    (r"gradlens app(?! .*--export)", "opens a server", None),
    (r"gradlens zoo verify", "scores every model of the zoo (tests/test_zoo_committed.py does)", None),
    (
        r"gradlens cam --evaluate$",
        "is every measure of every method",
        "--model vgg --method gradcam --measure energy --n 2",
    ),
    (
        r"gradlens cam --evaluate .*--out runs/trust",
        "takes an hour",
        "= cam --evaluate --model vgg --method gradcam --measure deletion --n 1 --out runs/trust",
    ),
    (r"gradlens cam --evaluate", "looks at 32 images", "--n 4"),
    (r"gradlens cam (?!--list|--evaluate|.*--image)", "draws eight images for print", "--n 1 --dpi 50"),
    (r"gradlens bench", "times each network a hundred times", "--passes 0"),
    (r"gradlens shift-eval .*--out runs/two", "draws pictures of what it saw", "--images 0 --resamples 200"),
    (
        r"gradlens shift-eval .*--out runs/kept",
        "scores five models on four sets",
        "= shift-eval --model vit --model shufflenet --in-dist vehicles-test --probe vehicles-context --resamples 200 "
        "--images 0 --out runs/kept",
    ),
    (
        r"gradlens shift-eval .*photos@map.toml",
        "speaks of photographs that lie elsewhere here",
        "= shift-eval --model cifar10/* --in-dist test.parquet --probe data/web@map.toml --plan",
    ),
    (
        r"gradlens shift-eval (?!--list|--predictions|--accuracies|.*mine/)",
        "scores up to 23 models on 320 images of each of ten sets",
        "--plan",
    ),
    (r"gradlens probe sheet .*docs/images", "draws for the README", "--out sheet.png"),
    (r"torchrun ", "starts several processes (tests/test_distributed.py does)", None),
    (r"python app.py", "opens a server, in the folder that --export writes", None),
    (r"python benchmarks/", "measures for minutes to hours", "= --help"),
    (r"python -m pytest|make |pip |git |mkdocs ", "builds or installs; `make -n` and the other tests look at it", None),
)
"""The first that matches counts. ``None``: that the program accepts the command is all that is tried."""

# What runs in a second or two once the libraries are loaded; everything else is marked slow
QUICK = r"gradlens (\S+ )?(\S+ )?(--list\S*|--help|--version)$|gradlens (zoo (list|show \S+)|probe list)$"

# Pages that tell one story: followed from top to bottom in one folder, in processes of their own, as docs/run.py does
STORIES = ("docs/tutorial.md", "docs/extending.md", "docs/depths.md", "docs/questions.md")

TOLD = [c for p in pages() for b in blocks(p) for c in b.commands] + [c for p in pages() for c in inline(p)]
TYPED = [c for c in TOLD if not c.mention]

pictures = runpy.run_path(str(ROOT / "docs" / "run.py"))["pictures"]

Captured = pytest.CaptureFixture[str]


def label(thing: Command | Block | Path) -> str:
    return name_of(thing) if isinstance(thing, Path) else f"{thing.page}:{thing.line}"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("world"))


@pytest.fixture
def desk(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world, and we are in its project folder."""
    shutil.copytree(world, tmp_path / "world", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "world" / "project")
    return Path.cwd()


def accepted(words: list[str]) -> click.Context:
    """``gradlens ...`` as click understands it, without running it; usage errors are raised."""
    context, command, rest = click.Context(cli, info_name="gradlens"), cli, words
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, rest = rest[0], rest[1:]
        inner = command.get_command(context, name)
        assert inner is not None, f"there is no command {name!r}"
        command, context = inner, click.Context(inner, info_name=name, parent=context)
    rest = [w for w in rest if w != "--debug"]
    with contextlib.suppress(click.exceptions.Exit):  # --help and --list-... print and leave
        return command.make_context(context.info_name, rest, parent=context.parent)
    return context


def instead_of(command: Command) -> tuple[str, str | None] | None:
    return next(((why, other) for pattern, why, other in INSTEAD if re.match(pattern, command.text)), None)


def is_quick(block: Block) -> bool:
    return all(re.match(QUICK, " ".join(c.words)) for c in block.commands)


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not be there to tell whether a command is one."""
    monkeypatch.chdir(tmp_path)
    for name in ("classes.txt", "names.txt"):  # what --classes takes may be names or a file of them
        (tmp_path / name).write_text("robin\nwren\n")
    monkeypatch.setattr(click.Path, "convert", lambda self, value, parameter, context: Path(value))


@pytest.mark.usefixtures("any_path")
@pytest.mark.parametrize("command", TYPED, ids=label)
def test_every_command_is_one(command: Command) -> None:
    program, *words = command.words
    if program == "gradlens":
        accepted(words)
    elif program == "torchrun":
        accepted(words[words.index("gradlens") + 1 :])
    elif program == "make":
        done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif program == "python" and "/" in words[0]:
        assert (ROOT / words[0]).is_file(), words[0]
    elif program == "pip":
        extras = re.findall(r"\[(\w+)\]", command.text)
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(extras) <= set(known)


def examples_of_help() -> list[Command]:
    """The examples under ``--help``, which docs/commands.md shows."""
    found, context = [], click.Context(cli)
    todo = [(name, cli.get_command(context, name)) for name in cli.list_commands(context)]
    for name, command in todo:
        assert command is not None
        if isinstance(command, click.Group):
            todo += [(f"{name} {inner}", c) for inner, c in command.commands.items()]
        text = Block(f"gradlens {name} --help", 0, "sh", command.epilog or "")
        found += [c for c in text.commands if c.text.startswith("gradlens ")]
    return found


@pytest.mark.usefixtures("any_path")
def test_every_example_of_the_help_is_a_command() -> None:
    examples = examples_of_help()
    assert len(examples) > 50
    for command in examples:
        accepted(command.words[1:])


@pytest.mark.parametrize("command", [c for c in TOLD if c.mention], ids=label)
def test_every_mention_names_a_command_and_its_options(command: Command) -> None:
    words = command.text.replace("'", "").replace('"', "").split()
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
    if words[0] != "gradlens":
        return
    inner: click.Command = cli
    context = click.Context(cli)
    for word in words[1:]:
        if isinstance(inner, click.Group):
            if word.isupper():
                break
            found = inner.get_command(context, word)
            assert found is not None, f"there is no command {word!r}"
            inner = found
    known = {o for p in inner.params for o in p.opts} | {"--help", "--debug", "-h"}
    assert {w.split("=")[0] for w in words if w.startswith("-")} <= known


def blocks_to_run() -> list[Block]:
    """Blocks of shell outside of the stories; a page's inline commands are blocks of one."""
    shell = [b for p in pages() if name_of(p) not in STORIES for b in blocks(p) if b.commands]
    alone = [Block(c.page, c.line, "sh", c.text) for p in pages() for c in inline(p) if not c.mention]
    seen: set[str] = set()
    return [b for b in shell + alone if not (b.text in seen or seen.add(b.text))]  # type: ignore[func-returns-value]


@pytest.mark.parametrize("block", [b for b in blocks_to_run() if is_quick(b)], ids=label)
def test_every_list_is_printed(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    for command in block.commands:
        run(command, capsys)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("block", [b for b in blocks_to_run() if not is_quick(b)], ids=label)
def test_every_block_of_commands_runs(block: Block, capsys: Captured) -> None:
    """And leaves the pictures that the page shows of it: ``images/PAGE/...`` is ``runs/...`` (docs/run.py)."""
    for command in block.commands:
        run(command, capsys)
        _, other = instead_of(command) or ("", "")
        if other is not None and "--out" in command.words:
            out = command.words[command.words.index("--out") + 1]
            shown = [Path("runs", name) for name in pictures(ROOT / block.page)]
            assert [p for p in shown if p.is_relative_to(out) and not p.is_file()] == []


def run(command: Command, capsys: Captured) -> None:
    """Run a command here, or what is run in its place; it must succeed."""
    other = instead_of(command)
    if other is not None and other[1] is None:
        return
    program, *words = command.words
    if other is not None and other[1] is not None:
        added = other[1].removeprefix("= ").split()
        keep = words[:1] if program == "python" else []
        words = [*keep, *added] if other[1].startswith("= ") else [*words, *added]
    if program == "python":
        script = [str(ROOT / words[0]), *words[1:]]
        done = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    assert program == "gradlens", f"nobody said how to try {command.text!r}"
    with pytest.raises(SystemExit) as left:
        main(words)
    said = capsys.readouterr()
    assert not left.value.code, f"gradlens {' '.join(words)}\n{said.out}\n{said.err}"
    assert said.out.strip(), "a command that says nothing helps nobody"


def test_every_rule_is_needed() -> None:
    used = {instead_of(c) for c in TYPED}
    assert [pattern for pattern, *rest in INSTEAD if tuple(rest) not in used] == []


# -- code -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [p for p in pages() if name_of(p) not in STORIES and any(b.language == "python" for b in blocks(p))],
    ids=label,
)
def test_code_in_reference_pages_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from gradlens.zoo import checkpoints

    monkeypatch.chdir(tmp_path)
    loaded = checkpoints.load("vehicles/shufflenet")  # "any nn.Module", the pages say
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    known = {"model": loaded.module, "images": images, "classes": loaded.classes}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, label(block), "exec"), known)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("story", STORIES)
def test_a_story_can_be_followed(story: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "run.py", tmp_path, ROOT / story], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=label)
def test_a_notebook_runs_and_is_committed_without_outputs(
    notebook: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(notebook, as_version=4)
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in book.cells if c.cell_type == "code")
    monkeypatch.setenv("GRADLENS_SHARED_DATA", str(world / "shared" / "data"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(book, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
    assert sum("image/png" in o.get("data", {}) for o in shown) == 5  # two figures of the run, maps of three networks
    assert not [o for o in shown if o.get("data", {}).get("text/plain", "").startswith("<Figure")]  # shown as its name


@pytest.mark.parametrize("block", [b for p in pages() for b in blocks(p) if b.language in ("json", "toml")], ids=label)
def test_examples_of_files_can_be_read(block: Block) -> None:
    (json if block.language == "json" else tomllib).loads(block.text)


def modules_with_examples() -> list[str]:
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in sorted((ROOT / "gradlens").rglob("*.py"))
        if "_bundled" not in file.parts and re.search(r"^ *>>> (?!.*\+SKIP)", file.read_text(encoding="utf-8"), re.M)
    ]


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings_hold(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried
    assert failed == 0


# -- links ------------------------------------------------------------------------------------------------------------

LINKED = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", LINKED, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for line, target in links(page):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = urllib.parse.unquote(target).partition("#")
        to = (page.parent / path).resolve() if path else page
        made = (
            to.suffix == ".md" and to.exists() and "\n::: " in to.read_text(encoding="utf-8")
        )  # the build looks there
        if not to.exists() or (anchor and not made and anchor not in anchors(to)):
            wrong.append(f"{name_of(page)}:{line}: {target}")
    assert wrong == []


@pytest.mark.parametrize("page", LINKED, ids=label)
def test_files_that_are_named_exist(page: Path) -> None:
    path = partial(re.fullmatch, r"(gradlens|tests|docs|benchmarks|studies|notebooks|\.ci)/[\w./-]+")
    named = [(line, text.split("::")[0]) for line, text in spans(page) if path(text.split("::")[0])]
    assert [f"{name_of(page)}:{line}: {text}" for line, text in named if not (ROOT / text).exists()] == []


def test_tables_that_are_named_are_written_by_something() -> None:
    written = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "gradlens").rglob("*.py")))
    named = {text for page in pages() for _, text in spans(page) if re.fullmatch(r"[a-z]+(_[a-z]+)*\.csv", text)}
    assert len(named) > 20
    assert [name for name in sorted(named) if name.removesuffix(".csv") not in written] == []


# -- and would they notice? -------------------------------------------------------------------------------------------


def test_the_tests_see_what_is_wrong(capsys: Captured) -> None:
    for text in ("gradlens cam --modell vit", "gradlens layers --precision fp8", "gradlens kam --model vit"):
        with pytest.raises((click.UsageError, AssertionError)):
            accepted(text.split()[1:])
    with pytest.raises(AssertionError, match="no model"):
        run(Command("planted", 1, "gradlens zoo show no/such-model"), capsys)
    page = ROOT / "docs" / "index.md"
    assert "no-such-heading" not in anchors(page)
    assert anchors(page) >= {"words", "model-and-source"}
