"""Random changes to a whole batch of training images at once, on tensors.

Every image has its own draws, and they depend on nothing but (seed, epoch, the image's index): not on the order of the
batches, the number of threads, or on whether the run was interrupted. Geometry is one resampling per image and colour
one 3×4 matrix per image, which keeps the data path at a few per cent of a training step; torchvision's transforms work
on one image at a time, or change a batch alike.

They do what torchvision's do (the tests hold them against it), except that

- a random crop whose side would be longer than the image's is cut to it, where RandomResizedCrop draws again, up to ten
  times: of scale (0.08, 1) and ratio (3/4, 4/3) ours shows 53 % of the image on average, theirs 48 %;
- a crop is resampled bilinearly without a low-pass filter, so ``cache_size`` should stay below twice ``input_size``;
- a rotation shows what lies beyond a crop's corners, where the image goes on there; RandomRotation paints them black;
- ColorJitter's four changes come in one order (saturation, hue, contrast, brightness) and are clipped once, at the end;
  torchvision shuffles them and clips after each;
- hue turns the chroma plane of YIQ, which keeps the luma; torchvision turns HSV's hue, which keeps the maximum;
- RandomErasing's rectangle has an aspect ratio of 1/2 to 2; torchvision's, by default, of 0.3 to 3.3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from gradlens.train.settings import Augment

# one uniform number per image and use, in this order
_DRAWS = ("area", "aspect", "top", "left", "angle", "flip", "brightness", "contrast", "saturation", "hue", "gray",
          "erase", "erase_area", "erase_aspect", "erase_top", "erase_left",
          "vertical_flip", "cutout_top", "cutout_left")  # fmt: skip
_FIRST = 16  # drawn together; what came later is drawn after them, so that recipes without it give what they gave

_PART = 2**21  # numbers in the largest intermediate of a part of a batch: 8 MB

# RGB -> luma and two chroma axes, of NTSC's YIQ: hue is an angle in the chroma plane
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_GRAY = _YIQ[0]


def derive_seed(seed: int, epoch: int, use: int) -> int:
    """A 62-bit seed that differs for every (seed, epoch, use), so that nothing random needs saving between epochs."""
    mixed = (seed * 1_000_003 + epoch) * 1_000_003 + use
    mixed = (mixed ^ (mixed >> 31)) * 0x9E3779B97F4A7C15
    return (mixed ^ (mixed >> 29)) & (2**62 - 1)


def draw(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The uniform numbers of one epoch: (count, D) float32 in [0, 1); row i belongs to image i."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, use=1))
    parts = (_FIRST, len(_DRAWS) - _FIRST)
    return torch.cat([torch.rand(count, part, generator=generator) for part in parts], dim=1)


def order(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The order in which an epoch sees the images: (count,) int64, a permutation."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, epoch, use=3)))


class Augmenter:
    """Training images as kept in memory -> a batch for the network.

    Args:
        augment: what may happen.
        size: side of the network's input in pixels.
        mean, std: of the normalisation, per channel on a 0-1 scale.
    """

    def __init__(
        self, augment: Augment, size: int, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        self.augment, self.size = augment, size
        self.mean = torch.tensor(mean)[:, None, None]
        self.std = torch.tensor(std)[:, None, None]

    def __call__(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Change and normalise a batch.

        Args:
            images: (N, 3, H, W) uint8, RGB.
            draws: (N, D), the rows of :func:`draw` that belong to these images.

        Returns:
            (N, 3, size, size) float32, normalised.
        """
        # on CPUs a large batch goes in parts: the system clears the pages of every large intermediate anew, which was
        # over half of the time of 64 images of 224 pixels
        part = max(1, _PART // (3 * self.size**2)) if images.device.type == "cpu" else len(images)
        if len(images) > part:
            return torch.cat([self._batch(i, d) for i, d in zip(images.split(part), draws.split(part), strict=True)])
        return self._batch(images, draws)

    def _batch(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        u = dict(zip(_DRAWS, draws.unbind(1), strict=True))
        x = self._geometry(images, u)
        x = self._colour(x, u)
        x = (x - self.mean.to(x.device)) / self.std.to(x.device)
        return self._cut_out(self._erase(x, u), u)

    def _geometry(self, images: torch.Tensor, u: dict[str, torch.Tensor]) -> torch.Tensor:
        """Crop, rotate, flip, shift: (N, 3, H, W) uint8 -> (N, 3, size, size) float32 on a 0-1 scale."""
        a, n, size = self.augment, len(images), self.size
        flip, turn = u["flip"] < a.flip, u["vertical_flip"] < a.vertical_flip
        if a.scale == (1, 1) and a.ratio == (1, 1) and not a.rotation and images.shape[-2:] == (size, size):
            shifted = _shift(images, a.pad, a.padding_mode, u)
            for dim, chosen in ((3, flip), (2, turn)):
                if chosen.any():
                    shifted = torch.where(chosen[:, None, None, None].to(images.device), shifted.flip(dim), shifted)
            return shifted.float() / 255

        area = a.scale[0] + u["area"] * (a.scale[1] - a.scale[0])
        aspect = torch.exp(_between(u["aspect"], math.log(a.ratio[0]), math.log(a.ratio[1])))
        width = (area * aspect).sqrt().clamp(max=1)  # as parts of the image's sides
        height = (area / aspect).sqrt().clamp(max=1)
        slack = 2 * a.pad / size
        x = (u["left"] * 2 - 1) * (1 - width + slack)  # the crop's middle, in grid_sample's -1..1
        y = (u["top"] * 2 - 1) * (1 - height + slack)
        angle = (u["angle"] * 2 - 1) * math.radians(a.rotation)
        mirror, upset = torch.where(flip, -1.0, 1.0), torch.where(turn, -1.0, 1.0)
        theta = torch.empty(n, 2, 3)
        theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = width * mirror * angle.cos(), -width * upset * angle.sin(), x
        theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = height * mirror * angle.sin(), height * upset * angle.cos(), y
        grid = F.affine_grid(theta.to(images.device), [n, 3, size, size], align_corners=False)
        if a.padding_mode == "reflect":
            return F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
        sampled = F.grid_sample(images.float() / 255, grid, padding_mode="border", align_corners=False)
        return sampled * (grid.abs() <= 1 + 1e-5).all(-1)[:, None]  # rounding must not blacken the border itself

    def _colour(self, x: torch.Tensor, u: dict[str, torch.Tensor]) -> torch.Tensor:
        """Saturation, hue, contrast, brightness and grayscale as one affine map of RGB per image, clipped to 0-1."""
        a = self.augment
        if not (a.brightness or a.contrast or a.saturation or a.hue or a.grayscale):
            return x
        brightness, contrast, saturation = (
            _between(u[k], 1 - getattr(a, k), 1 + getattr(a, k)) for k in ("brightness", "contrast", "saturation")
        )
        saturation = torch.where(u["gray"] < a.grayscale, 0.0, saturation)
        angle = (u["hue"] * 2 - 1) * a.hue * 2 * math.pi
        chroma = torch.zeros(len(x), 3, 3)
        chroma[:, 0, 0] = 1
        chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * angle.cos()
        chroma[:, 1, 2], chroma[:, 2, 1] = -saturation * angle.sin(), saturation * angle.sin()
        turn = torch.linalg.inv(_YIQ) @ chroma @ _YIQ  # (N, 3, 3)
        matrix = (turn * (brightness * contrast)[:, None, None]).to(x.device)
        mean_gray = torch.einsum("nchw,c->n", x, _GRAY.to(x.device)) / x[0, 0].numel()
        offset = (brightness * (1 - contrast)).to(x.device) * mean_gray  # contrast turns about the mean gray
        x = torch.baddbmm(offset[:, None, None].expand(-1, 3, 1), matrix, x.flatten(2)).view_as(x)
        return x.clamp_(0, 1)

    def _erase(self, x: torch.Tensor, u: dict[str, torch.Tensor]) -> torch.Tensor:
        """Rectangles of the mean colour (zero, after normalisation), wholly inside the image."""
        a = self.augment
        if not a.erase:
            return x
        area = _between(u["erase_area"], *a.erase_area)
        aspect = torch.exp(_between(u["erase_aspect"], math.log(0.5), math.log(2)))
        sides = {"top": (area / aspect).sqrt().clamp(max=1), "left": (area * aspect).sqrt().clamp(max=1)}
        at = torch.arange(self.size)
        inside = {}
        for edge, side in sides.items():
            start = u[f"erase_{edge}"] * (1 - side) * self.size
            inside[edge] = (at >= start[:, None].floor()) & (at < (start + side * self.size)[:, None].floor())
        hole = inside["top"][:, :, None] & inside["left"][:, None, :] & (u["erase"] < a.erase)[:, None, None]
        return x * ~hole[:, None].to(x.device)

    def _cut_out(self, x: torch.Tensor, u: dict[str, torch.Tensor]) -> torch.Tensor:
        """A square around a pixel drawn from all pixels, so up to three quarters of it lie outside the image."""
        side = self.augment.cutout
        if not side:
            return x
        at = torch.arange(self.size)
        inside = []
        for edge in ("top", "left"):
            first = (u[f"cutout_{edge}"] * self.size).floor()[:, None] - side // 2
            inside.append((at >= first) & (at < first + side))
        return x * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(x.device)


def _between(u: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return low + u * (high - low)


def _shift(images: torch.Tensor, pad: int, padding_mode: str, u: dict[str, torch.Tensor]) -> torch.Tensor:
    """Whole-pixel shifts of up to ``pad``: exact, no interpolation."""
    if not pad:
        return images
    height, width = images.shape[-2:]
    padded = F.pad(images.float(), [pad] * 4, mode=padding_mode).to(images.dtype)  # torch reflects no uint8
    corners = (torch.stack([u["top"], u["left"]], dim=1) * (2 * pad + 1)).long().tolist()
    return torch.stack(
        [p[:, top : top + height, left : left + width] for p, (top, left) in zip(padded, corners, strict=True)]
    )
