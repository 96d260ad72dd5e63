"""Broken inputs for every reader: results, clear errors, and failures, of which there should be none.

    python benchmarks/fuzz.py --inputs 20000 --out fuzz.json

Each input is read in a process that may take ``--seconds`` of the processor and ``--memory`` more than it has when it
starts; one that dies, hangs or takes more is a failure, and so is any exception but a clear error of one line. Inputs
are numbered and the same everywhere: ``--reader "image: GIF" --number 17`` reads one again and shows what happens.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def limited(memory: int) -> None:
    """Keep this process from taking more than ``memory`` bytes beyond what it has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def work(told: Connection, memory: int) -> None:
    """Read inputs by number, or bombs by name, and say what became of each."""
    import torch

    from fuzz.bombs import BOMBS
    from fuzz.inputs import case, outcome

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff speaks of every broken tag
    limited(memory)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        while True:
            reader, which = told.recv()
            given = case(reader, which) if isinstance(which, int) else BOMBS[which][1]()
            told.send(None)  # from here on the time counts
            told.send(outcome(reader, given, Path(place) / "case"))


class Worker:
    """A process that reads; another one takes its place when it is gone."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.start()

    def start(self) -> None:
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        self.told = ours
        self.process = multiprocessing.get_context("fork").Process(target=work, args=(theirs, self.memory), daemon=True)
        self.process.start()
        theirs.close()

    def worked(self) -> float:
        """Seconds of the processor that the process has had: another's work on this machine is no fault of ours."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def read(self, reader: str, which: int | str, seconds: float) -> tuple[str, str]:
        """(kind, message) of one input; kind is ``result``, ``error`` or ``failure``."""
        try:
            self.told.send((reader, which))
            self.told.recv()
            before, started = self.worked(), time.monotonic()
            while self.worked() - before < seconds and time.monotonic() - started < 15 * seconds:
                if self.told.poll(0.5):
                    return self.told.recv()
            fault = f"longer than {seconds:g} s of work, or {15 * seconds:g} s in all"
        except (EOFError, OSError):
            self.process.join()
            fault = f"the process died ({self.process.exitcode})"
        self.process.kill()
        self.process.join()
        self.start()
        return "failure", fault


def numbers(inputs: int) -> Iterator[tuple[str, int]]:
    """Readers and numbers: cheap readers more often, every reader at least once in fifty."""
    from fuzz.readers import READERS

    weights = {name: 1 / reader.cost for name, reader in READERS.items()}
    whole = sum(weights.values())
    for name, weight in weights.items():
        for number in range(max(inputs // 200, round(inputs * weight / whole))):
            yield name, number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=20, help="of the processor, per input")
    parser.add_argument("--memory", type=float, default=3, help="per input, in GiB")
    parser.add_argument("--reader", help="of the one input to read")
    parser.add_argument("--number", type=int, help="of the one input to read")
    parser.add_argument("--out", type=Path, default=None, help="JSON")
    options = parser.parse_args()
    from fuzz.bombs import BOMBS
    from fuzz.readers import READERS

    memory = int(options.memory * 2**30)
    worker = Worker(memory)
    if options.reader:
        print(*worker.read(options.reader, options.number, options.seconds), sep="\n")
        return
    started, shown, slowest = time.monotonic(), time.monotonic(), 0.0
    counts: dict[str, Counter[str]] = {name: Counter() for name in READERS}
    failures: list[dict[str, object]] = []
    todo = [*numbers(options.inputs), *((reader, name) for name, (reader, _) in BOMBS.items())]
    for done, (reader, which) in enumerate(todo, start=1):
        before = time.monotonic()
        kind, message = worker.read(reader, which, options.seconds)
        counts[reader][kind] += 1
        if isinstance(which, int):
            slowest = max(slowest, time.monotonic() - before)
        if kind == "failure":
            failures.append({"reader": reader, "input": which, "what": message})
            print(f"FAILURE {reader} {which}: {message.strip().splitlines()[-1][:200]}", file=sys.stderr, flush=True)
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"{done:,} of {len(todo):,}, {len(failures)} failures", file=sys.stderr, flush=True)
    rows = [("reader", "inputs", "results", "clear errors", "failures")]
    rows += [(n, *(f"{c:,}" for c in (k.total(), k["result"], k["error"], k["failure"]))) for n, k in counts.items()]
    whole = sum(counts.values(), Counter[str]())
    rows.append(("all", *(f"{c:,}" for c in (whole.total(), whole["result"], whole["error"], whole["failure"]))))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))
    minutes = (time.monotonic() - started) / 60
    print(f"{minutes:.1f} min; the slowest of the numbered inputs took {slowest:.1f} s; {len(BOMBS)} bombs among them")
    if options.out is not None:
        document = {
            "schema": 1, "inputs": whole.total(), "bombs": len(BOMBS), "seconds": options.seconds, "memory": memory,
            "slowest": slowest, "minutes": minutes, "readers": {n: dict(k) for n, k in counts.items()},
            "failures": failures,
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
