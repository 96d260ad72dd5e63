"""Imports run one way, and importing the package does nothing heavy."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import gradlens

PACKAGE = Path(gradlens.__file__).parent

# A part may import the parts that stand in an earlier row; parts of one row do not know one another.
ROWS = (
    ("errors",),
    ("records", "registry", "processes"),
    ("runtime",),
    ("data",),
    ("zoo",),
    ("depths",),
    ("cam", "train", "shift"),
    ("figures",),
    ("report",),
    ("doctor",),
    ("workflows",),
    ("app",),
    ("cli",),
    ("__main__",),
)
ROW = {part: row for row, parts in enumerate(ROWS) for part in parts}
HEAVY = [
    "torch",
    "torchvision",
    "timm",
    "captum",
    "cv2",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "pyarrow",
    "pandas",
    "PIL",
    "pydantic",
    "jinja2",
    "tqdm",
    "huggingface_hub",
    "safetensors",
    "transformers",
    "tensorboard",
    "wandb",
    "datasets",
    "gradio",
    "ray",
    "webdataset",
]


def part_of(file: Path) -> str:
    """``gradlens/shift/gap.py`` is of the part ``shift``; ``gradlens/errors.py`` of ``errors``."""
    relative = file.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(source: str, module: str) -> list[tuple[int, str]]:
    """(line, part of gradlens) of every import in a module, those inside functions and under TYPE_CHECKING included.

    ``module`` is the dotted name of the module, with ``__init__`` for a package's own file.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            base = ".".join(x for x in (base, node.module) if x)
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names = [str(node.args[0].value)]
        else:
            continue
        for name in names:
            steps = name.split(".")
            if steps[0] == "gradlens" and len(steps) > 1:
                found.append((node.lineno, steps[1]))
    return found


def wrong_way(part: str, source: str, module: str) -> list[str]:
    """The imports of a module that do not run the way ``ROWS`` says."""
    wrong = []
    for line, other in imported(source, module):
        if other == part or other not in ROW:  # a public name of the package itself, such as __version__
            continue
        if ROW[other] >= ROW[part]:
            wrong.append(f"{module} line {line}: {part} imports {other}")
    return wrong


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if "_bundled" not in p.parts]


def test_every_part_has_its_row() -> None:
    parts = {part_of(file) for file in modules()} - {"__init__"}
    assert parts <= set(ROW), f"give {sorted(parts - set(ROW))} a place in ROWS"


@pytest.mark.parametrize("file", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(file: Path) -> None:
    part = part_of(file)
    if part == "__init__":  # the package's own file hands out names on demand; it may point anywhere but not load
        return
    module = ".".join(("gradlens", *file.relative_to(PACKAGE).with_suffix("").parts))
    assert wrong_way(part, file.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("part", "module", "source"),
    [
        ("data", "gradlens.data.sources", "from gradlens.workflows import measure"),
        ("cam", "gradlens.cam.methods", "import gradlens.shift.metrics"),
        ("shift", "gradlens.shift.gap", "def late():\n    from gradlens.cam import engine"),
        ("train", "gradlens.train.loop", "from ..shift import metrics"),
        ("figures", "gradlens.figures.style", "import importlib\nimportlib.import_module('gradlens.cli.main')"),
        ("zoo", "gradlens.zoo.__init__", "from .. import workflows"),
        ("errors", "gradlens.errors", "from gradlens import records"),
    ],
)
def test_the_check_sees_every_form_of_import(part: str, module: str, source: str) -> None:
    assert len(wrong_way(part, source, module)) == 1


def test_the_check_allows_the_right_way() -> None:
    source = "from gradlens.errors import InputError\nfrom gradlens import __version__\nfrom . import gap\nimport torch"
    assert wrong_way("shift", source, "gradlens.shift.pairs") == []


def loaded_after(statement: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint('loaded', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "statement",
    [
        "import gradlens",
        "import gradlens.cli.main",
        "from gradlens.cli.main import cli; cli.main(['--help'], standalone_mode=False)",
        "from gradlens.cli.main import cli; cli.main(['--version'], standalone_mode=False)",
    ],
    ids=["import gradlens", "import gradlens.cli.main", "gradlens --help", "gradlens --version"],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    assert loaded_after(statement) == set()


def test_the_check_sees_a_heavy_import() -> None:
    assert loaded_after("import jinja2") == {"jinja2"}


def test_help_is_instant() -> None:
    def seconds() -> float:
        """Of processor time: other work on this machine, such as other tests, must not count."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "gradlens", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.5
