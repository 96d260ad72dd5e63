"""Coverage-guided fuzzing (atheris, libFuzzer) of every reader: what reaches new branches of Python is broken further.

    python benchmarks/fuzz_guided.py --seconds 60

Each reader runs in a process of its own for that long, starting from its valid files; a crash, an unclear error, a hang
of more than 25 s or more than 4 GB end it with the input that did it, which is written beside. Printed are the branches
that the valid files reach at first, and all that were reached in the end. Needs the extra ``gradlens[soak]``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

# the parsers in Python below each reader, which guide the fuzzer beside all of gradlens; atheris takes packages whole,
# and of torch that would be minutes
GUIDED = {
    **{f"image: {kind}": ["PIL"] for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF")},
    "images: Parquet": [],
    "images: tar shard": ["tarfile"],
    "images: NPZ": ["zipfile", "numpy"],
    "probe set": ["tomllib", "csv"],
    "class map": ["tomllib"],
    "class list": ["json"],
    "predictions: Parquet": [],
    "predictions: CSV": [],
    "predictions: NPZ": ["zipfile", "numpy"],
    "cache of outputs": [],
    "checkpoint: card": ["json"],
    "checkpoint: network": ["json"],
    "weight file": ["pickletools", "zipfile"],
    "training state": ["pickletools", "zipfile"],
    "recipe": ["tomllib"],
    "study": ["tomllib"],
    "run folder": ["json", "csv"],
}


def one(reader: str, seconds: int, corpus: Path) -> None:
    """Fuzz one reader in this process; libFuzzer ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["gradlens", *GUIDED[reader]], enable_loader_override=False):
        from fuzz.inputs import cases, outcome
        from fuzz.readers import READERS

        valid = cases(reader)  # also imports what readers import late
        place = corpus / "case"
        outcome(reader, valid[0], place)
    warnings.simplefilter("ignore")
    names = sorted(set(READERS[reader].broken))
    seeds = corpus / "seeds"
    seeds.mkdir()
    for i, case in enumerate(valid):
        for n, name in enumerate(names):
            if name in case:
                (seeds / f"{i}-{n}").write_bytes(bytes([n]) + case[name])

    def read(data: bytes) -> None:
        """The first byte says which file of a valid case the others are put in the place of."""
        name = names[data[0] % len(names)] if data else names[0]
        kind, why = outcome(reader, {**valid[0], name: data[1:]}, place)
        if kind == "failure":
            raise RuntimeError(why)

    limits = ["-rss_limit_mb=4096", "-timeout=25", "-max_len=65536", "-seed=1", f"-max_total_time={seconds}"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", f"-artifact_prefix={corpus}/", str(seeds)], read)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--reader", choices=list(GUIDED), help="this one only, in this process")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader and options.corpus:
        one(options.reader, options.seconds, options.corpus)
        return
    rows: dict[str, dict[str, object]] = {}
    print(f"{'reader':<20} {'inputs':>9} {'at first':>9} {'in the end':>10}  outcome")
    for reader in [options.reader] if options.reader else GUIDED:
        with tempfile.TemporaryDirectory() as corpus:
            own = [sys.executable, __file__, "--reader", reader, "--seconds", str(options.seconds), "--corpus", corpus]
            done = subprocess.run(own, capture_output=True, text=True, errors="replace", check=False)
            inputs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
            branches = [int(n) for n in re.findall(r"\bcov: (\d+)", done.stderr)] or [0]
            rows[reader] = row = {
                "inputs": int(inputs[1]) if inputs else 0, "first": branches[0], "last": branches[-1],
                "failed": bool(done.returncode),
            }  # fmt: skip
            print(
                f"{reader:<20} {row['inputs']:>9,} {row['first']:>9} {row['last']:>10}  "
                f"{f'FAILURE ({done.returncode})' if row['failed'] else 'no failure'}",
                flush=True,
            )
            if done.returncode:
                print(done.stderr[-3000:], file=sys.stderr)
                for left in Path(corpus).glob("*-*"):
                    left.rename(Path.cwd() / f"fuzz-{left.name}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema": 1, "seconds": options.seconds, "readers": rows}
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["failed"] for row in rows.values()))


if __name__ == "__main__":
    main()
