"""Weight files: read without running them, and fitted to a network wholly or not at all."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from gradlens.errors import CheckpointError

# where training scripts put the weights inside what they save; averaged weights first, as timm does
NESTS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
)
MOST_TENSORS = 50_000  # the largest networks have a few thousand
FREE_BYTES, SHARED = 2**26, 16  # tensors may share their numbers (tied weights), but not all with one another
# what wrappers put before every name: DataParallel, torch.compile, AveragedModel, Lightning modules
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weight file, unwrapped: safetensors, or what ``torch.save`` writes.

    A pickle is read with ``weights_only=True``: what would run code is refused, never run.

    Raises:
        CheckpointError: there is no such file, it is cut short, would run code, or holds no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}")
    document = read_tensors(path) if is_safetensors(path) else _read_pickle(path)
    return _unwrapped(document, path)


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the ages of pickles
            _check_plain(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        unsafe = _unsafe_globals(path)
        if unsafe:
            raise CheckpointError(
                f"{path} is a pickle that would run code ({', '.join(unsafe[:4])}"
                f"{', ...' if len(unsafe) > 4 else ''}); it was not loaded. Save the bare weights where you trust it: "
                "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            ) from err
        raise CheckpointError(f"{path} is no weight file that torch or safetensors can read") from err
    except CheckpointError:
        raise
    except Exception as err:  # torch raises a dozen kinds for a file that is none of its own
        why = str(err).strip().partition("\n")[0] or type(err).__name__
        raise CheckpointError(f"{path} is no weight file, or is cut short: {why}") from err


def _check_plain(path: Path) -> None:
    """Refuse a zip archive whose members are compressed: torch never writes one, and it could hold any amount."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > m.compress_size for m in archive.infolist()):
            raise CheckpointError(f"{path} is a compressed zip archive; expected a file that torch.save wrote")


def _unsafe_globals(path: Path) -> list[str]:
    """Names that a pickle would import, found without running it."""
    if zipfile.is_zipfile(path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError):  # a zip archive, but none of torch's
            return []
    return sorted(set(_imports(path.read_bytes())))


def _imports(data: bytes) -> list[str]:
    """``module.name`` of every import in bare pickles, one after the other as torch wrote them before 2020, but for
    those that torch allows by itself."""
    found: list[str] = []
    strings: list[str] = []
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        try:
            for opcode, argument, _ in pickletools.genops(stream):  # ends at a pickle's STOP
                if opcode.name == "GLOBAL":
                    found.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                    found.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
        except ValueError:
            break  # no pickle from here on (the tensors' bytes): what was found before still stands
    return [f for f in found if not f.startswith(("torch.", "collections.OrderedDict"))]


def _unwrapped(document: Any, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(document, Mapping) and not any(isinstance(v, torch.Tensor) for v in document.values()):
        inner = next((document[k] for k in NESTS if isinstance(document.get(k), Mapping)), None)
        if inner is None:
            break
        document = inner
    if isinstance(document, Mapping):
        nested = next((document[k] for k in NESTS if isinstance(document.get(k), Mapping)), None)
        document = nested if nested is not None else document  # an EMA's counter may lie beside its weights
        state = {str(k): v for k, v in document.items() if isinstance(v, torch.Tensor)}
        if state:
            _check_dense(state, path)
            return {k: v for k, v in state.items() if k != "n_averaged"}  # AveragedModel counts its updates there
        keys = ", ".join(map(str, list(document)[:6])) or "nothing"
        raise CheckpointError(f"{path} holds no weights under state_dict, model or the like; it holds: {keys}")
    raise CheckpointError(f"{path} holds {type(document).__name__}, expected a dictionary of tensors")


def _check_dense(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse sparse and quantised tensors, and views that show a few numbers as billions."""
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise CheckpointError(f"{path}: {name} is {kind}; expected plain dense tensors")
    shown = sum(t.numel() * t.element_size() for t in state.values())
    size = path.stat().st_size
    if shown > FREE_BYTES + SHARED * size:
        raise CheckpointError(
            f"{path}: {size:,} bytes claim to hold tensors of {shown:,}; it is damaged, or made to fill the memory"
        )


def fitted(module: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``state`` under the network's own names: wrappers' prefixes off, batch norm's counters (new in 2018) filled in.

    Of the ways to read the names, the one that leaves the fewest tensors without a place is taken; nothing is dropped.
    """
    expected = module.state_dict()

    def strangers(candidate: Mapping[str, torch.Tensor]) -> int:
        return len(set(candidate) ^ set(expected))

    best = current = dict(state)
    while prefix := next((p for p in WRAPPERS if current and all(k.startswith(p) for k in current)), None):
        current = {k.removeprefix(prefix): v for k, v in current.items()}
        if strangers(current) < strangers(best):
            best = current
    counters = {k: v for k, v in expected.items() if k.endswith("num_batches_tracked") and k not in best}
    known_norms = {k for k in counters if k.replace("num_batches_tracked", "running_mean") in best}
    return {**best, **{k: counters[k] for k in known_norms}}


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as safetensors files do, whatever its name: a length, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (start[8:9] == b"{" and not start.startswith((b"PK", b"\x80")))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is cut short or is no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            count = len(file.keys())
        if count > MOST_TENSORS:
            raise CheckpointError(f"{path} holds {count:,} tensors; expected a network's, at most {MOST_TENSORS:,}")
        return dict(load_file(path))
    except FileNotFoundError:
        raise CheckpointError(f"there is no weight file {path}") from None
    except (SafetensorError, ValueError, RuntimeError, MemoryError, OSError) as err:
        raise CheckpointError(f"{path} is not a whole safetensors file: {str(err).partition(chr(10))[0]}") from err


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file that others may read as the umask has it; the library's ``save_file`` shuts all but the
    owner out.

    Raises:
        OSError: as any writing does.
    """
    path.write_bytes(save({name: t.contiguous() for name, t in tensors.items()}, metadata={"format": "pt"}))


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor], where: Path) -> None:
    """Load all of ``state`` into all of ``module``, or nothing: never a part.

    Raises:
        CheckpointError: keys are missing or unexpected, shapes differ, or values are not finite; lists the first few.
    """
    faults = list(misfits(module, state))
    if faults:
        raise CheckpointError(f"{where} does not fit the network: " + "; ".join(faults))
    infinite = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if infinite:
        raise CheckpointError(f"{where} holds values that are not finite, first in {infinite[0]}")
    # the module's own state dict carries the versions of its layers' formats, which torchvision's MNASNet insists on
    whole = module.state_dict()
    whole.update({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    module.load_state_dict(whole)


def misfits(module: nn.Module, state: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """One clause each for missing, unexpected and mis-shaped tensors, where there are any."""
    expected = module.state_dict()
    missing = [k for k in expected if k not in state]
    unexpected = [k for k in state if k not in expected]
    shaped = [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(expected[k].shape)}"
        for k in expected
        if k in state and state[k].shape != expected[k].shape
    ]
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shaped)):
        if keys:
            more = f", ... and {len(keys) - 4} more" if len(keys) > 4 else ""
            yield f"{len(keys)} {what} ({', '.join(keys[:4])}{more})"


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
