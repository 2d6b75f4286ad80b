"""Room data: what a model that draws is asked for, so that what it drew can be compared with it."""

import zlib

import numpy as np
import xarray as xr

from optogram.data.captions import captions
from optogram.data.scenes import ATTRIBUTES, held_out_combinations, value_names
from optogram.errors import DataError, ParamError


def scene_requests(count: int, *, seed: int) -> xr.Dataset:
    """Requests for scenes of one object whose caption states every attribute: all values equally often.

    A tenth has a combination of shape, colour and background that no training split holds. Returns `prompt` (image)
    str, `label` (image, attribute) int16, `value_name` (attribute, value) str and `held_out` (image) bool.

    Raises ParamError for fewer than one request.

    >>> from optogram.data import scene_requests
    >>> scene_requests(2, seed=0).prompt.dtype.kind
    'U'
    """
    if count < 1:
        raise ParamError(f"requests: count = {count}, expected at least 1.")
    draw, speech = (
        np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, zlib.crc32(b"requests"), k))))
        for k in range(2)
    )
    columns = [draw.permutation(np.arange(count) % len(values)) for values in ATTRIBUTES.values()]
    label = np.stack(columns, 1).astype(np.int16)
    names = [*ATTRIBUTES]
    label[:, names.index("count")] = 0
    shape, colour, ground = (label[:, names.index(name)] for name in ("shape", "colour", "background"))
    prompt, _ = captions(label, 1, speech, full=1)
    return xr.Dataset(
        {
            "prompt": ("image", prompt[:, 0]),
            "label": (("image", "attribute"), label),
            "value_name": (("attribute", "value"), value_names()),
            "held_out": ("image", held_out_combinations()[shape, colour, ground]),
        },
        {"attribute": names},
        {"class_attribute": "shape"},
    )


def class_requests(images: xr.Dataset, count: int, *, seed: int) -> xr.Dataset:
    """Requests for images of classes, with captions of images of an images/<split> artifact, classes in turn.

    Returns `prompt` (image) str, `label` (image, attribute) int16 and `value_name`, of all attributes of that image.

    Raises DataError if a class has no image, and ParamError for fewer than one request.

    >>> from optogram.data import Scenes, class_requests
    >>> class_requests(Scenes("eval", 60, seed=0, size=32).read(0, 60), 3, seed=0).label.sel(attribute="shape").values
    array([0, 1, 2], dtype=int16)
    """
    if count < 1:
        raise ParamError(f"requests: count = {count}, expected at least 1.")
    names = [str(name) for name in images["attribute"].values]
    column = names.index(str(images.attrs["class_attribute"]))
    label = images["label"].values
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, zlib.crc32(b"class requests")))))
    classes = [str(value) for value in images["value_name"].values[column] if value]
    rows = [np.flatnonzero(label[:, column] == k) for k in range(len(classes))]
    if empty := [name for name, of in zip(classes, rows, strict=True) if not len(of)]:
        raise DataError(f"requests: class {empty[0]!r} has no image, whose caption could be asked for.")
    chosen = np.array([draw.choice(rows[k % len(rows)]) for k in range(count)])
    caption = images["caption"].values.astype(str)[chosen, draw.integers(0, images.sizes["variant"], count)]
    return xr.Dataset(
        {
            "prompt": ("image", caption),
            "label": (("image", "attribute"), label[chosen]),
            "value_name": (("attribute", "value"), images["value_name"].values),
        },
        {"attribute": names},
        {"class_attribute": images.attrs["class_attribute"]},
    )


def without_captions(requests: xr.Dataset, count: int) -> xr.Dataset:
    """The requests, and behind them `count` that ask for nothing: the prompt is "", and every label -1.

    >>> from optogram.data import scene_requests, without_captions
    >>> without_captions(scene_requests(2, seed=0), 1).prompt.values[2].item()
    ''
    """
    if not count:
        return requests
    nothing = requests.isel(image=np.zeros(count, int)).copy(deep=True)
    nothing["prompt"][:] = ""
    nothing["label"][:] = -1
    if "held_out" in nothing:
        nothing["held_out"][:] = False
    each = xr.concat([requests.drop_vars("value_name"), nothing.drop_vars("value_name")], "image")
    return each.assign(value_name=requests["value_name"])
