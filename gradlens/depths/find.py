"""Depths of a classifier, found rather than listed.

A depth is a module output that every path from the pixels to the logits crosses (a cut of the autograd graph) and
that is spatial: a feature map or a token grid. One forward pass with the image requiring grad notes every module's
output; one sweep of the graph tells which are cuts (:mod:`gradlens.depths.graph`); one to three more passes of six
images settle and check each one's layout (:mod:`gradlens.depths.layout`).

What the cuts are thinned to, in forward order:

- outputs with nothing but normalisation, activation or reshaping between them are one depth;
- steps inside a block are dropped. A convolution or matrix product whose output is no cut has something skipping past
  it; a block is the innermost module around it whose output is a cut again (the end of the skip), every other module of
  its class, and every module at the same place in the repeated structure (``blocks.0.0`` beside ``blocks.1.0``). Where
  blocks lie in one another (a convolution with a skip of its own inside a transformer block), the outer one counts;
- modules without a skip whose class repeats (DenseNet's transitions, the blocks of a plain network) are one depth each.
"""

from __future__ import annotations

import bisect
import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gradlens.depths.graph import Cuts, find_cuts
from gradlens.depths.layout import ATTEMPTS, Attempt, Reading, check, probe_images, readings, relay
from gradlens.depths.modules import hooked, undisturbed, unwrap
from gradlens.errors import DepthError, ModelError, NotFoundError
from gradlens.records import HookPoint
from gradlens.zoo.outputs import logits_of

MOST_IN_PARALLEL = 0.25  # of a network's layers may lie outside its depths before that is worth a word
STAGES_OF_A_COLUMN = 5  # depths that `stages` picks where the resolution never changes

# Leaf modules that only hand their input on in evaluation mode: no depth is named after one.
# Pooling to a fixed size is the classifier's head.
_IDLE = re.compile(r"Dropout|Identity|DropPath|StochasticDepth|Flatten|Permute|Adaptive\w*Pool")


_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(eq=False)
class _Output:
    """One module output of the discovery pass."""

    path: str
    call: int
    module: nn.Module
    node: Any
    number: int
    tensor: torch.Tensor | None  # dropped once its gradient has been looked at
    shape: tuple[int, ...]
    version: int
    flops: int
    reading: Reading | None  # the most plausible one; None if it is no spatial grid
    rank: int | None = None  # in the graph's topological order; None off the way to the logits
    cut: bool = False
    overwritten: bool = False

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.call

    @property
    def is_own_container(self) -> bool:
        """A module with children that is more than a list of them."""
        return type(self.module) not in _LISTS and any(True for _ in self.module.children())

    @property
    def working_leaves(self) -> int:
        return sum(1 for m in self.module.modules() if _works(m))


def _works(module: nn.Module) -> bool:
    return not any(True for _ in module.children()) and any(p.ndim >= 2 for p in module.parameters(recurse=False))


@dataclass(frozen=True)
class Depths:
    """The depths of one model for one input size.

    Attributes:
        points: all of them (``all``), in forward order.
        input_size: (height, width) in pixels they were found at.
        note: what somebody should know, e.g. why there are few; empty if nothing.
    """

    points: tuple[HookPoint, ...]
    input_size: tuple[int, int]
    note: str
    _finder: _Finder = field(repr=False, compare=False)

    def select(self, layers: Sequence[str]) -> tuple[HookPoint, ...]:
        """The depths that selectors, numbers, names and globs pick, in forward order, each once.

        Args:
            layers: any of ``stages``, ``blocks``, ``all``, ``last``, a number (that many depths, from first to last),
                a module path, a glob over module paths.

        Raises:
            NotFoundError: no module has that name or matches that glob.
            DepthError: what was picked is no spatial output, or failed the layout check.
        """
        picked: dict[str, HookPoint] = {}
        usable = [p for p in self.points if p.verified is not False]
        for layer in layers:
            if layer == "all":
                chosen = usable
            elif layer in ("stages", "blocks", "last"):
                chosen = [p for p in usable if layer in p.selectors]
            elif layer.isdigit():
                chosen = _spread(usable, int(layer))
            else:
                chosen = self._named(layer)
            if not chosen:
                reason = self.note or "every depth failed its layout check"
                raise DepthError(f"no depth for --layers {layer}: {reason}; see: gradlens layers")
            picked |= {p.name: p for p in chosen}
        return tuple(sorted(picked.values(), key=lambda p: p.position))

    def _named(self, layer: str) -> list[HookPoint]:
        found = self._finder.named(layer, {p.name: p for p in self.points})
        if not found:
            raise NotFoundError("layer", layer, self._finder.names(), "see: gradlens layers")
        for p in found:
            if p.verified is False:
                raise DepthError(
                    f"the cells of {p.name!r} are not where its layout ({p.layout}, {p.shape[1]} x {p.shape[2]}) says: "
                    "moving a patch of the image moved another cell; a map of it would be wrong, so it is refused"
                )
        return found


def find_depths(model: nn.Module, image: torch.Tensor) -> Depths:
    """Find the depths of a classifier.

    Costs one forward and one backward pass of one image, and one to three forward passes of six.

    Args:
        model: a classifier; left exactly as it was.
        image: (1, 3, H, W) float, an input of the size that the maps will be made for (content matters little).

    Raises:
        ModelError: the model returns no (N, K) logits, or they do not depend on the pixels.
    """
    return _Finder(unwrap(model), image).find()


class _Finder:
    """The state of one discovery; kept by :class:`Depths` to answer for modules named by hand."""

    def __init__(self, model: nn.Module, image: torch.Tensor) -> None:
        if image.ndim != 4 or image.shape[0] != 1:
            raise ModelError(f"expected one image as (1, 3, H, W), got {tuple(image.shape)}")
        self.model = model
        self.image = image.detach()
        self.size = (int(image.shape[-2]), int(image.shape[-1]))
        self.modules = {
            path: m for path, m in model.named_modules() if path and not isinstance(m, torch.jit.ScriptModule)
        }  # scripted parts of a network take no hooks
        self.readings: dict[tuple[int, ...], list[Reading]] = {}  # by shape of an output
        self.outputs: list[_Output] = []
        self.relays: dict[tuple[str, int], Reading] = {}  # cuts that passed the check, and how they are read
        self.total_flops = 0

    def find(self) -> Depths:
        cuts = self._look()
        spatial = [o for o in self.outputs if o.cut and o.reading is not None]
        chosen, ends_block = _thin(spatial, self.outputs, cuts)
        settled = self._settle(chosen)
        reached = self._reached(chosen, self.logits) if chosen else set()
        if chosen and not reached:
            reached = self._reached_past_zeros(chosen)
        points = [self._point(o, settled[o.key], o.key in ends_block) for o in chosen]
        usable = [i for i, p in enumerate(points) if p.verified is not False]
        live = [i for i in usable if chosen[i].key in reached]
        notes = []
        if not chosen:
            notes.append("no spatial module output is crossed by every path from the pixels to the logits")
        if usable:
            last = (live or usable)[-1]
            points[last] = _add(points[last], "last")
            points[: last + 1] = _with_stages(points[: last + 1])
        if usable and not live:
            notes.append("with these weights the gradient is zero at every depth, so `last` is simply the deepest")
        notes += self._in_parallel(chosen)
        del self.logits
        for o in self.outputs:
            o.tensor = o.node = None
        refused = [p.name for p in points if p.verified is False]
        if refused:
            notes.append(f"{len(refused)} of {len(points)} depths failed the layout check and are refused")
        return Depths(tuple(points), self.size, "; ".join(notes), self)

    def names(self) -> list[str]:
        """Names of every module output seen, ``#call`` where there are several."""
        return [o.path if o.call == 1 else f"{o.path}#{o.call}" for o in self.outputs]

    def named(self, pattern: str, known: dict[str, HookPoint]) -> list[HookPoint]:
        """Hook points for modules named by hand, exactly or by glob; empty if none matches.

        A glob picks spatial outputs only; a name must be one.
        """
        outputs = dict(zip(self.names(), self.outputs, strict=True))
        if pattern in outputs:
            matched = [pattern]
            if outputs[pattern].reading is None:
                raise DepthError(
                    f"expected the output of {pattern!r} to be a feature map or a token grid, "
                    f"got a tensor of shape {outputs[pattern].shape}"
                )
        else:
            matched = [n for n, o in outputs.items() if o.reading is not None and fnmatch.fnmatchcase(n, pattern)]
        new = [outputs[n] for n in matched if n not in known]
        settled = self._settle(new)
        made = {o.key: self._point(o, settled[o.key], False) for o in new}
        return [known[n] if n in known else made[outputs[n].key] for n in matched]

    def _look(self) -> Cuts:
        """The discovery pass: every module's output, its node, its version, the work done until then."""
        counter = FlopCounterMode(display=False)
        raw: list[_Output] = []

        def see(path: str, call: int, tensor: torch.Tensor) -> None:
            if tensor.grad_fn is not None and tensor.is_floating_point():
                raw.append(
                    _Output(
                        path, call, self.modules[path], tensor.grad_fn, tensor.output_nr, tensor, tuple(tensor.shape),
                        tensor._version, counter.get_total_flops(), None,
                    )
                )  # fmt: skip

        with undisturbed(self.model):
            pixels = self.image.clone().requires_grad_(True)
            with hooked(self.modules, see), counter:
                logits = logits_of(self.model(pixels))
            if logits.grad_fn is None:
                raise ModelError("the logits do not depend on the pixels through anything differentiable")
            cuts = find_cuts(logits, pixels)
        self.logits = logits
        self.total_flops = counter.get_total_flops()
        for o in raw:
            o.rank = cuts.position.get(o.node)
            o.cut = o.rank is not None and cuts.is_cut(o.node, o.number)
            o.overwritten = o.tensor is not None and o.tensor._version != o.version
        shapes = dict.fromkeys(o.shape for o in raw)
        maps = [r for shape in shapes if len(shape) == 4 for r in readings(shape, self.size)[:1]]
        seen, prefix = [(r.rows, r.columns) for r in maps], _declared_prefix(self.model)
        self.readings = {shape: readings(shape, self.size, seen, prefix) for shape in shapes}
        for o in raw:
            o.reading = next(iter(self.readings[o.shape]), None)
        self.outputs = raw
        return cuts

    def _in_parallel(self, chosen: list[_Output]) -> list[str]:
        """What to know if much of the network's work lies in parallel branches that no depth closes; mostly nothing."""
        ranks = [o.rank or 0 for o in chosen]
        tensors = {(o.rank, o.number) for o in chosen}
        closed = {o.path for o in self.outputs if (o.rank, o.number) in tensors}
        closed |= {o.path for o in self.outputs if o.cut and o.reading is None and len(o.shape) > 2}  # one cell is left
        leaves = [o for o in self.outputs if o.rank is not None and _works(o.module)]
        between: dict[int, list[_Output]] = defaultdict(
            list
        )  # layers that something skips past, by the depth after them
        for o in leaves:
            if not o.cut:
                between[bisect.bisect_left(ranks, o.rank or 0)].append(o)
        hidden = []
        for part in between.values():
            outside = [o for o in part if not closed & set(_ancestors(o.path))]
            hidden += outside if 2 * len(outside) > len(part) else []  # else a block's modules, some shared by blocks
        if len(hidden) <= MOST_IN_PARALLEL * len(leaves):
            return []
        around = {path for o in hidden for path in _ancestors(o.path)}
        grids = {o.path: o for o in self.outputs if o.path in around and o.reading is not None and not o.cut}
        outer = _outermost(set(grids))
        largest = sorted((o for o in grids.values() if o.path in outer), key=lambda o: -o.working_leaves)[:3]
        settled = self._settle(largest)
        named = [o.path for o in grids.values() if o in largest and settled[o.key][1] is not False]
        hint = f"; modules named by hand work there, e.g. {', '.join(named)}" if named else ""
        return [f"{len(hidden)} of {len(leaves)} layers lie in parallel branches that no single output closes{hint}"]

    def _reached(self, outputs: list[_Output], logits: torch.Tensor) -> set[tuple[str, int]]:
        """Which of these have a gradient that is not zero in every cell of their grid (for the predicted class)."""
        tensors = [o.tensor for o in outputs if o.tensor is not None]  # none was let go yet
        with torch.inference_mode(False), torch.enable_grad():
            gradients = torch.autograd.grad(logits.max(), tensors, allow_unused=True)
        return {
            o.key
            for o, g in zip(outputs, gradients, strict=True)
            if g is not None and o.reading is not None and bool(o.reading.grid(g).abs().max() > 0)
        }

    def _reached_past_zeros(self, outputs: list[_Output]) -> set[tuple[str, int]]:
        """:meth:`_reached` with noise for weights that are zero throughout: an untrained head often starts so."""
        generator = torch.Generator().manual_seed(0)
        noise = {
            name: (torch.randn(p.shape, generator=generator) * 0.02).to(p)
            for name, p in self.model.named_parameters()
            if p.ndim >= 2 and not p.any()
        }
        seen: dict[tuple[str, int], torch.Tensor] = {}

        def see(path: str, call: int, tensor: torch.Tensor) -> None:
            seen[path, call] = tensor

        with undisturbed(self.model), hooked({o.path: o.module for o in outputs}, see):
            pixels = self.image.clone().requires_grad_(True)
            logits = logits_of(torch.func.functional_call(self.model, noise, (pixels,)))
        return self._reached([replace(o, tensor=seen[o.key]) for o in outputs], logits)

    def _settle(self, outputs: list[_Output]) -> dict[tuple[str, int], tuple[Reading, bool | None]]:
        """Choose each output's reading by the perturbation check: the first that passes, else the most plausible."""
        options = {o.key: self.readings[o.shape] for o in outputs}
        verdicts: dict[tuple[str, int], dict[Reading, bool | None]] = defaultdict(dict)
        for attempt in ATTEMPTS:
            pending = {k: o for k, o in options.items() if True not in verdicts[k].values()}
            if not pending:
                break
            generator = torch.Generator().manual_seed(0)
            base = torch.randn(self.image.shape, generator=generator).to(self.image) * 0.3
            batch = probe_images(base, attempt.side, attempt.strength, generator)
            asked = {path: self.modules[path] for path, _ in [*pending, *(self.relays if attempt.relayed else ())]}
            see = self._judge(pending, verdicts, attempt, {o.key for o in outputs if o.cut})
            with undisturbed(self.model), torch.no_grad(), hooked(asked, see):
                self.model(batch)
        return {key: _decide(options[key], verdicts[key]) for key in options}

    def _judge(
        self,
        pending: dict[tuple[str, int], list[Reading]],
        verdicts: dict[tuple[str, int], dict[Reading, bool | None]],
        attempt: Attempt,
        cuts: set[tuple[str, int]],
    ) -> Callable[[str, int, torch.Tensor], torch.Tensor | None]:
        """What to do with each output for :func:`probe_images`: try its readings until one passes, then relay."""

        def see(path: str, call: int, tensor: torch.Tensor) -> torch.Tensor | None:
            key = path, call
            for reading in pending.get(key, ()):
                verdict = check(tensor, reading, self.size, attempt.side)
                if verdict is not None or reading not in verdicts[key]:
                    verdicts[key][reading] = verdict
                if verdict:
                    if key in cuts:
                        self.relays[key] = reading
                    break
            if attempt.relayed and key in self.relays:
                return relay(tensor, self.relays[key], attempt, self.size)
            return None

        return see

    def _point(self, o: _Output, settled: tuple[Reading, bool | None], block: bool) -> HookPoint:
        reading, verified = settled
        channels = o.shape[1] if reading.layout == "NCHW" else o.shape[-1]
        return HookPoint(
            path=o.path,
            call=o.call,
            shape=(channels, reading.rows, reading.columns),
            stride=(self.size[0] / reading.rows, self.size[1] / reading.columns),
            layout=reading.layout,
            prefix=reading.prefix,
            position=o.flops / self.total_flops if self.total_flops else 0.0,
            verified=verified,
            selectors=("blocks",) if block else (),
            cut=o.cut,
            overwritten=o.overwritten,
        )


def _decide(options: list[Reading], verdicts: dict[Reading, bool | None]) -> tuple[Reading, bool | None]:
    passed = [r for r in options if verdicts.get(r) is True]
    if passed:
        return passed[0], True
    if all(verdicts.get(r) is None for r in options):
        return options[0], None
    return options[0], verdicts.get(options[0])


def _declared_prefix(model: nn.Module) -> int | None:
    """The number of prefix tokens that the model declares (timm: ``num_prefix_tokens``), if it does."""
    for module in model.modules():
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count
    return None


def _by_tensor(outputs: list[_Output]) -> list[list[_Output]]:
    """Outputs grouped by the tensor they are (a block, its last layer and its stage share one), in forward order."""
    groups: dict[tuple[int, int], list[_Output]] = defaultdict(list)
    for o in outputs:
        assert o.rank is not None
        groups[o.rank, o.number].append(o)
    return [groups[k] for k in sorted(groups)]


def _thin(spatial: list[_Output], outputs: list[_Output], cuts: Cuts) -> tuple[list[_Output], set[tuple[str, int]]]:
    """One output per depth, in forward order, and the keys of those that end a block."""
    tensors = _by_tensor(spatial)
    skipping, plain = _block_paths(tensors, outputs)
    blocks = skipping | plain
    # 1. runs of tensors with no real work between them are one depth
    runs: list[list[list[_Output]]] = []
    for group in tensors:
        if runs and _same_depth(runs[-1][-1][0], group[0], cuts):
            runs[-1].append(group)
        else:
            runs.append([group])
    chosen: list[_Output] = []
    for run in runs:
        representative = _representative(run, blocks)
        if representative is None:
            continue
        output = _name_giver(representative, blocks)
        # 2. steps inside a block are no depths of their own
        if not any(output.path.startswith(b + ".") for b in blocks):
            chosen.append(output)
    chosen = _without_readout(chosen, outputs)
    # a plain network's blocks are those of its repeated class, or, where nothing repeats, its steps
    for ends in (skipping, plain):
        keys = {o.key for o in chosen if o.path in ends}
        if keys:
            return chosen, keys
    return chosen, {o.key for o in chosen}


def _without_readout(chosen: list[_Output], outputs: list[_Output]) -> list[_Output]:
    """Without a lone step inside a module that gives no grid: attention pooling's keys and values are no depth."""
    vectors = {o.path for o in outputs if o.rank is not None and o.reading is None and o.is_own_container}
    kept = []
    for o in chosen:
        others = [c for c in chosen if c is not o]
        readouts = [path for path in _ancestors(o.path) if path in vectors]
        lone = any(not any(c.path.startswith(path + ".") for c in others) for path in readouts)
        if not lone or not any(_grid(c) == _grid(o) for c in others):
            kept.append(o)
    return kept


def _same_depth(before: _Output, after: _Output, cuts: Cuts) -> bool:
    """Whether nothing but normalisation, activation or reshaping lies between two outputs."""
    assert before.rank is not None
    assert after.rank is not None
    return _grid(before) == _grid(after) and cuts.work[after.rank] == cuts.work[before.rank]


def _grid(o: _Output) -> tuple[int, int]:
    assert o.reading is not None
    return o.reading.rows, o.reading.columns


def _block_paths(tensors: list[list[_Output]], outputs: list[_Output]) -> tuple[set[str], set[str]]:
    """Paths of the modules that are one depth each: blocks with a skip, and plain modules whose class repeats."""
    containers = {o.path: o for group in tensors for o in group if o.is_own_container and o.working_leaves >= 2}
    closing = {_closing(o.path, containers) for o in outputs if o.rank is not None and not o.cut and _works(o.module)}
    closing.discard("")
    # what holds several blocks of one kind is a stage with a skip of its own, not a block
    kinds = {path: Counter(type(containers[b].module) for b in closing if b.startswith(path + ".")) for path in closing}
    closing = {path for path in closing if not any(n > 1 for n in kinds[path].values())}
    classes = {type(containers[path].module) for path in closing}
    places = {_place(path) for path in closing}
    skipping = _outermost(
        {path for path, o in containers.items() if type(o.module) in classes or _place(path) in places}
    )
    times = Counter(type(m) for m in {id(o.module): o.module for o in outputs}.values())
    plain = {
        o.path
        for group in tensors
        for o in group
        if o.is_own_container
        and times[type(o.module)] > 1
        and o.working_leaves
        and not any(b.startswith(o.path + ".") or o.path.startswith(b + ".") for b in skipping)
    }
    return skipping, _outermost(plain - skipping)


def _closing(path: str, containers: Mapping[str, _Output]) -> str:
    """The innermost of these containers around a module; empty if there is none."""
    return next((outer for outer in _ancestors(path) if outer in containers), "")


def _ancestors(path: str) -> Iterator[str]:
    """The paths of the modules around a module, innermost first, without the network itself."""
    while path := path.rpartition(".")[0]:
        yield path


def _outermost(paths: set[str]) -> set[str]:
    """Those that lie in no other (squeeze-and-excitation is part of its inverted residual)."""
    return {p for p in paths if not any(p.startswith(other + ".") for other in paths)}


def _place(path: str) -> str:
    """A path with its numbers blanked: the same for every repetition of one structure."""
    return re.sub(r"\d+", "#", path)


def _representative(run: list[list[_Output]], blocks: set[str]) -> list[_Output] | None:
    """Of tensors with no work between them, the one to show: a block's end, else the last that does something."""
    live = [g for g in run if not all(_IDLE.search(type(o.module).__name__) for o in g)]
    for group in reversed(live):
        if any(o.path in blocks for o in group):
            return group
    for group in reversed(live):
        if any(o.working_leaves and any(True for _ in o.module.children()) for o in group):
            return group
    return live[-1] if live else None


def _name_giver(group: list[_Output], blocks: set[str]) -> _Output:
    """Which module of those that share a tensor names the depth: the block, else the outermost of the user's own."""
    live = [o for o in group if not _IDLE.search(type(o.module).__name__)]
    first_calls = [o for o in live if o.call == 1] or live
    for o in first_calls:
        if o.path in blocks:
            return o
    own = [o for o in first_calls if not type(o.module).__module__.startswith("torch.nn")]
    return min(own or first_calls, key=lambda o: (o.path.count("."), -len(o.path)))


def _with_stages(points: list[HookPoint]) -> list[HookPoint]:
    """Mark the last depth at each resolution, or about five evenly spaced ones where the resolution never changes."""
    usable = [p for p in points if p.verified is not False]
    grids = [p.shape[1:] for p in usable]
    last = {g: i for i, g in enumerate(grids)}
    if len(last) > 1:
        stages = {usable[i].name for i in last.values()}
    else:
        blocks = [p for p in usable if "blocks" in p.selectors]
        stages = {p.name for p in _spread(blocks or usable, STAGES_OF_A_COLUMN)}
    return [_add(p, "stages") if p.name in stages else p for p in points]


def _spread(points: Sequence[HookPoint], count: int) -> list[HookPoint]:
    """``count`` of the points from first to last, evenly spaced; all of them if there are fewer."""
    if count < 1:
        raise DepthError(f"expected a positive number of depths, got {count}")
    if count == 1:
        return [points[-1]]
    steps = [round(i * (len(points) - 1) / (count - 1)) for i in range(count)] if points else []
    return [points[i] for i in dict.fromkeys(steps)]


def _add(point: HookPoint, selector: str) -> HookPoint:
    order = ("stages", "blocks", "last")
    return replace(point, selectors=tuple(s for s in order if s in (*point.selectors, selector)))
