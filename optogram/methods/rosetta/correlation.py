"""Methods, rosetta: the correlation of every unit of one model with every unit of another, in one pass.

Units are channels; what is correlated is their maps, over images and places (Gandelsman's thesis, eq. 4.1, 4.2). Where
two maps differ in size, the equations compare them at the larger one. Bilinear upsampling U is linear, and so the sums
that they need are had at the smaller: <g, U d> = <U'g, d>, the sum of U d is (U'1)·d, and that of its squares d'(U'U)d.
U'g is the same for all units of the other model at that size, and what is left is one product of matrices.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from optogram.errors import DataError, ShapeError

Grid = tuple[int, int]
Maps = Sequence[Float[Tensor, "image _channel _y _x"]]
"""Maps of one model's units on the same images, a tensor a layer."""

BLOCK = 32
"""Images whose products are summed up in float32; blocks are added in float64."""
FEW = 8
"""Images that tell where a unit's values lie."""
SUMS = ("_cross", "_of_a", "_of_b")
"""What a `Correlation` sums up: products of two units, and sums and squares of each."""
RESOLVED = 2.0**-20
"""A unit is constant if its deviation is below this share of its root mean square: float32 holds no more of it."""


def pearson(batches: Iterable[tuple[Maps, Maps]]) -> Float64[np.ndarray, "unit_a unit_b"]:
    """Pearson correlation of each unit of a model with each of another, over images and places (eq. 4.1, 4.2).

    batches: maps of the one and of the other on the same images, as many images a batch as you like: the bytes do not
    depend on it. Units are in the order of the layers. A unit that is constant has 0 with all.

    Raises DataError for values that are not finite, and for no images; ShapeError for layers that change from batch to
    batch, or different numbers of images.

    >>> from optogram.methods.rosetta.correlation import pearson
    >>> large, small = torch.randn(50, 2, 8, 8), torch.randn(50, 3, 4, 4)
    >>> pearson([([large], [small, large])]).shape
    (2, 5)
    """
    found: Correlation | None = None
    centres: list[Sequence[Tensor]] = []
    for pair in in_blocks(batches):
        if found is None:
            centres = [centres_of(maps) for maps in pair]
            found = Correlation(*(layers_of(maps) for maps in pair))
        a, b = (Block(maps, centre) for maps, centre in zip(pair, centres, strict=True))
        found.add(a, b)
    if found is None:
        raise DataError("correlation: there are no images. Pass at least one batch of maps.")
    return found.table()


def in_blocks(batches: Iterable[Sequence[Maps]], size: int = BLOCK) -> Iterator[list[list[Tensor]]]:
    """Maps of several models in blocks of `size` images, however many a batch has; the last block may have fewer.

    Raises ShapeError if models have different numbers of images in a batch.
    """
    waiting: list[list[Tensor]] = []
    for batch in batches:
        counts = {len(layer) for maps in batch for layer in maps}
        if len(counts) > 1:
            raise ShapeError(f"correlation: layers with {sorted(counts)} images in one batch. Pass maps of the same.")
        if waiting and [*map(layers_of, batch)] != [*map(layers_of, waiting)]:
            raise ShapeError("correlation: layers have other channels or sizes than in the batch before. Keep to one.")
        if waiting and len(waiting[0][0]):
            pairs = [list(zip(*both, strict=True)) for both in zip(waiting, batch, strict=True)]
            waiting = [[torch.cat(pair) for pair in each] for each in pairs]
        else:
            waiting = [list(maps) for maps in batch]
        while len(waiting[0][0]) >= size:
            yield [[layer[:size] for layer in maps] for maps in waiting]
            waiting = [[layer[size:] for layer in maps] for maps in waiting]
    if waiting and len(waiting[0][0]):
        yield waiting


def layers_of(maps: Maps) -> list[tuple[int, Grid]]:
    """Channels and size of each layer."""
    return [(layer.shape[1], (layer.shape[2], layer.shape[3])) for layer in maps]


def centres_of(maps: Maps) -> list[Float[Tensor, " _channel"]]:
    """A centre of each unit, for `Block`: the mean of one that lies far from 0, whose sums would lose their digits.

    Near is good enough: the first few of the images tell it.

    That of others is 0: a unit that hardly ever fires would else be a small number nearly everywhere, whose products
    are lost beside those of the places where it does.
    """
    found = []
    for layer in (each[:FEW] for each in maps):
        count = layer[:, 0].numel()
        square = torch.linalg.vector_norm(layer.float(), dim=(2, 3)).double().square().sum(0)
        total = layer.float().sum((2, 3)).double().sum(0)
        mean = total / count
        found.append(torch.where(2 * mean**2 > square / count, mean, 0.0).float())
    return found


class Block:
    """One model's maps on a few images, less a centre a unit, with the layers of one size side by side.

    centre: of each layer's channels; the same for all blocks of a correlation.
    """

    def __init__(self, maps: Maps, centre: Sequence[Float[Tensor, " _channel"]]) -> None:
        self.images = len(maps[0])
        self.centre = torch.cat(list(centre)).double()
        self._maps: dict[Grid, list[Tensor]] = {}
        for (_, grid), layer, middle in zip(layers_of(maps), maps, centre, strict=True):
            # most maps are large and about 0, and a copy of them costs as much as all else that is done with them
            centred = layer.float() - middle[:, None, None] if bool(middle.any()) else layer.float()
            self._maps.setdefault(grid, []).append(centred)
        self._small: dict[tuple[Grid, Grid], Tensor] = {}
        self._of: Block | None = None
        self._order = torch.arange(self.images)
        self._moments: dict[tuple[Grid, Grid], tuple[Tensor, Tensor]] = {}
        self._totals: dict[Grid, Tensor] = {}

    def shuffled(self, order: Int64[Tensor, " image"]) -> "Block":
        """The same maps with their images in another order."""
        other = Block.__new__(Block)
        other.images, other.centre, other._maps = self.images, self.centre, self._maps
        other._small, other._of, other._order = {}, self, order
        return other

    def prepare(self, grids: Mapping[Grid, Iterable[Grid]]) -> None:
        """Make what `at` gives of maps of each size for several smaller ones, in one pass over the maps."""
        if self._of is not None:
            return self._of.prepare(grids)
        for grid, wanted in grids.items():
            new = [small for small in dict.fromkeys(wanted) if (grid, small) not in self._small]
            parts = [_shrunk(layer, new) for layer in self._maps[grid]] if new else []
            for at, small in enumerate(new):
                self._small[grid, small] = torch.cat([part[at] for part in parts], 1).transpose(0, 1).flatten(1)

    def at(self, grid: Grid, small: Grid) -> Float[Tensor, "unit row"]:
        """U' of the maps of size `grid`, U being the upsampling from `small`; a row an image and place."""
        if (grid, small) not in self._small:
            if self._of is not None:
                whole = self._of.at(grid, small).unflatten(1, (self.images, -1))
                self._small[grid, small] = whole[:, self._order].flatten(1)
            elif grid == small:
                self._small[grid, small] = torch.cat(self._maps[grid], 1).transpose(0, 1).flatten(1)
            else:
                self.prepare({grid: [small]})
        return self._small[grid, small]

    def totals(self, grid: Grid) -> Float[Tensor, "unit image"]:
        """Sums over places of the maps of size `grid`: those of what was made smaller, as a row of U adds up to 1."""
        if grid not in self._totals:
            known = [small for large, small in self._small if large == grid]
            if known:
                self._totals[grid] = self._small[grid, known[0]].unflatten(1, (self.images, -1)).sum(2)
            else:
                self._totals[grid] = torch.cat([layer.sum((2, 3)) for layer in self._maps[grid]], 1).T
        return self._totals[grid]

    def moments(self, grid: Grid, large: Grid) -> tuple[Float64[Tensor, " unit"], Float64[Tensor, " unit"]]:
        """Sums, and sums of squares, over images and places of the maps of size `grid` upsampled to `large`."""
        if self._of is not None:  # they do not know the order of images
            return self._of.moments(grid, large)
        if (grid, large) not in self._moments:
            if grid == large:
                # image by image, so that float32 holds it
                norms = [torch.linalg.vector_norm(layer, dim=(2, 3)) for layer in self._maps[grid]]
                square = torch.cat(norms, 1).double().square().sum(0)
                self._moments[grid, large] = self.totals(grid).double().sum(1), square
            else:
                parts = [_sums(layer, large) for layer in self._maps[grid]]
                total, square = (torch.cat(each) for each in zip(*parts, strict=True))
                self._moments[grid, large] = total, square
        return self._moments[grid, large]


def _shrunk(
    maps: Float[Tensor, "image channel y x"], smalls: Sequence[Grid]
) -> list[Float[Tensor, "image channel _y _x"]]:
    """U' of maps, U being the upsampling from each of `smalls`: down for all of them at once, then to the right."""
    height, width = maps.shape[2:]
    down = torch.cat([interpolation(rows, height) for rows, _ in smalls], 1).T.to(maps)
    flat = maps.flatten(0, 1)
    made = torch.bmm(down.expand(len(flat), -1, -1), flat).unflatten(0, maps.shape[:2])
    parts = made.split([rows for rows, _ in smalls], 2)
    right = [interpolation(columns, width).to(maps) for _, columns in smalls]
    return [part if to.shape[0] == to.shape[1] else part @ to for part, to in zip(parts, right, strict=True)]


def _sums(maps: Float[Tensor, "image channel y x"], large: Grid) -> tuple[Float64[Tensor, " _"], Float64[Tensor, " _"]]:
    """Of each channel, upsampled to `large`: the sum over images and places, and that of the squares."""
    down, right = (interpolation(*sides).to(maps) for sides in zip(maps.shape[2:], large, strict=True))
    total = (maps.sum(0).double() * torch.outer(down.sum(0), right.sum(0))).sum((1, 2))
    # (U d)^2 summed up is d'(U'U)d, and U'U is a product of one matrix down and one to the right
    square = (maps * ((down.T @ down) @ maps @ (right.T @ right))).sum((2, 3))
    return total, square.double().sum(0)


@lru_cache(maxsize=256)
def interpolation(low: int, high: int) -> Float[Tensor, "high low"]:
    """Bilinear upsampling along one axis as a matrix: that of `torch.nn.functional.interpolate`. Its rows sum to 1."""
    return F.interpolate(torch.eye(low)[:, None], size=high, mode="linear", align_corners=False)[:, 0].T.contiguous()


class Correlation:
    """Sums over images from which the correlations of two models' units follow.

    a, b: channels and size of each layer (`layers_of`). Its memory is 8 bytes a pair of units.
    """

    def __init__(self, a: Sequence[tuple[int, Grid]], b: Sequence[tuple[int, Grid]]) -> None:
        self._rows, self._columns = units_by_size(a), units_by_size(b)
        self._images = 0
        self._cross = {
            (one, other): torch.zeros(len(rows), len(columns), dtype=torch.float64)
            for one, rows in self._rows.items()
            for other, columns in self._columns.items()
        }
        self._of_a = {key: torch.zeros(2, len(self._rows[key[0]]), dtype=torch.float64) for key in self._cross}
        self._of_b = {key: torch.zeros(2, len(self._columns[key[1]]), dtype=torch.float64) for key in self._cross}
        self._centres: list[Tensor] = []

    def add(self, a: Block, b: Block) -> None:
        """Take in a block of images.

        Raises DataError for values that are not finite, naming the unit.
        """
        if a.images != b.images:
            raise ShapeError(f"correlation: {a.images} images of one model, {b.images} of the other. Pass the same.")
        a.prepare(self._smaller(0))
        b.prepare(self._smaller(1))
        for one, other in self._cross:
            small = (min(one[0], other[0]), min(one[1], other[1]))
            large = (max(one[0], other[0]), max(one[1], other[1]))
            of_a, of_b = torch.stack(a.moments(one, large)).cpu(), torch.stack(b.moments(other, large)).cpu()
            _check_finite(of_a[1], self._rows[one], "first")
            _check_finite(of_b[1], self._columns[other], "second")
            self._cross[one, other] += (a.at(one, small) @ b.at(other, small).T).double().cpu()
            self._of_a[one, other] += of_a
            self._of_b[one, other] += of_b
        self._images += a.images
        self._centres = [a.centre.cpu(), b.centre.cpu()]

    def _smaller(self, side: int) -> dict[Grid, list[Grid]]:
        """The sizes that maps of each size are made smaller to."""
        found: dict[Grid, list[Grid]] = {}
        for pair in self._cross:
            small = (min(pair[0][0], pair[1][0]), min(pair[0][1], pair[1][1]))
            if small != pair[side]:
                found.setdefault(pair[side], []).append(small)
        return found

    def state(self) -> dict[str, Tensor]:
        """All sums so far, for `restore` of another one of the same layers."""
        found = {f"{name}{at}": part for name in SUMS for at, part in enumerate(getattr(self, name).values())}
        found |= {f"centre{side}": centre.clone() for side, centre in enumerate(self._centres)}
        return found | {"images": torch.tensor(self._images)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the sums of `state`."""
        for name in SUMS:
            for at, part in enumerate(getattr(self, name).values()):
                part.copy_(state[f"{name}{at}"])
        self._centres = [state[f"centre{side}"] for side in (0, 1) if f"centre{side}" in state]
        self._images = int(state["images"])

    def __add__(self, other: "Correlation") -> "Correlation":
        """Of the images of both, which have the same centres."""
        both = Correlation.__new__(Correlation)
        both._rows, both._columns = self._rows, self._columns
        both._images, both._centres = self._images + other._images, self._centres or other._centres
        for name in SUMS:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(both, name, {key: mine[key] + theirs[key] for key in mine})
        return both

    def table(self) -> Float64[np.ndarray, "unit_a unit_b"]:
        """The correlations; 0 of a unit that is constant. Raises DataError if no block was added."""
        if not self._images:
            raise DataError("correlation: there are no images. Add at least one block.")
        found = np.zeros((sum(map(len, self._rows.values())), sum(map(len, self._columns.values()))))
        still = [self._constant(side) for side in (0, 1)]
        for (one, other), cross in self._cross.items():
            rows, columns = self._rows[one], self._columns[other]
            count = self._images * max(one[0], other[0]) * max(one[1], other[1])
            (sum_a, square_a), (sum_b, square_b) = self._of_a[one, other], self._of_b[one, other]
            covariance = cross - sum_a[:, None] * sum_b / count
            deviations = (square_a - sum_a**2 / count)[:, None] * (square_b - sum_b**2 / count)
            part = (covariance / deviations.clamp(min=0).sqrt()).numpy()
            part[still[0][rows]] = 0
            part[:, still[1][columns]] = 0
            found[np.ix_(rows, columns)] = part
        return found

    def constant(self) -> tuple[np.ndarray, np.ndarray]:
        """Which units of each model are constant on the images, in the order of the layers."""
        return self._constant(0), self._constant(1)

    def _constant(self, side: int) -> np.ndarray:
        """Decided once a unit, at the least upsampled of the sizes that it was compared at."""
        sizes, sums = ((self._rows, self._of_a), (self._columns, self._of_b))[side]
        found = np.zeros(sum(map(len, sizes.values())), bool)
        for grid, units in sizes.items():
            keys = [key for key in self._cross if key[side] == grid]
            large = {key: (max(key[0][0], key[1][0]), max(key[0][1], key[1][1])) for key in keys}
            key = min(keys, key=lambda each: large[each])
            count = self._images * large[key][0] * large[key][1]
            total, square = sums[key].numpy()
            variance = np.maximum(square / count - (total / count) ** 2, 0)
            mean = self._centres[side].numpy()[units] + total / count
            found[units] = variance <= RESOLVED**2 * (variance + mean**2)
        return found


def units_by_size(layers: Sequence[tuple[int, Grid]]) -> dict[Grid, Int64[np.ndarray, " _unit"]]:
    """The numbers of the units that have each size, in the order in which `Block` puts them."""
    found: dict[Grid, list[int]] = {}
    start = 0
    for channels, grid in layers:
        found.setdefault(grid, []).extend(range(start, start + channels))
        start += channels
    return {grid: np.array(units, np.int64) for grid, units in found.items()}


def _check_finite(squares: Float64[Tensor, " unit"], units: Int64[np.ndarray, " unit"], which: str) -> None:
    bad = (~torch.isfinite(squares)).numpy()
    if bad.any():
        raise DataError(
            f"correlation: unit {units[bad][0]} of the {which} model has values that are not finite ({bad.sum()} units "
            "have). Find out which layer makes them, and leave it out."
        )
