"""Metrics: the one number that a stage is read by, in the columns that all stages share.

`dvc metrics show` prints a row a file and a column a key. With the same few keys in every file its table fits on a
screen; everything else is in the artifacts, and in the report.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Headline:
    """A finding beside what it would be worth nothing without.

    measure: what `value` is, in words. of: how many things it is of, such as images. versus: what the control is, in
    words, and `versus_value` the same measure of it. yardstick: the same measure where nothing was done, of the
    unaltered model or of real images. p_value: how often chance does as well.

    A number that there is not is NaN.

    >>> from optogram.metrics.headline import Headline
    >>> Headline("accuracy", 0.9, 100, "by chance", 0.5).columns()
    {'measure': 'accuracy', 'value': 0.9, 'of': 100, 'versus': 'by chance', 'versus_value': 0.5}
    """

    measure: str
    value: float
    of: int
    versus: str
    versus_value: float
    yardstick: float = math.nan
    p_value: float = math.nan

    def columns(self) -> dict[str, str | float]:
        """What there is, by key: a row of `dvc metrics show`."""
        return {key: given for key, given in asdict(self).items() if isinstance(given, str) or math.isfinite(given)}


def beside_chance(
    measure: str, checked: Mapping[str, Any], *, of: str, value: str = "agreement", suffix: str = ""
) -> dict[str, str | float]:
    """The columns of a share that was checked beside chance, or `skipped`, why it was not.

    checked: the share at the key `value`, `chance`, `p_value` and the count at the key `of`, each key with `suffix`; or
        `truth_skipped` instead.

    >>> from optogram.metrics.headline import beside_chance
    >>> beside_chance("roles", {"truth_skipped": "too few"}, of="heads")
    {'skipped': 'too few'}
    """
    if f"{value}{suffix}" not in checked:
        return {"skipped": checked[f"truth_skipped{suffix}"]}
    share, count, chance, p_value = (checked[f"{name}{suffix}"] for name in (value, of, "chance", "p_value"))
    return Headline(measure, share, count, "by chance", chance, p_value=p_value).columns()
