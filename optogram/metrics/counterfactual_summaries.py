"""Metrics room, counterfactuals as a whole: means and shares of their rows, and how far they are from a control's."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from optogram.errors import DataError, ShapeError
from optogram.metrics.intervals import Interval, mean_interval, paired_change, share

SHARES = ("flip", "flip_before", "confident", "agreement")
"""Variables that are 1 or 0 of an image (or NaN); all others are measured, and have means."""


def summary(found: xr.Dataset) -> xr.Dataset:
    """Means and shares over the images of `counterfactuals`, with 95 % intervals.

    Returns of each variable over `image`, with its other dimensions: its mean or share under its own name, `_low` and
    `_high`, by Wilson's interval for `SHARES` and by Student's for means; and `_of`, of how many images it is: those
    that are not NaN. A mean of no image is NaN, as are its ends; of one image, nothing is known of the mean.

    Raises DataError if nothing in `found` is over `image`.

    >>> from optogram.metrics.counterfactual_summaries import summary
    >>> found = summary(xr.Dataset({"flip": ("image", [True] * 8 + [False] * 2)}))
    >>> found.flip.item(), found.flip_low.round(3).item(), found.flip_high.round(3).item(), found.flip_of.item()
    (0.8, 0.49, 0.943, 10)
    """
    return _over_images(found, lambda hits: share(hits.sum(), len(hits)))


def against(found: xr.Dataset, control: xr.Dataset) -> xr.Dataset:
    """How far the images of `counterfactuals` are from a control's on the same originals, with 95 % intervals.

    Returns of each variable that both have what `summary` returns, but of the difference found - control, image by
    image: what is common to both, such as images that are easy, cancels. Images of which one of the two has NaN are
    left out; for `agreement` these are all that did not flip in both. Intervals are those of `paired_change` for
    `SHARES` and Student's for means.

    Raises ShapeError unless both have the same images (and points and models), DataError if they have no variable in
    common.

    >>> from optogram.metrics.counterfactual_summaries import against
    >>> found, control = (xr.Dataset({"l1": ("image", values)}) for values in ([0.1, 0.3], [0.2, 0.6]))
    >>> against(found, control).l1.round(3).item()
    -0.2
    """
    common = [name for name in found.data_vars if name in control.data_vars and "image" in found[name].dims]
    first, second = found[common], control[common]
    if dict(first.sizes) != dict(second.sizes) or any(
        not np.array_equal(first[name], second[name]) for name in {*first.coords} & {*second.coords}
    ):
        raise ShapeError(
            f"the result has {dict(first.sizes)}, the control {dict(second.sizes)}, or they differ in coordinates; "
            "expected the same images, points and models in one order. Give both the same originals."
        )
    difference = first.astype(np.float64) - second.astype(np.float64)
    return _over_images(difference, lambda gain: paired_change((gain < 0).sum(), (gain > 0).sum(), len(gain)))


def _over_images(found: xr.Dataset, of_shares: Callable[[np.ndarray], Interval]) -> xr.Dataset:
    each = {str(name): values for name, values in found.data_vars.items() if "image" in values.dims}
    if not each:
        raise DataError("no variable is over images. Give what `counterfactuals` returned, twice for a comparison.")
    told = {}
    for name, values in each.items():
        columns = values.transpose("image", ...)
        dims, numbers = columns.dims[1:], np.asarray(columns.values, np.float64)
        rows = np.full((4, *numbers.shape[1:]), np.nan)
        for place in np.ndindex(numbers.shape[1:]):
            column = numbers[:, *place]
            column = column[~np.isnan(column)]
            rows[3, *place] = len(column)
            if len(column):
                low, high = of_shares(column) if name in SHARES else mean_interval(column)
                rows[:3, *place] = column.mean(), low, high
        missing = {"missing": "it is known of no image"}
        told |= {f"{name}{end}": (dims, row, missing) for end, row in zip(("", "_low", "_high"), rows, strict=False)}
        told[f"{name}_of"] = dims, rows[3].astype(np.int64)
    kept_coords = {name: values for name, values in found.coords.items() if "image" not in values.dims}
    return xr.Dataset(told, kept_coords)
