"""Room models: what befalls pictures that a model has drawn, done to real ones: blur, noise, a codec's round trip."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optogram.errors import ParamError

TAPS = 2
"""A blur reaches so many pixels to each side."""


@dataclass(frozen=True)
class Damage:
    """How pictures are damaged, each in its own way.

    share: of the pictures that are. Of these, each kind befalls a half. blur: largest standard deviation of a Gaussian,
    in pixels. noise: largest one of noise at each pixel and channel, of intensities from 0 to 1. shade: largest change
    of brightness, and of contrast, likewise. components: of each patch of `patch` pixels a side, the principal
    components that a round trip keeps.

    Raises ParamError for a share outside [0, 1], a number below 0, and for more components than a patch has values.
    """

    share: float = 0.5
    blur: float = 1.0
    noise: float = 0.06
    shade: float = 0.06
    patch: int = 4
    components: int = 16

    def __post_init__(self) -> None:
        for name, most in (("share", 1.0), ("blur", 8.0), ("noise", 1.0), ("shade", 0.5)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise ParamError(f"damage: {name} = {value}, expected 0 to {most:g}. Change {name}.")
        if not 0 < self.components <= 3 * self.patch**2:
            raise ParamError(
                f"damage: components = {self.components}, expected 1 to {3 * self.patch**2}, the values of a patch of "
                f"{self.patch} x {self.patch} pixels. Change components."
            )


class Damager:
    """Damages pictures by what a generator draws. `examples`, in [0, 1], are what the patches' components are of.

    Raises ParamError if the side of the pictures is no multiple of the patch's.
    """

    def __init__(self, damage: Damage, examples: Float[Tensor, "example rgb y x"]) -> None:
        self._damage, self._patches = damage, Patches(examples, damage.patch, damage.components)

    def __call__(self, images: Float[Tensor, "image rgb y x"], draw: torch.Generator) -> Float[Tensor, "image rgb y x"]:
        """The pictures, some of them damaged, in [0, 1] again."""
        most = self._damage
        chance, size, colour = (torch.rand(len(images), n, generator=draw) for n in (5, 4, 3))
        hit = (chance < 0.5) & (chance[:, 4:] < most.share)  # which kinds befall which image; the last is of all kinds
        changes = (
            lambda some, at: blur(some, most.blur * size[at, 0]),
            lambda some, at: self._patches(some),
            lambda some, at: shade(some, most.shade * (2 * size[at, 2] - 1), most.shade * (2 * colour[at] - 1)),
            lambda some, at: noise(some, most.noise * size[at, 3], draw),
        )
        found = images.clone()
        for kind, change in enumerate(changes):
            at = hit[:, kind].nonzero()[:, 0]
            if len(at):
                found[at] = change(found[at], at)
        return found.clamp(0, 1)


class Patches:
    """The principal components of patches of `side` pixels, of which pictures keep the first `components`.

    Raises ParamError if the side of the pictures is no multiple of the patch's.
    """

    def __init__(self, examples: Float[Tensor, "example rgb y x"], side: int, components: int) -> None:
        if any(length % side for length in examples.shape[2:]):
            raise ParamError(
                f"damage: patch = {side}, but images are {examples.shape[2]} x {examples.shape[3]}. Take a patch whose "
                "side divides the image's."
            )
        self._side = side
        rows = self._cut(examples).flatten(0, 1).double()
        mean = rows.mean(0)
        _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # the largest are the last
        kept = vectors[:, -components:]
        self._kept, self._mean = (kept @ kept.T).float(), mean.float()

    def __call__(self, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image rgb y x"]:
        """What is left of pictures."""
        kept = (self._cut(images) - self._mean) @ self._kept + self._mean
        grid = kept.transpose(1, 2).unflatten(2, (images.shape[2] // self._side, -1))
        return nn.functional.pixel_shuffle(grid, self._side)

    def _cut(self, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image patch value"]:
        return nn.functional.pixel_unshuffle(images, self._side).flatten(2).transpose(1, 2)


def blur(images: Float[Tensor, "image rgb y x"], deviation: Float[Tensor, " image"]) -> Float[Tensor, "image rgb y x"]:
    """A mean over `TAPS` pixels to each side, weighed by a Gaussian; edges are mirrored. deviation: in pixels."""
    steps = torch.arange(-TAPS, TAPS + 1)
    weight = torch.exp(-(steps**2) / (2 * deviation[:, None].clamp_min(0.1) ** 2))
    weight = weight / weight.sum(1, keepdim=True)
    padded = nn.functional.pad(images, (TAPS,) * 4, mode="reflect")
    height, width = images.shape[2:]
    rows = torch.stack([padded[:, :, k : k + height] for k in range(2 * TAPS + 1)], 1)
    rows = torch.einsum("ik,ikcyx->icyx", weight, rows)
    both = torch.stack([rows[..., k : k + width] for k in range(2 * TAPS + 1)], 1)
    return torch.einsum("ik,ikcyx->icyx", weight, both)


def shade(
    images: Float[Tensor, "image rgb y x"], contrast: Float[Tensor, " image"], brightness: Float[Tensor, "image rgb"]
) -> Float[Tensor, "image rgb y x"]:
    """Contrast that is higher by a share, about grey, and brightness that is higher by so much in each channel."""
    return (images - 0.5) * (1 + contrast[:, None, None, None]) + 0.5 + brightness[:, :, None, None]


def noise(
    images: Float[Tensor, "image rgb y x"], deviation: Float[Tensor, " image"], draw: torch.Generator
) -> Float[Tensor, "image rgb y x"]:
    """Gaussian noise at each pixel and channel."""
    return images + deviation[:, None, None, None] * torch.randn(images.shape, generator=draw)
