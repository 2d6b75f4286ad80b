"""Metrics room, adversarial examples: how many images the phrases of each method spoil (Gandelsman 2025, table 3.3)."""

import numpy as np
import xarray as xr

from optogram.metrics import intervals
from optogram.metrics.headline import Headline


def headline(found: xr.Dataset) -> Headline:
    """Of 100 images, those that the phrases of second-order effects mislead, beside those of random neurons.

    found: of `methods.adversarial.attack`, with a coordinate `task`. The yardstick are images without phrases.

    >>> from optogram.metrics.adversarial import headline
    >>> counts = xr.DataArray([[[3, 5]], [[1, 1]], [[0, 0]]], dims=("method", "task", "repeat"))
    >>> names = {"method": ["second_order", "random", "plain"], "task": ["a > b"]}
    >>> said = headline(xr.Dataset({"fooled": counts, "images": 0 * counts + 10}, names))
    >>> said.value, said.versus_value, said.yardstick, said.of
    (40.0, 10.0, 0.0, 20)
    """
    images, counts = int(found["images"].max()), table(found)
    share = {method: 100 * each["mean over tasks"]["mean"] / images for method, each in counts.items()}
    total = int(found["images"].sel({"method": "second_order"}).sum())
    measure = "of 100 images, those that phrases of neurons mislead"
    return Headline(measure, share["second_order"], total, "of random neurons", share["random"], share["plain"])


def table(found: xr.Dataset) -> dict[str, dict[str, dict[str, float]]]:
    """Table 3.3: for each method and task, and for the mean over tasks, mean and standard deviation over repeats.

    The deviation is the one of the repeats themselves (divisor n), as the thesis's numbers have it.

    found: of `methods.adversarial.attack`, with a coordinate `task`.

    >>> from optogram.metrics.adversarial import table
    >>> counts = xr.DataArray([[[3, 5]], [[1, 1]]], dims=("method", "task", "repeat"))
    >>> found = xr.Dataset({"fooled": counts}, {"method": ["second_order", "random"], "task": ["a > b"]})
    >>> table(found)["second_order"]["a > b"]
    {'mean': 4.0, 'std': 1.0}
    """
    rows = [*found["task"].values.astype(str).tolist(), "mean over tasks"]
    counts = found["fooled"].transpose("method", "task", "repeat").values.astype(float)
    counts = np.concatenate([counts, counts.mean(1, keepdims=True)], 1)
    return {
        str(method): {
            row: {"mean": float(of.mean()), "std": float(of.std())} for row, of in zip(rows, each, strict=True)
        }
        for method, each in zip(found["method"].values, counts, strict=True)
    }


def leads(found: xr.Dataset, of: str = "second_order") -> xr.Dataset:
    """How many more images the phrases of one method mislead than those of each other, beside how far repeats vary.

    found: of `methods.adversarial.attack`, with a coordinate `task`.

    Returns shares of the images, `lead`, `low` and `high` (task, method): the mean difference over repeats and the ends
    of its 95 % interval. This is Student's over repeats, which are paired as they share their seeds, but never narrower
    than Newcombe's of so many images: a few repeats may agree by chance. A last task is the "mean over tasks".

    >>> from optogram.metrics.adversarial import leads
    >>> counts = xr.DataArray([[[3, 5]], [[1, 1]]], dims=("method", "task", "repeat"))
    >>> names = {"method": ["second_order", "random"], "task": ["a > b"]}
    >>> found = xr.Dataset({"fooled": counts, "images": 0 * counts + 10}, names)
    >>> leads(found).lead.sel(task="a > b").values.round(2).tolist()
    [0.0, 0.3]
    """
    methods, dims = found["method"].values.astype(str).tolist(), ("task", "method")
    fooled, made = (found[name].transpose(*dims, "repeat").values for name in ("fooled", "images"))
    fooled, made = (np.concatenate([each, each.sum(0, keepdims=True)]) for each in (fooled, np.maximum(made, 1)))
    share, own = fooled / made, methods.index(of)
    # every task counts alike
    share[-1] = share[:-1].mean(0)
    apart = share[:, [own]] - share
    by_repeat, of_images = intervals.mean_interval(apart), intervals.share(fooled.sum(-1), made.sum(-1))
    mean, ours = share.mean(-1), intervals.Interval(*(end[:, [own]] for end in of_images))
    by_image = intervals.difference(mean[:, [own]], ours, mean, of_images)
    low, high = np.minimum(by_repeat.low, by_image.low), np.maximum(by_repeat.high, by_image.high)
    tasks = [*found["task"].values.astype(str).tolist(), "mean over tasks"]
    return xr.Dataset(
        {"lead": (dims, apart.mean(-1)), "low": (dims, low), "high": (dims, high)},
        {"task": tasks, "method": methods},
    )
