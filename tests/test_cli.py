"""The command line as people and scripts meet it: exit codes, help, configuration, interrupts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gradlens.cli import main as main_module
from gradlens.cli.main import COMMANDS, cli
from gradlens.cli.options import _plain, config_option, json_option, print_json, run_folder, runtime_options
from gradlens.errors import CheckpointError, ThresholdMissed
from gradlens.runtime import Runtime


def gradlens(*args: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gradlens", *args], capture_output=True, text=True, env={**os.environ, **surroundings}
    )


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))


def every_command() -> list[tuple[str, ...]]:
    context = click.Context(cli)
    found = []
    for name, (module, _) in COMMANDS.items():
        if find_spec(f"gradlens.cli.{module}") is None:
            continue  # test_every_listed_command_exists says so
        command = cli.get_command(context, name)
        assert command is not None
        found += list(leaves(command, (name,)))
    return found


# -- commands and their help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists(name: str) -> None:
    assert find_spec(f"gradlens.cli.{COMMANDS[name][0]}") is not None


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_help_of_every_command_ends_with_examples_that_parse(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*path, "--help"])
    assert done.exit_code == 0
    before, _, examples = done.output.partition("Examples:")
    assert before.startswith("Usage: ")
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", examples).splitlines() if line.strip()]
    assert lines, "no examples"
    for line in lines:
        line = re.sub(r"^torchrun .*?-m (?=gradlens )", "", line)  # the launcher has its own options
        assert line.startswith("gradlens "), line
        command: click.Command = cli
        words = line.split(" #")[0].replace("'", "").split()[1:]
        context = click.Context(cli, info_name="gradlens")
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            inner = command.get_command(context, name)
            assert inner is not None, f"{line}: no command {name}"
            command = inner
        options = {opt for parameter in command.params for opt in parameter.opts} | {"--help"}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= options, f"{line}: {sorted(used - options)}"


def test_help_goes_to_stdout_and_names_every_command() -> None:
    done = gradlens("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_shell_completion_knows_commands_and_options() -> None:
    def completed(*words: str) -> set[str]:
        done = gradlens(
            _GRADLENS_COMPLETE="bash_complete", COMP_WORDS=" ".join(("gradlens", *words)), COMP_CWORD=str(len(words))
        )
        return {line.split(",")[-1] for line in done.stdout.split()}

    assert completed("do") == {"doctor"}
    assert "--json" in completed("doctor", "--j")
    assert "gradlens_completion" in gradlens(_GRADLENS_COMPLETE="bash_source").stdout


# -- exit code 2: wrong usage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (["shift-evl"], "shift-eval"),
        (["doctr"], "doctor"),
        (["doctor", "--jsn"], "--json"),
    ],
)
def test_a_slip_of_the_keyboard_is_wrong_usage_with_a_suggestion(args: list[str], near: str) -> None:
    done = gradlens(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert near in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unexpected_argument_is_wrong_usage() -> None:
    assert gradlens("doctor", "surplus").returncode == 2


# -- the other exit codes, on commands made for the test --------------------------------------------------------------


def run_with(monkeypatch: pytest.MonkeyPatch, body: object, *args: str) -> int:
    """Exit code of ``gradlens doctor`` when its command raises or does something else."""

    @click.command()
    def command() -> None:
        if isinstance(body, BaseException):
            raise body
        assert callable(body)
        body()

    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: command)
    with pytest.raises(SystemExit) as left:
        main_module.main(["doctor", *args])
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CheckpointError("expected 8 classes, got 10"), 1, "gradlens: expected 8 classes, got 10"),
        (ThresholdMissed("accuracy 0.61 is under 0.7"), 4, "gradlens: accuracy 0.61 is under 0.7"),
        (KeyboardInterrupt(), 130, "gradlens: interrupted; finished parts are kept"),
        (FileNotFoundError(2, "No such file or directory", "x.jpg"), 1, "x.jpg: No such file or directory"),
        (OSError(28, "No space left on device"), 1, "the system refused: [Errno 28] No space left on device"),
        (
            ValueError("a\nb"),
            1,
            "gradlens: unexpected ValueError: a (a mistake in gradlens; the same command with --debug",
        ),
        (MemoryError("Unable to allocate 9 TiB"), 1, "try a smaller --batch-size"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else None,
)
def test_errors_become_one_line_and_a_code(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(monkeypatch, error) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert line in said.err
    assert len(said.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"), [(CheckpointError("no"), 1), (ThresholdMissed("no"), 4), (KeyError("k"), 1)]
)
def test_debug_shows_the_traceback_and_keeps_the_code(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(monkeypatch, error, "--debug") == code
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.splitlines()[-1].startswith("gradlens: ")


def test_a_command_may_choose_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def skipped_some() -> None:
        raise click.exceptions.Exit(3)

    assert run_with(monkeypatch, skipped_some) == 3


def test_a_library_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    def warns() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the weights are old\nand more", stacklevel=1)

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    monkeypatch.setattr(
        warnings, "showwarning", lambda m, c, f, n, *_: sys.stderr.write(warnings.formatwarning(m, c, f, n))
    )
    assert run_with(monkeypatch, warns) == 0
    assert capsys.readouterr().err == "gradlens: note: the weights are old\n"


def test_debug_is_taken_by_every_command_at_any_place() -> None:
    for args in (["--debug", "doctor", "--help"], ["doctor", "--debug", "--help"], ["doctor", "--help", "--debug"]):
        done = gradlens(*args)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Usage: gradlens doctor")


def test_control_c_leaves_with_130_and_one_line() -> None:
    """A real SIGINT to a real process, while it waits inside a command."""
    code = (
        "import click, signal, time\nfrom gradlens.cli import main as m\n"
        # a shell starts background jobs, and what they start, with the signal ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "@click.command()\ndef command():\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        "m.LazyGroup.get_command = lambda *_: command\nm.main(['doctor'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == "gradlens: interrupted; finished parts are kept"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import click\nfrom gradlens.cli import main as m\n"
        "@click.command()\ndef command():\n    [click.echo('x' * 1000) for _ in range(1000)]\n"
        "m.LazyGroup.get_command = lambda *_: command\nm.main(['doctor'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_a_short_answer_to_a_closed_pipe_is_no_error() -> None:
    """Everything fits the buffer, so the write fails only when the process ends."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-m", "gradlens", "--version"], stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode == 0


# -- colour -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color(no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    seen = []

    def asks() -> None:
        seen.append(click.get_current_context().color)

    assert run_with(monkeypatch, asks) == 0
    assert seen == [None if coloured else False]


# -- configuration: flag > environment > file > default ---------------------------------------------------------------


@click.command("cam")
@click.option("--model", "models", multiple=True)
@json_option
@runtime_options
def sample(models: tuple[str, ...], as_json: bool, runtime: Runtime) -> None:
    """A command with the common options."""
    print_json({"models": models, "as_json": as_json, "seed": runtime.seed, "precision": runtime.precision})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    monkeypatch.setattr("gradlens.runtime.import_torch", lambda: None)
    real = main_module.LazyGroup.get_command

    def get_command(self: main_module.LazyGroup, ctx: click.Context, name: str) -> click.Command | None:
        if name != "cam":
            return real(self, ctx, name)
        main_module._name_variables(sample, "GRADLENS_cam")
        return sample

    monkeypatch.setattr(main_module.LazyGroup, "get_command", get_command)
    yield CliRunner()
    for parameter in sample.params:
        parameter.envvar = None


def test_flag_beats_environment_beats_file_beats_default(shown: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("seed = 1\nprecision = 'bf16'\n[cam]\nmodel = 'densenet'\n")

    def seen(*args: str, **environment: str) -> dict[str, object]:
        done = shown.invoke(cli, ["cam", *args], env=environment)
        assert done.exit_code == 0, done.output
        document: dict[str, object] = json.loads(done.stdout)
        return document

    config = ("--config", str(file))
    assert seen()["seed"] == 0
    assert seen(*config)["seed"] == 1
    assert seen(*config, GRADLENS_CAM_SEED="2")["seed"] == 2
    assert seen(*config, "--seed", "3", GRADLENS_CAM_SEED="2")["seed"] == 3
    assert seen(*config)["models"] == ["densenet"]
    assert seen(*config, GRADLENS_CAM_MODEL="vit swin")["models"] == ["vit", "swin"]
    assert seen(*config, "--model", "vgg", GRADLENS_CAM_MODEL="vit swin")["models"] == ["vgg"]
    assert seen(GRADLENS_CAM_JSON="1")["as_json"] is True
    assert seen(GRADLENS_CAM_CONFIG=str(file))["precision"] == "bf16"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sead = 1", "did you mean 'seed'?"),
        ("[shift_eval]\nseed = 1", "did you mean [shift-eval]?"),
        ("seed = ", "is not TOML"),
        ("precision = 'fp64'", "'fp64' is not one of"),
        ("seed = 'many'", "not a valid integer"),
    ],
)
def test_a_wrong_file_is_wrong_usage(shown: CliRunner, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(content)
    done = shown.invoke(cli, ["cam", "--config", str(file)])
    assert done.exit_code == 2
    assert said in done.stderr


def test_tables_of_other_commands_are_left_alone(shown: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[cam]\nseed = 4\n[doctor]\njson = true\n[shift-eval]\nresamples = 5\n")
    done = shown.invoke(cli, ["cam", "--config", str(file)])
    assert json.loads(done.stdout)["seed"] == 4


def test_nested_commands_have_their_own_table(tmp_path: Path) -> None:
    @click.group("zoo")
    def group() -> None:
        """A group."""

    @group.command("verify")
    @click.option("--limit", type=int, default=0)
    @config_option
    def verify(limit: int) -> None:
        click.echo(limit)

    @click.group()
    def top() -> None:
        """The root."""

    top.add_command(group)
    file = tmp_path / "settings.toml"
    file.write_text("[zoo.verify]\nlimit = 7\n")
    assert CliRunner().invoke(top, ["zoo", "verify", "--config", str(file)]).output == "7\n"


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_batch_size_is_a_whole_number_or_auto(shown: CliRunner, value: str) -> None:
    done = shown.invoke(cli, ["cam", "--batch-size", value])
    assert done.exit_code == 2
    assert "positive whole number or auto" in done.stderr


# -- what commands print and write ------------------------------------------------------------------------------------


def test_json_has_a_schema_and_no_nan() -> None:
    import numpy as np

    plain = _plain({"a": float("nan"), "b": np.float32("inf"), "c": np.arange(2), "d": Path("x"), 3: (1, None)})
    assert plain == {"a": None, "b": None, "c": [0, 1], "d": "x", "3": [1, None]}


def test_run_folder_is_named_by_verb_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = run_folder("cam", None)
    assert made.parent == Path("runs")
    assert made.name.startswith("cam-2")
    assert made.is_dir()
    assert run_folder("cam", None) != made  # also within one second
    assert run_folder("cam", tmp_path / "a" / "b") == tmp_path / "a" / "b"
