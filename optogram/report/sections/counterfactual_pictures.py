"""Room report: counterfactuals as pictures: what was changed in each image, and what all who looked see in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import UInt8

from optogram.methods.guidance.conditions import FOUND, PIXELS, SWAPPED, WRONG, agreed_flips
from optogram.report.findings import Model, labels, params_of, strings
from optogram.report.images import Grid
from optogram.report.labels import number, percent
from optogram.report.panels import Context, Gallery, Picture

CONTRAST = 4
"""By which differences are multiplied; what is then too much for a picture is cut."""
DIMMED = 0.25
"""How bright an image is where it may not change."""
TIMES = "\N{MULTIPLICATION SIGN}"
NOBODY = "none of the classes"


@dataclass(frozen=True)
class Change:
    """One image: its pictures side by side, which class it was to become, and what came of it.

    agreed: whether it is flipped and all models that had no part see it so; None if there are none.
    """

    heading: str
    verdict: str
    agreed: bool | None
    lines: list[str]
    pictures: list[Picture]


def classifier_of(model: Model, found: xr.Dataset) -> str:
    """The name of the classifier that leads."""
    return _asked(model, found, "classifier") or "the classifier"


def drawer_of(model: Model, found: xr.Dataset) -> str:
    """The name of the model that draws."""
    return _asked(model, found, "diffusion") or "a diffusion model"


def lookers(found: xr.Dataset) -> list[str]:
    """Those who had no part, as they stand in a sentence."""
    if "other_label" not in found:
        return []
    return ["the judge" if name == "judge" else name for name in labels(found, "model")]


def changes(context: Context, model: Model, found: xr.Dataset) -> list[Change]:
    """A change an image, in the order of the artifact, whether it succeeded or not."""
    grid = _grid(context, model, found)
    agreed = agreed_flips(found).sel(condition=FOUND).values
    return [_change(grid, model, found, at, bool(agreed[at])) for at in range(found.sizes["image"])]


def controls(context: Context, model: Model, found: xr.Dataset) -> Gallery:
    """The same images: as they are inverted, and as the controls change them."""
    grid, rows = _grid(context, model, found), []
    names, classes = strings(found["image"]), strings(found["class_name"])
    for at in range(found.sizes["image"]):
        target, other = (str(classes[int(found[of].values[at])]) for of in ("target", "other"))
        source, name = str(classes[int(found["source"].values[at])]), str(names[at])
        decibels = number(float(found["inversion_psnr"].values[at]))
        told = (
            ("original", source),
            ("inverted", f"{decibels} dB"),
            (PIXELS, _seen(model, found, PIXELS, at)),
            (f"{WRONG}: {other}", f"{other} was asked for. {_seen(model, found, WRONG, at)}"),
        )
        columns = (0, 5, 6, 7)
        cells = [
            Picture(grid.thumb(at, column, f"{name}, {said}"), below)
            for column, (said, below) in zip(columns, told, strict=True)
        ]
        rows.append((f"{source} → {target}", "", cells))
    columns = ("original", "inverted", f"{PIXELS}: no model draws", f"{WRONG}: what any search changes")
    return Gallery(rows, columns, "The same images in the controls")


def _change(grid: Grid, model: Model, found: xr.Dataset, at: int, agreed: bool) -> Change:
    one, classes = found.isel(image=at), strings(found["class_name"])
    source, target = (str(classes[int(one[of])]) for of in ("source", "target"))
    here, name, who = one.sel(condition=FOUND), str(one["image"].item()), classifier_of(model, found)
    before, after, start = (
        percent(float(value))
        for value in (here["target_before"], here["target_after"], one["target_after"].sel(condition=SWAPPED))
    )
    began = agreed_flips(found).sel(condition=SWAPPED).values[at]
    flipped = "flips already" if bool(one["flip"].sel(condition=SWAPPED)) else "does not flip"
    if lookers(found) and began:
        flipped += ", agreed"
    told = (
        ("original", f"{target} {before}"),
        ("where it may change", ""),
        ("start: caption swapped", f"{target} {start}, {flipped}"),
        ("result", f"{target} {after}"),
        (f"difference {TIMES} {CONTRAST}", "grey: none"),
    )
    pictures = [
        Picture(grid.thumb(at, column, f"{name}, {said}"), f"{said}: {more}" if more else said)
        for column, (said, more) in enumerate(told)
    ]
    fell = " → ".join(percent(float(here[f"source_{when}"])) for when in ("before", "after"))
    lines = [f"{who}: {target} {before} → {after}; {source} {fell}"]
    if others := _others(found, FOUND, at):
        lines.append(others)
    if "kept" in found and np.isfinite(float(here["kept"])):
        lines.append(f"other attributes kept, by the judge: {percent(float(here['kept']), 0)}")
    if (status := str(one["status"].item())) != "done":
        lines.append(f"the search {status}")
    lines += [f"“{one['caption'].item()}”", f"→ “{one['changed_caption'].item()}”"]
    verdict = _verdict(found, at, agreed, who, target)
    return Change(f"{source} → {target}", verdict, agreed if lookers(found) else None, lines, pictures)


def _verdict(found: xr.Dataset, at: int, agreed: bool, who: str, target: str) -> str:
    """What came of it, in words: failures are said."""
    if not bool(found["flip"].sel(condition=FOUND).values[at]):
        return f"not flipped: {who} does not see {target}"
    if not (names := lookers(found)):
        return "flipped; nobody else looked"
    if agreed:
        return f"flipped, and {listed(names)} {'agrees' if len(names) == 1 else 'agree'}"
    seen = found["other_label"].sel(condition=FOUND).transpose("image", "model").values[at]
    against = [name for name, label in zip(names, seen, strict=True) if label != int(found["target"].values[at])]
    return f"flipped, but {listed(against)} {'does' if len(against) == 1 else 'do'} not agree"


def _seen(model: Model, found: xr.Dataset, condition: str, at: int) -> str:
    """What the classifier and the others see in a picture, in a line."""
    one = found.isel(image=at).sel(condition=condition)
    target = str(strings(found["class_name"])[int(one["target"])])
    told = f"{classifier_of(model, found)}: {target} {percent(float(one['target_after']))}"
    others = _others(found, condition, at)
    return f"{told}; {others}" if others else told


def _others(found: xr.Dataset, condition: str, at: int) -> str:
    if not (names := lookers(found)):
        return ""
    seen = found["other_label"].sel(condition=condition).transpose("image", "model").values[at].tolist()
    classes = strings(found["class_name"])
    return ", ".join(
        f"{name} sees {classes[label] if label >= 0 else NOBODY}" for name, label in zip(names, seen, strict=True)
    )


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _grid(context: Context, model: Model, found: xr.Dataset) -> Grid:
    """A row an image: original, where it may change, start, result, difference, inverted, and the two controls."""
    original, inverted = (_pictures(found[name]) for name in ("original", "inverted"))
    mask = found["mask"].transpose("image", "y", "x").values[..., None]
    start, result, plain, wrong = (
        _pictures(found["pixels"].sel(condition=name)) for name in (SWAPPED, FOUND, PIXELS, WRONG)
    )
    dimmed = np.rint(original * (DIMMED + (1 - DIMMED) * mask)).astype(np.uint8)
    change = 128 + CONTRAST * (result.astype(np.float32) - original)
    columns = (original, dimmed, start, result, np.clip(change, 0, 255).astype(np.uint8), inverted, plain, wrong)
    return context.thumbs.grid(f"counterfactual{model.slug}", np.stack(columns, 1))


def _pictures(pixels: xr.DataArray) -> UInt8[np.ndarray, "image y x rgb"]:
    return pixels.transpose("image", "y", "x", "rgb").values


def _asked(model: Model, found: xr.Dataset, name: str) -> str:
    """What params.yaml says of the group."""
    params = params_of(found).get("counterfactuals")
    groups = params.get("groups", {}) if isinstance(params, dict) else {}
    return str(groups.get(model.name, {}).get(name) or "")
