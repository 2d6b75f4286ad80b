"""`optogram diff`: two revisions of one artifact, variable by variable, as changes and as a page with plots."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from optogram.catalog.compare import Change, Tolerance, compare_datasets, compare_paths, matched
from optogram.catalog.find import below, copy
from optogram.catalog.find import open as open_artifact
from optogram.errors import ArtifactError
from optogram.report.charts.plotly import Figure, Plot
from optogram.report.html_pages import write_page
from optogram.report.labels import plot_text

POINTS = 2000
BINS = 41
MOST_PLOTS = 24


@dataclass(frozen=True)
class Compared:
    """One artifact on both sides; `old` and `new` are there if it is a table on both."""

    name: str
    changes: list[Change]
    old: xr.Dataset | None = None
    new: xr.Dataset | None = None


@dataclass(frozen=True)
class Sketch:
    """A variable's plots."""

    name: str
    scatter: Plot
    histogram: Plot


def diff(a: str, b: str, *, repo: str = ".", tolerance: Tolerance | None = None) -> list[Compared]:
    """Compare two artifacts, each NAME or NAME@REV; a name such as "embeddings/demo" stands for all below it.

    Values are read chunk by chunk, from the tree, DVC's cache or a remote. Raises ArtifactError if one is not there.
    """
    (first, old_rev), (second, new_rev) = _parsed(a), _parsed(b)
    old, new = below(first, rev=old_rev, repo=repo), below(second, rev=new_rev, repo=repo)
    pairs = {_relative(name, first): [name, ""] for name in old}
    for name in new:
        pairs.setdefault(_relative(name, second), ["", ""])[1] = name
    found = []
    for relative, (here, there) in sorted(pairs.items()):
        name = f"{second}/{relative}".rstrip("/")
        if not here or not there:
            side: Any = ("added", "was not there") if not here else ("removed", "is not there any more")
            found.append(Compared(name, [Change(name, *side)]))
        elif old[here] == new[there] == "table":
            sides = open_artifact(here, rev=old_rev, repo=repo), open_artifact(there, rev=new_rev, repo=repo)
            found.append(Compared(name, compare_datasets(*sides, tolerance), *sides))
        else:
            with tempfile.TemporaryDirectory(prefix="optogram-diff-") as folder:
                copy(here, Path(folder) / "old", rev=old_rev, repo=repo)
                copy(there, Path(folder) / "new", rev=new_rev, repo=repo)
                found.append(Compared(name, compare_paths(Path(folder) / "old", Path(folder) / "new", tolerance)))
    return found


def write_diff(path: Path, a: str, b: str, compared: list[Compared]) -> None:
    """The comparison as a standalone page, with plots of every numeric variable that differs."""
    parts = []
    plots = 0
    for part in compared:
        sketches = []
        numeric = [change for change in part.changes if change.kind == "values" and change.absolute is not None]
        for change in numeric if part.old is not None and part.new is not None else []:
            if plots < MOST_PLOTS:
                sketches.append(_sketch(part, change.name, len(parts), plots))
                plots += 1
        left = len(numeric) - len(sketches)
        parts.append(
            {
                "name": part.name,
                "changes": [_row(change) for change in part.changes],
                "sketches": sketches,
                "left_out": f"{left} more numeric differences are not drawn." if left and part.old is not None else "",
            }
        )
    count = sum(len(part.changes) for part in compared)
    says = f"{count} {'thing differs' if count == 1 else 'things differ'}." if count else "Nothing differs."
    write_page(path, "diff.html", plots=plots > 0, old=a, new=b, says=says, parts=parts)


def _parsed(text: str) -> tuple[str, str | None]:
    name, at, rev = text.partition("@")
    name = name.strip("/").removeprefix("artifacts/")
    if not name or (at and not rev):
        raise ArtifactError(f"{text!r} is no artifact; expected NAME or NAME@REV, such as textspan/demo@v1.")
    return name, rev or None


def _relative(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).strip("/")


def _row(change: Change) -> dict[str, str]:
    return {
        "name": change.name,
        "kind": change.kind,
        "differing": f"{change.differing:,} of {change.entries:,}" if change.entries else "",
        "share": f"{change.differing / change.entries:.1%}" if change.entries else "",
        "absolute": "" if change.absolute is None else f"{change.absolute:.3g}",
        "relative": "" if change.relative is None else f"{change.relative:.3g}",
        "says": change.says,
    }


def _sketch(part: Compared, name: str, section: int, number: int) -> Sketch:
    """Old against new, at most POINTS entries evenly spread, and how often each difference occurs; in two passes."""
    largest, total = 0.0, 0
    for old, new in _finite(part, name):
        total += old.size
        largest = max(largest, float(np.abs(new - old).max(initial=0.0)))
    edges = np.linspace(-largest or -1.0, largest or 1.0, BINS + 1)
    counts = np.zeros(BINS, np.int64)
    points: list[np.ndarray] = []
    step, seen = max(total // POINTS, 1), 0
    for old, new in _finite(part, name):
        gaps = (new - old)[new != old]
        counts += np.histogram(gaps, edges)[0]
        take = slice(-seen % step, None, step)
        points.append(np.stack([old[take], new[take]]))
        seen += old.size
    drawn = np.concatenate(points, axis=1) if points else np.zeros((2, 0))
    label = f"{part.name}: {name}"
    ids = [f"plot-{section}-{number}-{kind}" for kind in ("scatter", "histogram")]
    return Sketch(
        name,
        Plot(ids[0], f"{label}, old against new", [("", _scatter(name, drawn))]),
        Plot(ids[1], f"{label}, histogram of the differences", [("", _histogram(edges, counts))]),
    )


def _finite(part: Compared, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    assert part.old is not None
    assert part.new is not None
    for old, new, _ in matched(part.old, part.new, name):
        a, b = old.astype(np.float64).ravel(), new.astype(np.float64).ravel()
        both = np.isfinite(a) & np.isfinite(b)
        yield a[both], b[both]


def _scatter(name: str, points: np.ndarray) -> Figure:
    ends = [float(points.min()), float(points.max())] if points.size else [0.0, 1.0]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": points[0],
        "y": points[1],
        "marker": {"color": "var(--a0)", "size": 5, "opacity": 0.55},
        "hovertemplate": "old %{x}<br>new %{y}<extra></extra>",
        "showlegend": False,
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "line": {"color": "var(--none)", "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    axes = {
        f"{axis}axis": {"title": {"text": f"{plot_text(name)}, {side}"}} for axis, side in (("x", "old"), ("y", "new"))
    }
    return {"data": [line, dots], "layout": axes}


def _histogram(edges: np.ndarray, counts: np.ndarray) -> Figure:
    bars = {
        "type": "bar",
        "x": (edges[1:] + edges[:-1]) / 2,
        "width": edges[1:] - edges[:-1],
        "y": counts,
        "marker": {"color": "var(--s1)"},
        "hovertemplate": "%{y} entries differ by about %{x}<extra></extra>",
        "showlegend": False,
    }
    layout = {
        "bargap": 0,
        "xaxis": {"title": {"text": "new \N{MINUS SIGN} old, where they differ"}, "exponentformat": "power"},
        "yaxis": {"title": {"text": "entries"}, "rangemode": "tozero"},
    }
    return {"data": [bars], "layout": layout}
