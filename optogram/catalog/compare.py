"""Room store: what differs between two artifacts, variable by variable and chunk by chunk, and by how much."""

import contextlib
import filecmp
import json
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from optogram.store.read import read

BLOCK_BYTES = 8 << 20
SHOWN = 3
# what follows from the rest, and so says nothing new
DERIVED = ("digest",)


@dataclass(frozen=True)
class Tolerance:
    """A number passes if either bound holds; strings, integers and booleans never differ a little."""

    absolute: float = 1e-5
    relative: float = 1e-4


@dataclass(frozen=True)
class Change:
    """One thing that differs: a variable, a tensor, a number, an attribute or a file.

    `says` is in words. Where entries were compared (`kind` is "values"): how many there are, how many differ, how many
    of these are beyond the tolerance, and for numbers the largest |new - old| and |new - old| / |old|.
    """

    name: str
    kind: Literal["added", "removed", "layout", "labels", "values", "attribute", "file"]
    says: str
    entries: int = 0
    differing: int = 0
    beyond: int = 0
    absolute: float | None = None
    relative: float | None = None

    @property
    def within(self) -> bool:
        """Whether all of it is within the tolerance."""
        return self.absolute is not None and self.beyond == 0


# for each dim that has labels on both sides: where the common ones are in old, and where in new
Picks = dict[Hashable, tuple[np.ndarray, np.ndarray]]


def compare_datasets(old: xr.Dataset, new: xr.Dataset, tolerance: Tolerance | None = None) -> list[Change]:
    """What differs between two Datasets, entries matched by their labels; [] if nothing does.

    A NaN equals a NaN. Only blocks of some megabytes are in memory at a time.
    """
    tolerance = tolerance or Tolerance()
    changes = compare_values(_attributes(old.attrs), _attributes(new.attrs), tolerance, kind="attribute")
    for dim in sorted(set(map(str, old.indexes)) & set(map(str, new.indexes))):
        changes += _compare_labels(dim, old.indexes[dim], new.indexes[dim])
    for name in sorted({*old.variables, *new.variables}, key=str):
        if name in old.indexes and name in new.indexes:
            continue
        if name not in new.variables:
            changes.append(Change(str(name), "removed", f"was {_layout(old.variables[name])}"))
        elif name not in old.variables:
            changes.append(Change(str(name), "added", f"is {_layout(new.variables[name])}"))
        else:
            was, now = (_attributes(side.variables[name].attrs) for side in (old, new))
            changes += compare_values(was, now, tolerance, kind="attribute", prefix=f"{name}.")
            changes += _compare_variable(str(name), old, new, tolerance)
    return changes


def compare_paths(old: Path, new: Path, tolerance: Tolerance | None = None) -> list[Change]:
    """What differs between two outs: tables by variable, safetensors by tensor, JSON by number, other files as such."""
    tolerance = tolerance or Tolerance()
    here, there = _parts(old), _parts(new)
    changes: list[Change] = []
    for name in sorted({*here, *there}):
        shown = name or old.name
        if name not in there:
            changes.append(Change(shown, "removed", "is not made any more"))
        elif name not in here:
            changes.append(Change(shown, "added", "was not there"))
        else:
            found = _compare_part(here[name], there[name], tolerance)
            changes += [_renamed(change, name) for change in found]
    return changes


def matched(old: xr.Dataset, new: xr.Dataset, name: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """Blocks of a variable that both have, entry beside entry: its values in old, in new, and old's positions by dim.

    Yields nothing where the dims differ, or where a dim without common labels has another size.
    """
    a, b = old.variables[name], new.variables[name]
    if {*a.dims} != {*b.dims}:
        return
    b = b.transpose(*a.dims)
    picks = _picks(old, new, a)
    sizes = [len(picks[dim][0]) if dim in picks else a.sizes[dim] for dim in a.dims]
    if any(dim not in picks and a.sizes[dim] != b.sizes[dim] for dim in a.dims):
        return
    for block in _blocks(sizes, a):
        parts = list(zip(a.dims, block, strict=True))
        left = {dim: _index(picks[dim][0][part]) if dim in picks else part for dim, part in parts}
        right = {dim: _index(picks[dim][1][part]) if dim in picks else part for dim, part in parts}
        where = [picks[dim][0][part] if dim in picks else np.arange(part.start, part.stop) for dim, part in parts]
        yield a.isel(left).values, b.isel(right).values, where


def compare_values(
    old: Any, new: Any, tolerance: Tolerance, *, kind: Literal["attribute", "values"] = "values", prefix: str = ""
) -> list[Change]:
    """What differs between two JSON values, a Change for each key or number."""
    here, there = dict(_leaves(old)), dict(_leaves(new))
    changes = []
    for key in sorted({*here, *there}):
        name = f"{prefix}{key}"
        if key not in there:
            changes.append(Change(name, "removed", f"was {_short(here[key])}"))
        elif key not in here:
            changes.append(Change(name, "added", f"is {_short(there[key])}"))
        elif _number(here[key], there[key]):
            tally = _Tally(tolerance)
            tally.add(np.array(float(here[key])), np.array(float(there[key])), [])
            if tally.differing:
                changes.append(tally.change(name, f"{here[key]:g} -> {there[key]:g}", kind))
        elif type(here[key]) is not type(there[key]) or here[key] != there[key]:
            says = f"{_short(here[key])} -> {_short(there[key])}"
            changes.append(Change(name, kind, says, entries=1, differing=1, beyond=1))
    return changes


class _Tally:
    """Counts of what differs, block by block."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.entries = self.differing = self.beyond = 0
        self.absolute = self.relative = -1.0
        self.numbers = True
        self.at: tuple[int, ...] = ()
        self.examples: list[tuple[tuple[int, ...], Any, Any]] = []

    def add(self, old: np.ndarray, new: np.ndarray, where: list[np.ndarray]) -> None:
        """Two blocks of the same shape; `where` are their positions in old, by dim."""
        self.entries += old.size
        if not old.size:
            return
        if old.dtype.kind not in "fc" and new.dtype.kind not in "fc":
            self.numbers = False
            differs = np.asarray(old != new)
            self.beyond += int(differs.sum())
            for place in np.argwhere(differs)[: SHOWN - len(self.examples)]:
                self.examples.append((_position(place, where), old[tuple(place)], new[tuple(place)]))
        else:
            a, b = (np.asarray(v, np.complex128 if v.dtype.kind == "c" else np.float64) for v in (old, new))
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
                gap = np.where(differs, np.abs(b - a), 0.0)
                gap[np.isnan(gap)] = np.inf  # a NaN, or an infinity, on one side only
                share = np.where(differs, gap / np.abs(a), 0.0)
                share[np.isnan(share)] = np.inf
            self.beyond += int((differs & (gap > self.tolerance.absolute) & (share > self.tolerance.relative)).sum())
            if differs.any() and gap.max() > self.absolute:
                place = np.unravel_index(int(gap.argmax()), gap.shape)
                self.at, self.absolute = _position(np.array(place, int), where), float(gap.max())
            self.relative = max(self.relative, float(share.max()))
        self.differing += int(differs.sum())

    def change(self, name: str, says: str, kind: Literal["attribute", "values"] = "values") -> Change:
        """What was counted, as a Change."""
        sizes = (max(self.absolute, 0.0), max(self.relative, 0.0)) if self.numbers else (None, None)
        return Change(name, kind, says, self.entries, self.differing, self.beyond, *sizes)


def _compare_variable(name: str, old: xr.Dataset, new: xr.Dataset, tolerance: Tolerance) -> list[Change]:
    a, b = old.variables[name], new.variables[name]
    changes = []
    picks = _picks(old, new, a)
    fixed = [dim for dim in a.dims if dim not in picks]
    if a.dims != b.dims or [a.sizes[d] for d in fixed] != [b.sizes.get(d) for d in fixed] or _type(a) != _type(b):
        changes.append(Change(name, "layout", f"{_layout(a)} -> {_layout(b)}"))
    if (_type(a) == "str") != (_type(b) == "str"):
        return changes
    tally = _Tally(tolerance)
    for block in matched(old, new, name):
        tally.add(*block)
    if tally.differing:
        if tally.numbers:
            says = f"largest at {_labels(old, a.dims, tally.at)}" if tally.at else ""
        else:
            examples = (
                f"{_labels(old, a.dims, at)}: {_short(x)} -> {_short(y)}".removeprefix(": ")
                for at, x, y in tally.examples
            )
            says = "; ".join(examples)
        changes.append(tally.change(name, says))
    return changes


def _compare_labels(dim: str, old: Any, new: Any) -> list[Change]:
    if old.equals(new) and _type(old) == _type(new):
        return []
    if not (old.is_unique and new.is_unique):
        return [Change(dim, "labels", f"{len(old):,} -> {len(new):,} labels, some of them twice: matched by position")]
    gone, come = old.difference(new, sort=False), new.difference(old, sort=False)
    says = [
        f"{len(part):,} {word} ({', '.join(map(_short, part[:SHOWN]))}{', …' if len(part) > SHOWN else ''})"
        for part, word in ((gone, "removed"), (come, "added"))
        if len(part)
    ]
    return [Change(dim, "labels", "labels: " + (", ".join(says) or "in another order, or of another type"))]


def _picks(old: xr.Dataset, new: xr.Dataset, variable: xr.Variable) -> Picks:
    """Positions of the common labels, for those of the variable's dims whose labels differ."""
    picks: Picks = {}
    for dim in variable.dims:
        if dim in old.indexes and dim in new.indexes:
            a, b = old.indexes[dim], new.indexes[dim]
            if a.is_unique and b.is_unique and not a.equals(b):
                common = a[a.isin(b)]
                picks[dim] = (a.get_indexer(common), b.get_indexer(common))
    return picks


def _blocks(sizes: list[int], variable: xr.Variable) -> Iterator[tuple[slice, ...]]:
    """Slices that cover an array, each of at most about BLOCK_BYTES; along the split dim in whole stored chunks."""
    item = max(variable.dtype.itemsize, 1)
    split, row = len(sizes), item
    while split and row * sizes[split - 1] <= BLOCK_BYTES:
        split -= 1
        row *= sizes[split]
    if 0 in sizes:
        return
    if not split:
        yield tuple(slice(0, n) for n in sizes)
        return
    split -= 1
    step = max(BLOCK_BYTES // row, 1)
    if variable.chunks:
        chunk = variable.chunks[split][0]
        step = step // chunk * chunk or step
    rest = tuple(slice(0, n) for n in sizes[split + 1 :])
    for outer in np.ndindex(*sizes[:split]):
        for start in range(0, sizes[split], step):
            before = tuple(slice(k, k + 1) for k in outer)
            yield (*before, slice(start, min(start + step, sizes[split])), *rest)


def _index(positions: np.ndarray) -> slice | np.ndarray:
    """Consecutive positions as a slice: it reads what is stored as it is stored."""
    if len(positions) and np.array_equal(positions, np.arange(positions[0], positions[0] + len(positions))):
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def _parts(path: Path) -> dict[str, Path]:
    """{relative path: path} of what a file or folder consists of; a table is one part."""
    if path.is_file() or (path / "zarr.json").is_file():
        return {"": path}
    found = {}
    for child in sorted(path.iterdir()) if path.is_dir() else ():
        found |= {f"{child.name}/{name}".rstrip("/"): part for name, part in _parts(child).items()}
    return found


def _compare_part(old: Path, new: Path, tolerance: Tolerance) -> list[Change]:
    if old.is_dir() and new.is_dir():
        return compare_datasets(read(old, chunks={}), read(new, chunks={}), tolerance)
    if old.is_dir() or new.is_dir():
        return [Change("", "file", "a table on one side, a file on the other")]
    if filecmp.cmp(old, new, shallow=False):
        return []
    if old.suffix == new.suffix == ".safetensors":
        return _compare_tensors(old, new, tolerance)
    sizes = f"{old.stat().st_size:,} -> {new.stat().st_size:,} bytes"
    if old.suffix == new.suffix == ".json":
        try:
            return compare_values(json.loads(old.read_text()), json.loads(new.read_text()), tolerance)
        except ValueError:
            pass  # not JSON after all
    return [Change("", "file", sizes)]


def _compare_tensors(old: Path, new: Path, tolerance: Tolerance) -> list[Change]:
    import torch
    from safetensors import safe_open

    changes = []
    with safe_open(old, "pt") as here, safe_open(new, "pt") as there:
        for name in sorted({*here.keys(), *there.keys()}):
            a, b = (side.get_tensor(name) if name in side.keys() else None for side in (here, there))  # noqa: SIM118  (no mapping)
            if a is None or b is None:
                changes.append(Change(name, "added" if a is None else "removed", ""))
                continue
            if a.shape != b.shape or a.dtype != b.dtype:
                was, now = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (a, b))
                changes.append(Change(name, "layout", f"{was} -> {now}"))
            if a.shape == b.shape:
                tally = _Tally(tolerance)
                for left, right in zip(
                    a.flatten().split(BLOCK_BYTES // 8), b.flatten().split(BLOCK_BYTES // 8), strict=True
                ):
                    # numpy has no bfloat16
                    both = [t.to(torch.float64) if t.is_floating_point() else t for t in (left, right)]
                    tally.add(both[0].numpy(), both[1].numpy(), [])
                if tally.differing:
                    changes.append(tally.change(name, ""))
    return changes


def _renamed(change: Change, part: str) -> Change:
    name = ": ".join(filter(None, (part, change.name)))
    return Change(**{**change.__dict__, "name": name})


def _attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """A group's attributes with `params` as the values it stands for."""
    found = {str(key): value for key, value in attributes.items() if key not in DERIVED}
    if isinstance(found.get("params"), str):
        with contextlib.suppress(ValueError):
            found["params"] = json.loads(found["params"])
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b.0", value) of a nested JSON value; lists of equal length compare place by place."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        for k, item in enumerate(value):
            yield from _leaves(item, f"{path}.{k}" if path else str(k))
    else:
        yield path, value.item() if isinstance(value, np.generic) else value


def _number(old: Any, new: Any) -> bool:
    """Whether the two can differ a little: numbers, one of them a float."""
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (old, new))
    return plain and (isinstance(old, float) or isinstance(new, float))


def _type(variable: Any) -> str:
    return "str" if variable.dtype.kind in "OUTS" else str(variable.dtype)


def _layout(variable: xr.Variable) -> str:
    sizes = ", ".join(f"{dim} {size:,}" for dim, size in variable.sizes.items())
    return f"{_type(variable)} ({sizes})"


def _position(place: np.ndarray, where: list[np.ndarray]) -> tuple[int, ...]:
    return tuple(int(positions[k]) for positions, k in zip(where, place, strict=True)) if where else ()


def _labels(dataset: xr.Dataset, dims: tuple[Hashable, ...], at: tuple[int, ...]) -> str:
    """An entry's place in words: image=eval/7, layer=3."""
    names = (dataset.indexes[dim][k] if dim in dataset.indexes else k for dim, k in zip(dims, at, strict=True))
    # labels are file names and texts of users: nothing that a terminal would obey
    plain = ("".join(c if c.isprintable() else "?" for c in str(name)[:60]) for name in names)
    return ", ".join(f"{dim}={name}" for dim, name in zip(dims, plain, strict=True))


def _short(value: Any) -> str:
    """A value on one line, without control characters, cut when long."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else text[:59] + "…"
