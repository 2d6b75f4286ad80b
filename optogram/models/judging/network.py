"""Room models: the networks of a judge: one sees where objects are in a picture, one looks at an object from near."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from optogram.errors import ParamError

STRIDE = 8
"""The side of pictures is a multiple of it: the coarsest maps have one point for so many pixels."""
WINDOW = 28
"""Side of what is looked at from near, in pixels: the largest object of a scene fits in, in any rotation."""
FAR = ("count", "position", "background")
"""Attributes that a whole picture has; all others are an object's own."""
RARE = -3.0
"""Logit that maps start from: one pixel in twenty is of an object. From 0, a training begins by learning this."""
LAYOUT = 8
"""Channels of the coarse map that tells where things lie."""


class Seen(NamedTuple):
    """What is seen in whole pictures.

    logits: of each attribute of a picture in turn, (image, value). inside, centre: of an object, and of the middle of
    one, at each pixel.
    """

    logits: tuple[Float[Tensor, "image _value"], ...]
    inside: Float[Tensor, "image y x"]
    centre: Float[Tensor, "image y x"]


class Scout(nn.Module):
    """Sees whole pictures: a small residual network with a way back up to the pixels.

    size: the picture's side. values: how many values each attribute has. widths: channels at a half, a quarter and an
    eighth of the side. hidden: width of the layer before the heads.

    Raises ParamError for a size that is no multiple of `STRIDE`, and unless there are three widths.
    """

    def __init__(self, size: int, values: Sequence[int], widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        if size < STRIDE or size % STRIDE:
            raise ParamError(f"judge: size = {size}, expected a multiple of {STRIDE}. Take other images.")
        fine, middle, coarse = _three(widths, hidden)
        self.fine = nn.Sequential(_convolution(3, fine, 4, 2), _Residual(fine))
        self.middle = nn.Sequential(_convolution(fine, middle, 3, 2), _Residual(middle))
        self.coarse = nn.Sequential(_convolution(middle, coarse, 3, 2), _Residual(coarse), _Residual(coarse))
        self.to_middle, self.to_fine = nn.Conv2d(coarse, middle, 1), nn.Conv2d(middle, fine, 1)
        self.join_middle, self.join_fine = _convolution(middle, middle, 3, 1), _convolution(fine, fine, 3, 1)
        last = nn.Conv2d(fine, 2 * 4, 1)
        nn.init.constant_(last.bias, RARE)  # pyright: ignore[reportArgumentType]
        self.maps = nn.Sequential(last, nn.PixelShuffle(2))
        self.layout = nn.Sequential(nn.Conv2d(coarse, LAYOUT, 1), nn.Flatten())
        inputs = 2 * sum(widths) + (LAYOUT + 1) * (size // STRIDE) ** 2
        self.joined = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True))
        self.heads = nn.ModuleList(nn.Linear(hidden, count) for count in values)

    def forward(self, images: Float[Tensor, "image rgb y x"]) -> Seen:
        """images: in [0, 1]."""
        fine = self.fine(_centred(images))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.join_middle(middle + _doubled(self.to_middle(coarse)))
        fine = self.join_fine(fine + _doubled(self.to_fine(middle)))
        maps = self.maps(fine)
        found = maps[:, :1].detach().sigmoid()
        pooled = [part for features in (fine, middle, coarse) for part in _pooled(features, found)]
        where = avg_pool2d(found, STRIDE).flatten(1)
        hidden = self.joined(torch.cat([*pooled, self.layout(coarse), where], 1))
        return Seen(tuple(head(hidden) for head in self.heads), maps[:, 0], maps[:, 1])


class Glance(nn.Module):
    """Looks at one object from near, in a window of `WINDOW` pixels around its middle: what it is, wherever it lies.

    values, widths, hidden: as `Scout`, but the widths are of the whole, a half and a quarter of the window's side.
    """

    def __init__(self, values: Sequence[int], widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        fine, middle, coarse = _three(widths, hidden)
        self.blocks = nn.Sequential(
            *(_convolution(3, fine, 3, 1), _Residual(fine)),
            *(_convolution(fine, middle, 3, 2), _Residual(middle)),
            *(_convolution(middle, coarse, 3, 2), _Residual(coarse)),
        )
        self.reduced = nn.Sequential(nn.Conv2d(coarse, 16, 1), nn.Flatten())
        inputs = 2 * coarse + 16 * (WINDOW // 4) ** 2
        self.joined = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True))
        self.heads = nn.ModuleList(nn.Linear(hidden, count) for count in values)

    def forward(self, windows: Float[Tensor, "object rgb down right"]) -> tuple[Float[Tensor, "object _value"], ...]:
        """Logits of each attribute in turn. windows: as `windows` cuts them out, in [0, 1]."""
        features = self.blocks(_centred(windows))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3)), self.reduced(features)], 1)
        hidden = self.joined(pooled)
        return tuple(head(hidden) for head in self.heads)


class JudgeNetwork(nn.Module):
    """A `Scout` for the attributes of whole pictures (`FAR`), a `Glance` for all others, which an object has.

    values: how many values each attribute has, by name. far, near: widths of the two.
    """

    def __init__(
        self, size: int, values: Mapping[str, int], *, far: Sequence[int], near: Sequence[int], hidden: int
    ) -> None:
        super().__init__()
        self.arguments = {"far": [*far], "near": [*near], "hidden": hidden}
        self.scout = Scout(size, [count for name, count in values.items() if name in FAR], far, hidden)
        self.glance = Glance([count for name, count in values.items() if name not in FAR], near, hidden)


def windows(
    images: Float[Tensor, "image rgb y x"], image: Int64[Tensor, " object"], middle: Int64[Tensor, "object 2"]
) -> Float[Tensor, "object rgb down right"]:
    """The window around the `middle` (y, x) of each object of an `image`; grey where it leaves the picture."""
    half = WINDOW // 2
    padded = pad(images, (half,) * 4, value=0.5)
    steps = torch.arange(WINDOW, device=images.device)
    rows, columns = (middle[:, at, None] + steps for at in (0, 1))
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _three(widths: Sequence[int], hidden: int) -> Sequence[int]:
    if len(widths) != 3 or min(*widths, hidden) < 1:
        raise ParamError(f"judge: widths = {[*widths]}, expected three numbers above 0, such as [24, 48, 96].")
    return widths


def _centred(images: Tensor) -> Tensor:
    return images.sub(0.5).mul(4)


def _pooled(
    features: Float[Tensor, "image channel gy gx"], found: Float[Tensor, "image 1 y x"]
) -> list[Float[Tensor, "image channel"]]:
    """Features' mean over the objects, and over the rest."""
    weight = avg_pool2d(found, found.shape[-1] // features.shape[-1])
    weight = torch.cat([weight, 1 - weight], 1).flatten(2)
    share = weight / (weight.sum(2, keepdim=True) + 0.05)
    return list(torch.einsum("iwp,icp->wic", share, features.flatten(2)))


def _doubled(features: Float[Tensor, "image channel gy gx"]) -> Float[Tensor, "image channel _y _x"]:
    """Each point as 2 x 2 points. Unlike `interpolate`, its gradient is the same twice on a GPU too."""
    count, channels, height, width = features.shape
    wide = features[:, :, :, None, :, None].expand(count, channels, height, 2, width, 2)
    return wide.reshape(count, channels, 2 * height, 2 * width)


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(before, after, kernel, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3, 1)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, features: Float[Tensor, "image channel gy gx"]) -> Float[Tensor, "image channel gy gx"]:
        return torch.relu(features + self.second(self.first(features)))
