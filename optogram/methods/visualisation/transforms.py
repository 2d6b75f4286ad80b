"""Methods: what is shown of an image at a step: random crops, other colours; of each image from its own seed."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from optogram.methods.visualisation.optimise import draws

CENTRE = (0.5, 0.15)
"""Mean and spread of where crops are, as a share of the side: not in the paper, but in MACO's implementation."""


def crops(
    seeds: Sequence[int], steps: int, count: int, *, mean: float = 0.25, spread: float = 0.1
) -> Float32[Tensor, "image step crop 3"]:
    """(top, left, side) of crops at every step, as shares of the image; sides from N(mean, spread) (section A.1).

    Sides are held between 0.05 and 1, and crops within the image.
    """
    numbers = draws(seeds, (steps, count, 3), "normal", stream=2)
    side = (mean + spread * numbers[..., 2:]).clamp(0.05, 1)
    corner = CENTRE[0] + CENTRE[1] * numbers[..., :2] - side / 2
    return torch.cat([torch.minimum(corner.clamp(min=0), 1 - side), side], -1)


def cropped(
    rgb: Float[Tensor, "image rgb y x"], boxes: Float[Tensor, "image crop 3"], size: tuple[int, int]
) -> Float[Tensor, "image*crop rgb _y _x"]:
    """Each image's crops, one after the other, resized to `size` (y, x), bilinearly.

    As two products of matrices: the gradient of `grid_sample` adds up in any order on a GPU, that of these does not.
    """
    images, colours, height, width = rgb.shape
    count = boxes.shape[1]
    rows = _bilinear(boxes[..., 0], boxes[..., 2], height, size[0])
    columns = _bilinear(boxes[..., 1], boxes[..., 2], width, size[1])
    tall = rows.flatten(1, 2) @ rgb.transpose(1, 2).flatten(2)  # (image, crop y, rgb x)
    wide = tall.reshape(images, count, size[0] * colours, width) @ columns.mT
    return wide.reshape(images * count, size[0], colours, size[1]).transpose(1, 2)


def colour_shifts(seeds: Sequence[int], steps: int, count: int) -> Float32[Tensor, "image step copy 2 rgb"]:
    """ColorShift's mu from U(-1, 1) and sigma from exp(U(-1, 1)) for each copy at every step (Ghiasi et al. 2022)."""
    numbers = 2 * draws(seeds, (steps, count, 2, 3), "uniform", stream=3) - 1
    return torch.stack([numbers[..., 0, :], numbers[..., 1, :].exp()], -2)


def shifted(images: Float[Tensor, "image rgb y x"], shifts: Float[Tensor, "image 2 rgb"]) -> Tensor:
    """sigma x + mu, colour by colour."""
    mu, sigma = shifts[..., None, None].unbind(1)
    return images * sigma + mu


def _bilinear(start: Tensor, share: Tensor, old: int, new: int) -> Float[Tensor, "image crop new old"]:
    """The weights of `old` pixels along a side in each of `new` ones that cover a share of it."""
    at = (torch.arange(new, device=start.device) + 0.5) / new
    place = (start[..., None] + share[..., None] * at) * old - 0.5
    place = place.clamp(0, old - 1)  # beyond the centre of the outermost pixel there is its colour
    return (1 - (place[..., None] - torch.arange(old, device=start.device)).abs()).clamp(min=0)
