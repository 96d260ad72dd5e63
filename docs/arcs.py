"""Draw why a depth is a depth: the autograd graph of one forward pass as an arc diagram, with its cuts.

    python docs/arcs.py vehicles/resnet vehicles/densenet --out arcs.png

Every dot is a ``grad_fn`` between the pixels (left) and the logits (right), in topological order; every arc is an edge.
A dot that no arc passes over is a cut: every path crosses it. Depths are those cuts that are the output of a module and
spatial, thinned to one a block; they are found by the functions that ``gradlens layers`` uses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc

from gradlens.depths.find import Depths, find_depths
from gradlens.depths.graph import Cuts, find_cuts
from gradlens.depths.modules import hooked
from gradlens.figures import style
from gradlens.records import LoadedModel
from gradlens.zoo import checkpoints
from gradlens.zoo.outputs import logits_of

_INK, _QUIET, _DEPTH = "#222222", "#b8b8b8", "#0072B2"


def graph_of(model: LoadedModel) -> tuple[Cuts, list[tuple[int, int]], dict[str, int]]:
    """The cuts of one forward pass, its edges as pairs of ranks, and the rank of every module's output."""
    ranks: dict[str, object] = {}
    pixels = torch.zeros(1, *model.preprocess.input_size).normal_(generator=torch.Generator().manual_seed(0))
    pixels.requires_grad_(True)

    def see(path: str, call: int, tensor: torch.Tensor) -> None:
        ranks[path if call == 1 else f"{path}#{call}"] = tensor.grad_fn

    with hooked({path: m for path, m in model.module.named_modules() if path}, see):
        cuts = find_cuts(logits_of(model.module(pixels)), pixels)
    edges = [
        (cuts.position[child], rank)
        for node, rank in cuts.position.items()
        for child, _ in node.next_functions
        if child in cuts.position
    ]
    return cuts, edges, {name: cuts.position[node] for name, node in ranks.items() if node in cuts.position}


def draw(ax: Axes, model: LoadedModel, depths: Depths) -> None:
    """One network on one axis."""
    cuts, edges, rank = graph_of(model)
    highest = max(b - a for a, b in edges)
    for a, b in edges:
        if b - a > 1:
            ax.add_patch(Arc(((a + b) / 2, 0), b - a, 2 * (b - a) / highest, theta1=0, theta2=180, lw=0.6, ec=_QUIET))
    ax.plot([0, len(cuts.position) - 1], [0, 0], color=_QUIET, lw=0.6, zorder=1)
    passed = [r for r in range(len(cuts.position)) if r not in cuts.cut]
    ax.plot(passed, [0] * len(passed), "o", ms=2.2, mfc="white", mec=_QUIET, mew=0.6, zorder=2)
    ax.plot(sorted(cuts.cut), [0] * len(cuts.cut), "o", ms=2.6, color=_INK, zorder=3)
    apart = len(cuts.position) / 48  # so far from one another that names can be read
    place = -apart
    for p in depths.points:
        place = max(rank[p.name], place + apart)
        ax.plot([rank[p.name], rank[p.name], place], [0, -0.1, -0.16], color=_DEPTH, lw=0.8, zorder=2)
        ax.plot(rank[p.name], 0, "o", ms=4.2, color=_DEPTH, zorder=4)
        slanted = {"rotation": 45, "rotation_mode": "anchor", "ha": "right", "va": "top"}
        ax.text(place, -0.18, p.name.removeprefix("features."), fontsize=6, color=_DEPTH, **slanted)
    ax.set_xlim(-1, len(cuts.position))
    ax.set_ylim(-0.25, 1.12)
    ax.set_axis_off()
    what = f"{len(cuts.position)} steps, {len(cuts.cut)} cuts, {len(depths.points)} depths"
    ax.set_title(f"{model.name}: {what}", fontsize=8, loc="left", color=_INK)


def main() -> None:
    """Draw the networks that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    networks = [checkpoints.load(name) for name in asked.models]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with style.paper():
        figure = Figure(figsize=(style.PAGE_WIDTH, 1.75 * len(networks)), layout="none")
        for ax, model in zip(figure.subplots(len(networks), 1, squeeze=False).flat, networks, strict=True):
            pixels = torch.zeros(1, *model.preprocess.input_size).normal_(generator=torch.Generator().manual_seed(0))
            draw(ax, model, find_depths(model.module, pixels))
        figure.subplots_adjust(left=0.03, right=0.99, top=0.95, bottom=0.13, hspace=0.55)
        figure.savefig(asked.out, dpi=200, metadata={"Software": None})


if __name__ == "__main__":
    main()
