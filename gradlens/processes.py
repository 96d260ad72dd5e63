"""Several processes that work on one thing together, as ``torchrun`` starts them, on one machine or on many.

What they share is torch's: the rendezvous, its store and its process group. Here stands what a person sees of it: the
first process speaks for all, an error is said once and by whom, and where one process dies the others stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from gradlens.errors import GradlensError, ToldElsewhereError

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")
NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torch's env:// rendezvous
PATIENCE = timedelta(days=30)  # shares of one evaluation may differ by hours, and a death is noticed otherwise
LOOK = 0.05  # seconds between two looks at whether the others have come
OTHER_ENDED = (
    "another process of this run ended before its work was done (killed, out of memory, or its machine is gone); "
    "what was finished is kept, and the same command goes on from there"
)


@dataclass(frozen=True)
class Processes:
    """The processes of a run; :data:`ALONE` where there is one.

    Attributes:
        rank: of this one, from 0.
        world: how many there are, on all machines together.
        local: of this one, on its machine.
        host: its machine's name.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    host: str = ""
    _store: Any = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    def meet(self) -> None:
        """Return when all processes have come here.

        Raises:
            GradlensError: one of them has ended.
        """
        if self.several:
            import torch
            import torch.distributed as dist

            work = dist.all_reduce(torch.zeros(1), async_op=True)
            while not work.is_completed():  # a wait inside torch would hear no signal
                time.sleep(LOOK)
            work.wait()

    def same(self, value: T) -> T:
        """The first process's value (of plain types), on all of them."""
        if not self.several:
            return value
        import torch.distributed as dist

        self.meet()
        held = [value]
        dist.broadcast_object_list(held, src=0, weights_only=True)
        return held[0]

    def all(self, value: T) -> list[T]:
        """Every process's value (of plain types), by rank, on all of them."""
        if not self.several:
            return [value]
        import torch.distributed as dist

        self.meet()
        found = [value] * self.world
        dist.all_gather_object(found, value, weights_only=True)
        return found

    def align(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: the statistics of norms that each of them kept on its own."""
        if self.several:
            import torch.distributed as dist

            for buffer in module.buffers():
                dist.broadcast(buffer.data, src=0)

    def share(self, batch: torch.Tensor) -> torch.Tensor:
        """This process's part of a batch that all of them work on: each ``world``-th row, from the ``rank``-th."""
        return batch[self.rank :: self.world]

    def _is_first_to_speak(self) -> bool:
        try:
            return bool(self._store.add("gradlens/told", 1) == 1)
        except Exception:  # the store's machine is gone, and with it whoever would have spoken there
            return True


ALONE = Processes()


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, world) as the launcher says; (0, 1) where there is none. Imports nothing."""
    if not all(environment.get(name) for name in NAMES):
        return 0, 1
    try:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    except ValueError:
        return 0, 1


@contextlib.contextmanager
def together() -> Iterator[Processes]:
    """The process group that the launcher wants, for the length of a ``with`` block; :data:`ALONE` without a launcher.

    An error that ends the block on any process leaves it as it is on the process that was the first to fail, with
    that process's rank, and as :class:`~gradlens.errors.ToldElsewhereError` on all others.
    """
    rank, world = launched()
    if world == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    local, host = int(os.environ.get("LOCAL_RANK", 0)), socket.gethostname()
    try:
        store, _, _ = next(rendezvous("env://", rank, world, timeout=timedelta(minutes=10)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    except (RuntimeError, ValueError) as err:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise GradlensError(
            f"process {rank} of {world} on {host} could not meet the others at {where}: {_first_line(err)}"
        ) from err
    processes = Processes(rank, world, local, host, store)
    try:
        with _stopped_by_signal():
            yield processes
    except BaseException as err:
        if not processes._is_first_to_speak():
            code = getattr(err, "exit_code", 130 if isinstance(err, KeyboardInterrupt) else 1)
            raise ToldElsewhereError(code) from err
        if isinstance(err, GradlensError) and rank and not isinstance(err, _OtherEndedError):
            raise GradlensError(f"process {rank} of {world} on {host}: {err}") from err
        if _lost(err):
            raise _OtherEndedError(OTHER_ENDED) from err
        raise
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


class _OtherEndedError(GradlensError):
    """Another process of this run is gone."""


@contextlib.contextmanager
def _stopped_by_signal() -> Iterator[None]:
    """Have a SIGTERM, which the launcher sends when a process died, end the work as an error does: what is there is
    kept.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _OtherEndedError(OTHER_ENDED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lost(err: BaseException) -> bool:
    """Whether an error of torch means that another process cannot be reached any more."""
    import torch.distributed as dist

    return isinstance(err, dist.DistError) or (isinstance(err, RuntimeError) and "gloo" in str(err).lower())


def _first_line(err: BaseException) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
