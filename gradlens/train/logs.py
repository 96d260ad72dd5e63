"""Training logs beside ``metrics.jsonl``: TensorBoard's, and Weights & Biases' in its offline form.

Both are written to the run's own folder and nowhere else: nothing is sent. What a run that was cut short had logged
beyond its last finished epoch is replaced in TensorBoard's when it goes on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gradlens.errors import InstallationError
from gradlens.registry import Registry
from gradlens.train.loop import Epoch


class Log(Protocol):
    """Somewhere that named numbers are written to, each at a step counted from 1."""

    def __init__(self, folder: Path, *, first: int, name: str, settings: Mapping[str, Any]) -> None: ...

    @staticmethod
    def package() -> Any:
        """What it is written with; raises InstallationError where that is not installed."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step; steps never go backwards."""

    def close(self) -> None:
        """Write what is still held back."""


LOGS: Registry[type[Log]] = Registry("log")


@LOGS.register("tensorboard")
class TensorBoard:
    """Event files for ``tensorboard --logdir``."""

    def __init__(self, folder: Path, *, first: int, name: str, settings: Mapping[str, Any]) -> None:
        # what lies there from this step on is of an epoch that was not finished
        self._writer = self.package().SummaryWriter(str(folder), purge_step=first)

    @staticmethod
    def package() -> Any:
        """torch's writer of event files."""
        try:
            from torch.utils import tensorboard
        except ImportError as err:
            raise InstallationError("--log tensorboard needs TensorBoard; run: pip install 'gradlens[train]'") from err
        return tensorboard

    def write(self, values: Mapping[str, float], step: int) -> None:
        """One scalar per name."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


@LOGS.register("wandb")
class WeightsAndBiases:
    """An offline run, which ``wandb sync`` uploads where somebody wants that."""

    def __init__(self, folder: Path, *, first: int, name: str, settings: Mapping[str, Any]) -> None:
        wandb = self.package()
        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
        )
        self._run = wandb.init(
            mode="offline", project="gradlens", name=name or None, dir=str(folder), config=dict(settings),
            settings=quiet, reinit="create_new",
        )  # fmt: skip

    @staticmethod
    def package() -> Any:
        """The wandb package."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        try:
            import wandb
        except ImportError as err:
            raise InstallationError("--log wandb needs Weights & Biases; run: pip install 'gradlens[wandb]'") from err
        return wandb

    def write(self, values: Mapping[str, float], step: int) -> None:
        """One row; rows of one step are one."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run, and wait until its file is whole."""
        self._run.finish()
        self.package().teardown()  # finish() leaves an offline run's writing to a process of its own


class Logs:
    """Hands what the loop reports to every log that was asked for.

    Per step: ``loss/batch``, ``accuracy/batch``, ``lr``. Per epoch, at its last step: ``loss/train``, ``loss/select``,
    ``accuracy/train``, ``accuracy/select``, ``epoch``, ``seconds``.
    """

    def __init__(self, kinds: Sequence[str], folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self._kinds, self._folder, self._name, self._settings = tuple(dict.fromkeys(kinds)), folder, name, settings
        self._open: list[Log] = []
        self._step = 0

    def step(self, values: Mapping[str, float]) -> None:
        """Takes what :func:`gradlens.train.loop.train` hands to ``on_step``."""
        self._step = int(values["step"])
        if not self._open:  # only now is it known at which step a run that was cut short goes on
            self._open = [
                LOGS[kind](self._folder / kind, first=self._step, name=self._name, settings=self._settings)
                for kind in self._kinds
            ]
        self._write({"loss/batch": values["loss"], "accuracy/batch": values["accuracy"], "lr": values["lr"]})

    def epoch(self, epoch: Epoch) -> None:
        """Takes what it hands to ``on_epoch``."""
        self._write(
            {
                "loss/train": epoch.loss,
                "loss/select": epoch.select_loss,
                "accuracy/train": epoch.accuracy,
                "accuracy/select": epoch.select_accuracy,
                "epoch": epoch.epoch,
                "seconds": epoch.seconds,
            }
        )

    def _write(self, values: Mapping[str, float]) -> None:
        for log in self._open:
            log.write(values, self._step)

    def close(self) -> None:
        """Close every log."""
        for log in self._open:
            log.close()


@contextlib.contextmanager
def open_logs(
    kinds: Sequence[str], folder: Path, *, name: str = "", settings: Mapping[str, Any] | None = None
) -> Iterator[Logs]:
    """The logs that ``kinds`` name; closed when the block ends.

    Args:
        kinds: names of :data:`LOGS`.
        folder: of the run; each kind has a folder of its own name in it.
        name: of the run, for logs that show several.
        settings: of the run, for logs that keep them.

    Raises:
        NotFoundError: no log of that name.
        InstallationError: its library is not installed.
    """
    for kind in kinds:
        LOGS[kind].package()  # a missing one ends it here, not at the first step
    logs = Logs(kinds, folder, name, settings or {})
    try:
        yield logs
    finally:
        logs.close()
