"""Room models: the two networks of a small GAN: one draws images from latents, the other tells them from real ones."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optogram.errors import ParamError

START = 4
"""Side of the smallest maps."""


class GanGenerator(nn.Sequential):
    """Images from latents: a linear layer to maps of 4 x 4, then to twice the side with each width.

    Bilinear upsampling before a convolution, as transposed convolutions leave a checkerboard (Odena et al. 2016). What
    the ReLU of a side gives, `relu4`, `relu8`, …, is a unit a channel (`unit_layers`).
    latent: size of a latent, whose entries are normal with variance 1. widths: channels of the maps of sides 4, 8, ….

    Raises ParamError for a size below 1 and for less than two widths.
    """

    def __init__(self, latent: int = 64, widths: Sequence[int] = (192, 128, 64, 48, 24)) -> None:
        check_widths(widths)
        if latent < 1:
            raise ParamError(f"a GAN: latent = {latent}, expected at least 1, say 64. Change it.")
        layers: dict[str, nn.Module] = {"linear": nn.Linear(latent, widths[0] * START**2)}
        layers |= {"grid": _Grid(), f"norm{START}": nn.BatchNorm2d(widths[0]), f"relu{START}": nn.ReLU()}
        for k, (before, width) in enumerate(pairwise(widths), start=1):
            side = START * 2**k
            layers[f"up{side}"] = nn.Upsample(scale_factor=2, mode="bilinear")
            layers[f"conv{side}"] = nn.Conv2d(before, width, 3, padding=1, bias=False)
            layers |= {f"norm{side}": nn.BatchNorm2d(width), f"relu{side}": nn.ReLU()}
        layers |= {"to_rgb": _ToRgb(widths[-1], 3, 3, padding=1), "tanh": nn.Tanh()}
        super().__init__(OrderedDict(layers))
        self.latent = latent
        self.unit_layers = tuple(name for name in layers if name.startswith("relu"))

    def forward(self, latents: Float[Tensor, "image latent"]) -> Float[Tensor, "image rgb y x"]:
        """Images in [0, 1]."""
        return (super().forward(latents) + 1) / 2


class Discriminator(nn.Module):
    """A logit an image, high where it looks real.

    Convolutions halve the side from one width to the next, those of the generator from the last to the first. At 4 x 4
    a map is added of how much the images of the batch differ (Karras et al. 2018, section 3), by which a generator that
    draws ever the same is seen through. Rates are equalised (section 4.1): with weights of the usual sizes, steps of
    2e-3 took its losses to 1e5 within 200 steps.
    """

    def __init__(self, widths: Sequence[int] = (192, 128, 64, 48, 24)) -> None:
        check_widths(widths)
        super().__init__()
        inward = [*reversed(widths)]
        self.from_rgb = nn.Sequential(_Conv(3, inward[0], 3, padding=1), nn.LeakyReLU(0.2))
        halves = [(_Conv(before, width, 4, 2, 1), nn.LeakyReLU(0.2)) for before, width in pairwise(inward)]
        self.down = nn.Sequential(*(part for half in halves for part in half))
        self.last = nn.Sequential(_Conv(widths[0] + 1, widths[0], 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten())
        self.logit = _Linear(widths[0] * START**2, 1)

    def forward(self, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, " image"]:
        """Of images in [0, 1]."""
        x = self.down(self.from_rgb(_fast(2 * images - 1)))
        spread = (x.float().var(0, correction=0) + 1e-8).sqrt().mean().to(x.dtype)
        x = torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], 1)
        return self.logit(self.last(x))[:, 0]


class Discriminators(nn.Module):
    """A logit an image of its pixels, and one of each layer of features of a frozen model (Sauer et al. 2021).

    features: takes images in [0, 1] to maps. Objects, of which pixels tell a discriminator little at first, lie open in
    them, so that a generator draws objects many times sooner. channels: of each layer of maps.
    """

    def __init__(
        self,
        widths: Sequence[int] = (192, 128, 64, 48, 24),
        features: "Features | None" = None,
        channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.pixels = Discriminator(widths)
        self.heads = nn.ModuleList(_head(width) for width in channels)
        self._features = features  # no module of this one: it does not learn

    def forward(self, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image eye"]:
        """Of images in [0, 1]; the first is that of the pixels."""
        found = [self.pixels(images)]
        if self._features is not None:
            found += [head(maps).mean((1, 2, 3)) for head, maps in zip(self.heads, self._features(images), strict=True)]
        return torch.stack(found, 1)


Features = Callable[[Float[Tensor, "image rgb y x"]], Sequence[Float[Tensor, "image _channel _y _x"]]]
"""Maps of a frozen model of images in [0, 1], a tensor a layer; gradients pass."""


def _head(channels: int, width: int = 96) -> nn.Module:
    return nn.Sequential(
        nn.GroupNorm(1, channels, affine=False),
        _Conv(channels, width, 1),
        nn.LeakyReLU(0.2),
        _Conv(width, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        _Conv(width, width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        _Conv(width, 1, 3, padding=1),
    )


class _Conv(nn.Conv2d):
    """Its weights have variance 1 and are scaled where they are used, so that a step is as large beside all of them."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "image _before _y _x"]) -> Float[Tensor, "image channel y x"]:
        scale = (2 / self.weight[0].numel()) ** 0.5  # 2 for what a ReLU takes away (He et al. 2015)
        return self._conv_forward(input, scale * self.weight, self.bias)


class _Linear(nn.Linear):
    """As `_Conv`."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "image flat"]) -> Float[Tensor, "image _width"]:
        return nn.functional.linear(input, self.weight / self.in_features**0.5, self.bias)


class _ToRgb(nn.Conv2d):
    """In float32: colours rounded to bfloat16 are what a discriminator would tell drawn images by."""

    def forward(self, input: Float[Tensor, "image channel y x"]) -> Float[Tensor, "image rgb y x"]:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class _Grid(nn.Module):
    def forward(self, x: Float[Tensor, "image flat"]) -> Float[Tensor, "image channel y x"]:
        return _fast(x.unflatten(1, (-1, START, START)))


def _fast(x: Float[Tensor, "image channel y x"]) -> Float[Tensor, "image channel y x"]:
    """With channels last in memory: then the convolutions after it take half the time on a processor.

    Maps are laid out so, and not weights: an optimiser's state would lie otherwise after a resume, and round otherwise.
    """
    return x.contiguous(memory_format=torch.channels_last)


def side_of(widths: Sequence[int]) -> int:
    """Pixels a side of the images that a generator with these widths draws."""
    return START * 2 ** (len(widths) - 1)


def check_widths(widths: Sequence[int], side: int | None = None) -> None:
    """Raises ParamError for a width below 1, for less than two, and if they do not draw images of `side` pixels."""
    if len(widths) < 2 or min(widths) < 1:
        raise ParamError(
            f"a GAN: widths = {list(widths)}, expected two or more, each at least 1: channels of the maps of 4 x 4, of "
            "8 x 8, …. Change them."
        )
    if side is not None and side_of(widths) != side:
        known = {START * 2**k: k + 1 for k in range(1, 9)}
        fix = f"Give {known[side]} widths" if side in known else f"Take images of {', '.join(map(str, known))} pixels"
        raise ParamError(
            f"a GAN: {len(widths)} widths draw images of {side_of(widths)} x {side_of(widths)}, but the images have "
            f"{side} x {side}. {fix}."
        )
