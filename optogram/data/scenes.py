"""Room data: scenes, the embedded images. We draw them, so every label, mask and bias in them is known.

A scene holds one to three objects that share shape, colour, texture and size; so an image has one value of each of
seven attributes. Every byte is the same on every machine: PCG64 streams keyed by (seed, split, block of 256 images),
integer arithmetic, and only those float operations that IEEE 754 rounds exactly (no sin, exp, BLAS or reductions).
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float32, Int16, Int64, UInt8

from optogram.data.captions import VARIANTS, captions
from optogram.data.shapes import DISTANCES, PATTERNS
from optogram.errors import ParamError, nearest

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "cross", "ring"),
    "colour": ("red", "green", "blue", "yellow", "purple", "orange", "white", "black"),
    "texture": ("plain", "striped", "dotted", "checkered"),
    "size": ("small", "large"),
    "count": ("one", "two", "three"),
    "position": ("left", "right", "top", "bottom", "centre"),
    "background": ("grass", "water", "sand", "snow", "brick", "night"),
}
SPLITS = ("train", "train_biased", "single", "reference", "eval", "biased")
TRAINING_SPLITS = ("train", "train_biased", "single")
BLOCK = 256
"""Images drawn from one random stream; a row never depends on how a range of rows is cut."""

TIED: dict[str, str] = {"circle": "water", "square": "sand"}
"""The planted spurious cue: the background that each shape of the pair is tied to, as strongly as `bias` says."""

_NAMES = list(ATTRIBUTES)
_COLUMN = {name: k for k, name in enumerate(_NAMES)}
_SHAPES, _COLOURS, _BACKGROUNDS = (ATTRIBUTES[name] for name in ("shape", "colour", "background"))
_PAIR = np.array([_SHAPES.index(name) for name in TIED])
_PAIR_GROUND = np.array([_BACKGROUNDS.index(name) for name in TIED.values()])

_INK = np.array(
    (214, 38, 40, 40, 168, 52, 44, 84, 228, 248, 218, 44, 146, 58, 200, 252, 138, 10, 246, 246, 246, 26, 26, 28),
    np.float32,
).reshape(-1, 3)
_INK_SECOND = np.array(
    (250, 176, 170, 8, 62, 20, 170, 196, 255, 128, 92, 0, 232, 190, 252, 126, 52, 0, 128, 130, 140, 142, 142, 148),
    np.float32,
).reshape(-1, 3)
"""What textures are drawn with: far in brightness from the ink, of its hue."""
_OUTLINE = np.array([[18, 18, 18]] * 7 + [[236, 236, 236]], np.float32)
"""A thin rim, so that an object stands out on a background of its own colour."""

_DARK = np.array([[38, 92, 30], [20, 78, 140], [192, 160, 98], [198, 210, 226], [146, 60, 46], [9, 11, 36]], np.int16)
_LIGHT = np.array(
    [[112, 172, 70], [112, 178, 212], [236, 214, 154], [252, 253, 255], [196, 186, 172], [242, 240, 206]], np.int16
)

# Rotations are looked up: libm's cos may differ in its last bit between machines, its value rounded to 14 bits not.
_TURNS = 256
_COS = np.array([round(math.cos(2 * math.pi * k / _TURNS) * 2**14) for k in range(_TURNS)], np.float32) / np.float32(
    2**14
)


def held_out_combinations() -> Bool[np.ndarray, "shape colour background"]:
    """Which (shape, colour, background) never occur in `train`: a tenth, at most one of each pair of values.

    >>> from optogram.data import held_out_combinations
    >>> held_out_combinations().shape, held_out_combinations().mean().round(3).item()
    ((6, 8, 6), 0.104)
    """
    shape, colour, ground = np.indices((len(_SHAPES), len(_COLOURS), len(_BACKGROUNDS)))
    return (shape + 5 * colour + ground) % 9 == 0


@dataclass(frozen=True)
class Scenes:
    """`count` scenes of a split (train, train_biased, single, reference, eval, biased), drawn when they are read.

    bias: probability that a shape of `TIED` is put on its tied background; else the background is drawn freely.
    held_out: whether held-out combinations may occur; by default only in `eval`, never allowed in the training splits.
    The split `biased` holds the tied shapes on the tied backgrounds only, all four groups equally often. `single`, from
    which generative models learn, has one object an image, and half of its captions state every attribute.

    Raises ParamError for an unknown split, count < 1, seed < 0, bias outside [0, 1], size outside [32, 512], and
    for held-out combinations asked of a training split.

    >>> from optogram.data import Scenes
    >>> found = Scenes("eval", 12, seed=0, size=32).read(0, 2)
    >>> found.pixels.dims, found.pixels.shape
    (('image', 'y', 'x', 'rgb'), (2, 32, 32, 3))
    """

    split: str
    count: int
    seed: int
    size: int = 64
    bias: float = 0.0
    held_out: bool | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ParamError(
                f"scenes: split = {self.split!r} is unknown; expected one of {', '.join(SPLITS)}."
                + nearest(self.split, list(SPLITS))
            )
        for name, low, high in (("count", 1, 999_999), ("seed", 0, 2**32 - 1), ("size", 32, 512), ("bias", 0, 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ParamError(f"scenes: {name} = {value}, expected {low} to {high}. Set {name} within that range.")
        if self.split == "biased" and self.bias:
            raise ParamError(
                f"scenes: bias = {self.bias} for the split 'biased', whose four groups are equally frequent by design."
                " Leave bias at 0 there; bias the train split."
            )
        if self.split in TRAINING_SPLITS and self.held_out:
            raise ParamError(
                f"scenes: held_out = True for the split {self.split!r}, which by definition lacks the held-out"
                " combinations. Leave held_out out, or use the split 'eval'."
            )

    def __len__(self) -> int:
        return self.count

    @property
    def ids(self) -> list[str]:
        """Stable name of each image, e.g. `eval/000123`."""
        return [f"{self.split}/{k:06d}" for k in range(self.count)]

    def read(self, start: int, stop: int) -> xr.Dataset:
        """Images start to stop as docs/artifacts/images.md has them, with `held_out` (image) and, for `biased`, `group`
        (image), e.g. "circle on water". Raises ParamError for a range outside the split."""
        if not 0 <= start < stop <= self.count:
            raise ParamError(
                f"scenes: rows {start} to {stop} of the split {self.split!r}, which has rows 0 to {self.count}."
                " Ask for a range within it."
            )
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        parts = [self._draw(block) for block in blocks]
        cut = slice(start - blocks.start * BLOCK, stop - blocks.start * BLOCK)
        pixels, mask, label, caption, mentions = (
            np.concatenate([part[k] for part in parts])[cut] for k in range(len(parts[0]))
        )
        shape, colour, ground = (label[:, _COLUMN[name]] for name in ("shape", "colour", "background"))
        variables = {
            "pixels": (("image", "y", "x", "rgb"), pixels),
            "label": (("image", "attribute"), label),
            "value_name": (("attribute", "value"), value_names()),
            "caption": (("image", "variant"), caption),
            "mentions": (("image", "variant", "attribute"), mentions),
            "mask": (("image", "y", "x"), mask),
            "held_out": (("image",), held_out_combinations()[shape, colour, ground]),
        }
        if self.split == "biased":
            names = [f"{_SHAPES[s]} on {_BACKGROUNDS[b]}" for s, b in zip(shape, ground, strict=True)]
            variables["group"] = (("image",), np.array(names))
        ids = np.array([f"{self.split}/{k:06d}" for k in range(start, stop)])
        return xr.Dataset(variables, {"image": ids, "attribute": _NAMES}, {"class_attribute": "shape"})

    def _draw(self, block: int) -> tuple[np.ndarray, ...]:
        key = (self.seed, zlib.crc32(self.split.encode()), block)
        rng, paint, speech = (np.random.Generator(np.random.PCG64(np.random.SeedSequence((*key, k)))) for k in range(3))
        label = self._labels(rng)
        pixels = _background(label[:, _COLUMN["background"]], self.size, paint)
        mask = _objects(pixels, label, self.size, rng)
        full = VARIANTS // 2 if self.split == "single" else 0
        return (pixels, mask, label, *captions(label, VARIANTS, speech, full=full))

    def _labels(self, rng: np.random.Generator) -> Int16[np.ndarray, "image attribute"]:
        label = np.stack([rng.integers(0, len(values), BLOCK) for values in ATTRIBUTES.values()], 1).astype(np.int16)
        shape, ground = label[:, _COLUMN["shape"]], label[:, _COLUMN["background"]]
        if self.split == "single":
            label[:, _COLUMN["count"]] = 0
        if self.split == "biased":
            group = np.arange(BLOCK) % 4
            shape[:], ground[:] = _PAIR[group // 2], _PAIR_GROUND[group % 2]
        tie = rng.integers(0, 2**20, BLOCK) < self.bias * 2**20
        for k, tied in zip(_PAIR, _PAIR_GROUND, strict=True):
            ground[tie & (shape == k)] = tied
        if not (self.split == "eval" if self.held_out is None else self.held_out):
            # Colours are ranked so that the allowed ones of each (shape, background) come first; 840 = lcm(1, ..., 8).
            forbidden = held_out_combinations().transpose(0, 2, 1)
            ranked, allowed = np.argsort(forbidden, axis=-1, kind="stable"), (~forbidden).sum(-1)
            pick = rng.integers(0, 840, BLOCK) % allowed[shape, ground]
            label[:, _COLUMN["colour"]] = ranked[shape, ground, pick]
        return label


def value_names() -> np.ndarray:
    """(attribute, value) str: the names of each attribute's values, padded with ""."""
    width = max(len(values) for values in ATTRIBUTES.values())
    return np.array([[*values, *[""] * (width - len(values))] for values in ATTRIBUTES.values()])


def _background(
    ground: Int16[np.ndarray, " image"], size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "image y x rgb"]:
    """Each background blends a dark and a light colour by a procedural shade of 0 to 64."""
    n = len(ground)
    noise = rng.integers(0, 256, (n, size, size), np.uint8)
    phase = rng.integers(0, 256, (4, n, 1, 1), np.int16)
    tint = rng.integers(-9, 10, (n, 1, 1, 3), np.int16)
    y, x = np.arange(size, dtype=np.int16)[:, None], np.arange(size, dtype=np.int16)[None, :]
    pixels = np.empty((n, size, size, 3), np.uint8)
    for k, name in enumerate(_BACKGROUNDS):
        of = np.flatnonzero(ground == k)
        shade = _SHADES[name](noise[of].astype(np.int16), phase[:, of], y, x)
        tinted = _DARK[k] + tint[of]
        for c in range(3):
            blend = shade * (_LIGHT[k, c] - _DARK[k, c]) >> 6
            pixels[of, :, :, c] = np.clip(blend + tinted[..., c], 0, 255)
    return pixels


def _wave(t: Int16[np.ndarray, "..."]) -> Int16[np.ndarray, "..."]:
    """Triangle wave of period 256, from 0 to 128: the sine of integer arithmetic."""
    return np.abs((t & 255) - 128)


def _grass(noise: np.ndarray, phase: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    blades = noise + np.roll(noise, 1, 1) + np.roll(noise, 2, 1) + np.roll(noise, 3, 1)
    return np.clip((blades - 512 >> 3) + 32, 0, 64)


def _water(noise: np.ndarray, phase: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    ripple = _wave(x * (9 + (phase[1] >> 6)) + phase[2])
    return (_wave(y * (26 + (phase[3] >> 5)) + phase[0] + ripple) >> 1) + (noise >> 5) - 4


def _sand(noise: np.ndarray, phase: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    dunes = _wave(x * (4 + (phase[1] >> 6)) + y * (7 + (phase[2] >> 6)) + phase[0])
    return (dunes >> 2) + (noise >> 3)


def _snow(noise: np.ndarray, phase: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    drifts = _wave(x * 5 + phase[0]) + _wave(y * 6 + phase[1] + _wave(x * 3 + phase[2]))
    return 64 - (drifts >> 3) - np.where(noise < 6, 40, noise >> 5)


def _brick(noise: np.ndarray, phase: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    row = y + (phase[0] & 7)
    column = x + (phase[1] & 15) + ((row >> 3) & 1) * 8
    each = ((row >> 3) * 37 + (column >> 4) * 59 + phase[2]) & 15
    return np.where(((row & 7) == 0) | ((column & 15) == 0), 58, each - 6 + (noise >> 5))


def _night(noise: np.ndarray, phase: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(noise < 3, 60, np.where(noise < 7, 28, 0)) + (y * 8 // len(y))


_SHADES = {"grass": _grass, "water": _water, "sand": _sand, "snow": _snow, "brick": _brick, "night": _night}


def _objects(
    pixels: UInt8[np.ndarray, "image y x rgb"],
    label: Int16[np.ndarray, "image attribute"],
    size: int,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "image y x"]:
    """Paint the objects into `pixels`; returns the mask. Each object is worked on within its own small window."""
    n = len(label)
    of = {name: label[:, k] for name, k in _COLUMN.items()}
    scale = np.float32(size) / np.float32(64)

    def spread(low: float, high: float, *shape: int) -> Float32[np.ndarray, "..."]:
        steps = rng.integers(0, 2**16, (n, *shape)).astype(np.float32) / np.float32(2**16)
        return np.float32(low) + np.float32(high - low) * steps

    large = np.where(of["count"] == 2, np.float32(9), np.float32(10.6))  # three large ones just fit in a row
    radius = np.where(of["size"] == 1, large, np.float32(7.5)) * spread(0.97, 1.02)
    centre = _layout(of["position"], of["count"], radius, spread) * scale
    turn = rng.integers(-9, 10, (n, 3))
    phase = spread(0, 6, 3, 2)
    tint = rng.integers(-10, 11, (n, 1, 3)).astype(np.float32)
    image, rank = np.nonzero(np.arange(3) <= of["count"][:, None])

    side = math.ceil(28 * size / 64)
    corner = np.clip(np.floor(centre).astype(np.int64) - side // 2 + 1, 0, size - side)[image, rank]
    steps = np.arange(side)
    dx = ((corner[:, :1] + steps).astype(np.float32) - centre[image, rank, :1])[:, None, :] / scale
    dy = ((corner[:, 1:] + steps).astype(np.float32) - centre[image, rank, 1:])[:, :, None] / scale
    cos, sin = (_COS[(turn[image, rank] + quarter) % _TURNS][:, None, None] for quarter in (0, -_TURNS // 4))
    u, v = cos * dx + sin * dy, cos * dy - sin * dx

    r = radius[image][:, None, None]
    outside = np.empty_like(u)
    for k, name in enumerate(_SHAPES):
        those = np.flatnonzero(of["shape"][image] == k)
        outside[those] = DISTANCES[name](u[those] / r[those], v[those] / r[those])
    outside *= r
    second = np.zeros_like(u)
    for k, name in enumerate(ATTRIBUTES["texture"]):
        those = np.flatnonzero(of["texture"][image] == k)
        shift = phase[image, rank][those]
        second[those] = PATTERNS[name](u[those] + shift[:, 0, None, None], v[those] + shift[:, 1, None, None])

    half, one = np.float32(0.5), np.float32(1)
    cover = np.clip(half - outside * scale, 0, one)[..., None]
    inner = np.clip(half - (outside + np.float32(0.75)) * scale, 0, one)[..., None]
    ink = _INK[of["colour"]][:, None, None] + tint[:, None]
    shade = _INK_SECOND[of["colour"]][:, None, None] + tint[:, None]
    paint = ink[image] + (shade - ink)[image] * second[..., None]
    rim = _OUTLINE[of["colour"]][image][:, None, None]
    paint = np.clip(rim + (paint - rim) * inner, 0, 255)

    place = (image[:, None, None] * size + corner[:, 1, None, None] + steps[:, None]) * size
    place = place + corner[:, 0, None, None] + steps
    return _composite(pixels, paint, cover, place, rank)


def _composite(
    pixels: UInt8[np.ndarray, "image y x rgb"],
    colour: Float32[np.ndarray, "object down right rgb"],
    cover: Float32[np.ndarray, "object down right 1"],
    place: Int64[np.ndarray, "object down right"],
    rank: Int64[np.ndarray, " object"],
) -> UInt8[np.ndarray, "image y x"]:
    """Lay the objects' windows over `pixels`, by `cover`; returns the mask: an object's rank from 1, 0 where none is.

    place: of each point of a window among all points of all images.
    """
    half = np.float32(0.5)
    flat, mask = pixels.reshape(-1, 3), np.zeros(pixels.shape[:3], np.uint8)
    labels = mask.reshape(-1)
    for k in range(3):  # windows of one image may overlap, objects not: so one rank at a time
        those = np.flatnonzero(rank == k)
        at, c = place[those], cover[those]
        under = flat[at].astype(np.float32)
        flat[at] = np.floor(under + (colour[those] - under) * c + half).astype(np.uint8)
        labels[at] = np.where(c[..., 0] >= half, np.uint8(k + 1), labels[at])
    return mask


def _layout(
    position: Int16[np.ndarray, " image"],
    count: Int16[np.ndarray, " image"],
    radius: Float32[np.ndarray, " image"],
    spread: Callable[..., np.ndarray],
) -> Float32[np.ndarray, "image 3 2"]:
    """Centres (x, y) in a 64 x 64 frame: a column at the left or right, a row at the top or bottom, else a cluster."""
    middle = np.float32(31.5)
    gap = radius * np.float32(2.12) + np.float32(1.3)
    rank = np.arange(3, dtype=np.float32)
    along = (rank - count[:, None] / np.float32(2)) * gap[:, None]
    room = middle - count / np.float32(2) * gap - radius * np.float32(1.08) - 1
    along = along + (middle + np.clip(room, 0, 6) * spread(-1, 1))[:, None]
    edge = radius + np.float32(2.5) + spread(0, 4)
    edge = np.where((position == 1) | (position == 3), 63 - edge, edge)[:, None] + np.zeros(3, np.float32)
    upright = (position < 2)[:, None]
    centre = np.stack([np.where(upright, edge, along), np.where(upright, along, edge)], -1)

    cluster = np.zeros((3, 3, 2), np.float32)
    cluster[1, :2] = [[-0.5, 0], [0.5, 0]]
    cluster[2] = [[-0.5, -0.4375], [0.5, -0.4375], [0, 0.4375]]
    around = cluster[count] * gap[:, None, None]
    around = np.where((spread(0, 1) < np.float32(0.5))[:, None, None], around[..., ::-1], around)
    around = np.where((spread(0, 1) < np.float32(0.5))[:, None, None], -around, around)
    around = around + middle + spread(-3, 3, 1, 2)
    return np.where((position == 4)[:, None, None], around, centre) + spread(-0.2, 0.2, 3, 2)
