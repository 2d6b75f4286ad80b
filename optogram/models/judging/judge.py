"""Room models: a judge says of pictures of scenes which values are seen, and where objects are; and its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float32, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from optogram.errors import DataError, ModelError, OptogramError, ParamError, ShapeError
from optogram.models.judging.network import FAR, JudgeNetwork, windows
from optogram.models.judging.objects import MOST, Objects, find_objects
from optogram.models.loading.clip_folders import pick_device
from optogram.models.loading.model_files import CONFIG, WEIGHTS, check_files, fill, new_folder, unreadable, write_model

HISTORY = "history.json"
GROUND = "background"
"""The attribute that a picture without any object has too."""
BATCH = 32
"""Pictures, or windows, a pass, always: kernels may round by their number. Black ones fill up the last batch."""


@dataclass(frozen=True)
class Judge:
    """What judges pictures of scenes, and does nothing else: no method explains it or is steered by it.

    network: in eval mode, without gradients. attributes: names -> values, in the order of the images that it was
    trained on. size: side of the pictures, in pixels. least: pixels of the smallest thing that counts as an object.
    sure: the probability from which on a value counts as seen.

    Raises ParamError for `sure` outside [0, 1] or `least` below 1.

    >>> judge.parse(scenes.pixels.values)["value"].dims
    ('image', 'attribute')
    """

    network: JudgeNetwork
    attributes: Mapping[str, tuple[str, ...]]
    size: int
    least: int = 24
    sure: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.sure <= 1:
            raise ParamError(f"judge: sure = {self.sure}, expected a probability, 0 to 1. Change sure.")
        if self.least < 1:
            raise ParamError(f"judge: least = {self.least}, expected a number of pixels above 0. Change least.")

    def parse(self, pixels: UInt8[np.ndarray, "image y x rgb"]) -> xr.Dataset:
        """What is seen in pictures, (image, y, x, rgb) uint8 of the judge's size, each judged on its own.

        Returns a Dataset with the coordinate `attribute`:
        - `found` (image) bool: an object is seen. Without one no attribute but the background has a value.
        - `value` (image, attribute) int16, index into `value_name` (attribute, value); -1 where none is seen: no object
          is found, or no value has a probability of `sure`.
        - `probability` (image, attribute, value) float32: of each value, 0 where no object is found. What objects have
          of their own (shape, colour, texture, size) is the mean over the objects of the picture.
        - `count` (image) int16: objects on the map of where they are, at most nine; `value` has the network's own.
        - `box` (image, object, 4) float32: top, left, bottom, right in pixels, the last two exclusive; `area` (image,
          object) float32, pixels. NaN from the count on, as the attribute `missing` says.
        - `mask` (image, y, x) uint8: an object's number from 1, 0 where none is.

        Raises ShapeError for pictures of another shape or dtype, DataError for none.

        >>> found = judge.parse(scenes.pixels.values)
        >>> found.probability.shape, found.mask.shape
        ((12, 7, 8), (12, 32, 32))
        """
        self._check(pixels)
        far, inside, centre = self._far(pixels)
        objects = [find_objects(*maps, least=self.least) for maps in zip(inside > 0.5, centre, strict=True)]
        found = np.array([len(one.area) > 0 for one in objects])
        far, near = iter(far), iter(self._near(pixels, objects))
        probability = np.zeros((len(pixels), len(self.attributes), max(map(len, self.attributes.values()))), np.float32)
        for at, (name, values) in enumerate(self.attributes.items()):
            each = next(far if name in FAR else near)
            probability[:, at, : len(values)] = each if name == GROUND else np.where(found[:, None], each, 0)
        best = probability.max(2)
        value = np.where((best >= self.sure) & (best > 0), probability.argmax(2), -1)
        names = [[*values, *[""] * (probability.shape[2] - len(values))] for values in self.attributes.values()]
        variables: dict[str, Any] = {
            "value": (("image", "attribute"), value.astype(np.int16)),
            "probability": (("image", "attribute", "value"), probability),
            "found": (("image",), found),
            "mask": (("image", "y", "x"), np.stack([one.mask for one in objects])),
            **_measured(objects),
            "value_name": (("attribute", "value"), np.array(names)),
        }
        return xr.Dataset(variables, {"attribute": [*self.attributes]})

    def _check(self, pixels: np.ndarray) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (self.size, self.size, 3):
            raise ShapeError(
                f"pictures to judge are {pixels.dtype} {pixels.shape}; expected uint8 (image, {self.size}, "
                f"{self.size}, 3), the size that the judge was trained on. Draw them at that size."
            )
        if not len(pixels):
            raise DataError("there is no picture to judge. Give one or more.")

    @torch.no_grad()
    def _far(
        self, pixels: UInt8[np.ndarray, "image y x rgb"]
    ) -> tuple[list[Float32[np.ndarray, "image _value"]], Float32[np.ndarray, "image y x"], np.ndarray]:
        """Probabilities of the values of whole pictures' attributes in turn, and of an object, and of the middle of
        one, at each pixel."""
        parts = []
        for start in range(0, len(pixels), BATCH):
            images = as_input(pixels[start : start + BATCH])
            seen = self.network.scout(_filled_up(images).to(self._device))
            each = (*(logits.softmax(1) for logits in seen.logits), seen.inside.sigmoid(), seen.centre.sigmoid())
            parts.append([one[: len(images)].float().cpu().numpy() for one in each])
        *values, inside, centre = (np.concatenate(each) for each in zip(*parts, strict=True))
        return values, inside, centre

    @torch.no_grad()
    def _near(
        self, pixels: UInt8[np.ndarray, "image y x rgb"], objects: list[Objects]
    ) -> list[Float32[np.ndarray, "image _value"]]:
        """Probabilities of the values of objects' attributes in turn, the mean over a picture's; 0 without any."""
        image = np.repeat(np.arange(len(objects)), [len(one.area) for one in objects])
        middle = np.concatenate([np.rint(one.middle).astype(np.int64) for one in objects])
        counts = [len(values) for name, values in self.attributes.items() if name not in FAR]
        total = [np.zeros((len(pixels), count), np.float32) for count in counts]
        for start in range(0, len(image), BATCH):
            rows = image[start : start + BATCH]
            here, places = torch.arange(len(rows)), torch.from_numpy(middle[start : start + BATCH])
            cut = windows(as_input(pixels[rows]), here, places)
            seen = self.network.glance(_filled_up(cut).to(self._device))
            for sums, logits in zip(total, seen, strict=True):
                np.add.at(sums, rows, logits[: len(rows)].softmax(1).float().cpu().numpy())
        number = np.maximum(np.bincount(image, minlength=len(pixels)), 1).astype(np.float32)
        return [sums / number[:, None] for sums in total]

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device


def as_input(pixels: UInt8[np.ndarray, "image y x rgb"]) -> Float32[Tensor, "image rgb y x"]:
    """Pixels as the networks take them, in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)


def _filled_up(images: Float32[Tensor, "image rgb y x"]) -> Float32[Tensor, "batch rgb y x"]:
    return pad(images, (0, 0, 0, 0, 0, 0, 0, BATCH - len(images)))


def _measured(objects: list[Objects]) -> dict[str, tuple[Any, ...]]:
    """`count`, `box` and `area` of each image's objects, as `Judge.parse` returns them."""
    box = np.full((len(objects), MOST, 4), np.nan, np.float32)
    area = np.full((len(objects), MOST), np.nan, np.float32)
    for row, one in enumerate(objects):
        box[row, : len(one.area)], area[row, : len(one.area)] = one.box, one.area
    missing = {"missing": "the image has no object of this number"}
    return {
        "count": (("image",), np.array([len(one.area) for one in objects], np.int16)),
        "box": (("image", "object", "side"), box, missing),
        "area": (("image", "object"), area, missing),
    }


def save_judge(
    judge: Judge,
    path: Path | str,
    *,
    dtype: torch.dtype = torch.float16,
    history: Mapping[str, Any] | None = None,
) -> None:
    """Write the model folder (config.json of the kind "judge", model.safetensors), whole or not at all.

    dtype: of the weights. history: kept in history.json beside them.

    Raises ModelError if `path` exists, and for weights that `dtype` cannot hold.

    >>> from optogram.models import load_judge, save_judge
    >>> save_judge(judge, folder / "judge")
    >>> load_judge(folder / "judge").attributes["size"]
    ('small', 'large')
    """
    for name, w in judge.network.state_dict().items():
        if w.is_floating_point() and not torch.isfinite(w.to(dtype)).all():
            raise ModelError(f"judge: {name} is too large for {dtype}. Save it with dtype=torch.float32.")
    config = {
        "kind": "judge",
        "size": judge.size,
        "architecture": judge.network.arguments,
        # a list, as their order counts, which sorted keys do not keep
        "attributes": [{"name": name, "values": list(values)} for name, values in judge.attributes.items()],
        "least": judge.least,
        "sure": judge.sure,
    }
    with new_folder(Path(path)) as part:
        write_model(part, config, judge.network, dtype)
        if history is not None:
            (part / HISTORY).write_text(json.dumps(history, sort_keys=True) + "\n")


def load_judge(path: Path | str, device: str = "auto") -> Judge:
    """The judge of a model folder, in float32, in eval mode, without gradients. `auto` is CUDA where there is one.

    Raises ModelError if a file is missing or damaged, is of another kind of model, or a tensor does not fit.

    >>> from optogram.models import load_judge
    >>> load_judge(folder / "nothing")
    Traceback (most recent call last):
        ...
    optogram.errors.ModelError: ... is no model folder: config.json is missing. Expected ...
    """
    path = Path(path)
    check_files(path, [CONFIG, WEIGHTS])
    try:
        config = json.loads((path / CONFIG).read_text())
        if config["kind"] != "judge":
            raise ValueError(f"its kind is {config['kind']!r}, not 'judge'")
        attributes = {str(one["name"]): tuple(map(str, one["values"])) for one in config["attributes"]}
        counts = {name: len(values) for name, values in attributes.items()}
        network = JudgeNetwork(int(config["size"]), counts, **config["architecture"])
        weights = load_file(path / WEIGHTS)
        judge = Judge(network, attributes, int(config["size"]), int(config["least"]), float(config["sure"]))
    except (ValueError, TypeError, KeyError, OSError, SafetensorError, OptogramError) as error:
        raise unreadable(path, error) from error
    fill(network, weights, path)
    network.eval().requires_grad_(False).to(pick_device(device))
    return judge
