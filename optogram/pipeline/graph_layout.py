"""Drawing a graph of artifacts: a layer a column, boxes sorted so that few lines cross, lines led between the boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT, GAP, LANE, ACROSS, MARGIN = 224, 54, 16, 10, 72, 12
SWEEPS = 12


@dataclass(frozen=True)
class Drawing:
    """Boxes as {key: (x, y)} of their top left corners, lines as (from, to, SVG path)."""

    width: int
    height: int
    box: tuple[int, int]
    boxes: dict[str, tuple[int, int]]
    lines: list[tuple[str, str, str]]


def layered(inputs: Mapping[str, Sequence[str]]) -> Drawing:
    """Lay out {key: keys of its inputs}, listed inputs first; inputs stand to the left of what is made of them."""
    column: dict[str, int] = {}
    for key, below in inputs.items():
        column[key] = 1 + max((column[k] for k in below), default=-1)
    # an input stands right before its first use, so that lines are short
    for key in reversed(list(inputs)):
        uses = [column[other] for other, below in inputs.items() if key in below]
        column[key] = min(uses) - 1 if uses else column[key]
    # lines that pass columns get a lane in each, a place between the boxes; those from one box share it
    columns: list[list[str]] = [[] for _ in range(max(column.values(), default=0) + 1)]
    for key in inputs:
        columns[column[key]].append(key)
    chains: dict[tuple[str, str], list[str]] = {}
    for key, below in inputs.items():
        for source in below:
            lanes = [f"{source}\0{k}" for k in range(column[source] + 1, column[key])]
            chains[source, key] = [source, *lanes, key]
            for k, lane in enumerate(lanes, column[source] + 1):
                if lane not in columns[k]:
                    columns[k].append(lane)
    _untangle(columns, [pair for chain in chains.values() for pair in pairwise(chain)])
    size = {item: HEIGHT + GAP if item in inputs else LANE for items in columns for item in items}
    tall = max((sum(size[item] for item in items) for items in columns), default=0)
    middle: dict[str, float] = {}
    for items in columns:
        y = MARGIN + (tall - sum(size[item] for item in items)) / 2
        for item in items:
            middle[item] = y + size[item] / 2
            y += size[item]
    left = {item: MARGIN + k * (WIDTH + ACROSS) for k, items in enumerate(columns) for item in items}
    lines = [(*pair, _path([(left[item], round(middle[item])) for item in chain])) for pair, chain in chains.items()]
    boxes = {key: (left[key], round(middle[key] - HEIGHT / 2)) for key in inputs}
    wide = 2 * MARGIN + len(columns) * (WIDTH + ACROSS) - ACROSS
    return Drawing(wide, round(tall) + 2 * MARGIN, (WIDTH, HEIGHT), boxes, lines)


def _untangle(columns: list[list[str]], edges: list[tuple[str, str]]) -> None:
    """Sort each column by the mean place of its neighbours, sweeping right and left (Sugiyama's barycentres)."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for a, b in edges:
        before.setdefault(b, []).append(a)
        after.setdefault(a, []).append(b)
    for sweep in range(SWEEPS):
        places = {item: k / max(len(items) - 1, 1) for items in columns for k, item in enumerate(items)}
        for items in columns if sweep % 2 == 0 else reversed(columns):
            near = before if sweep % 2 == 0 else after

            def mean(item: str, near: dict[str, list[str]] = near, places: dict[str, float] = places) -> float:
                around = [places[other] for other in near.get(item, ())]
                return sum(around) / len(around) if around else places[item]

            items.sort(key=mean)
            places |= {item: k / max(len(items) - 1, 1) for k, item in enumerate(items)}


def _path(points: list[tuple[int, int]]) -> str:
    """From the right side of the first box along its lanes to the left side of the last, in curves."""
    x, y = points[0][0] + WIDTH, points[0][1]
    path = f"M{x} {y}"
    for k, (left, middle) in enumerate(points[1:], 1):
        half = (left - x) // 2
        path += f"C{x + half} {y} {left - half} {middle} {left} {middle}"
        x, y = left, middle
        if k < len(points) - 1:
            x += WIDTH
            path += f"H{x}"
    return path
