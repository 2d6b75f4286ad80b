"""Room report: what a group's generator draws: images inverted into it, and pictures edited by its shared units."""

import numpy as np
import xarray as xr

from optogram.report.findings import Model, labels, strings
from optogram.report.images import heat_uri
from optogram.report.labels import count, number, percent
from optogram.report.panels import Context, Gallery, Picture, Table

ROWS = 8
"""Images in a gallery."""
ACROSS = 3
"""Pictures of each value and way that are shown, before and after."""


def inverted(context: Context, model: Model, found: xr.Dataset) -> Gallery:
    """An image a row: itself, and as the generator draws it in each condition."""
    names = labels(found, "condition")
    originals = found["original"].transpose("image", "y", "x", "rgb").values[:ROWS, None]
    drawn = found["pixels"].transpose("image", "condition", "y", "x", "rgb").values[:ROWS]
    grid = context.thumbs.grid(f"inverted{model.slug}", np.concatenate([originals, drawn], 1))
    values = found["psnr"].transpose("image", "condition").values
    rows = []
    for at in range(len(originals)):
        cells = [Picture(grid.thumb(at, 0, f"image {at}"))]
        for column, name in enumerate(names):
            thumb = grid.thumb(at, 1 + column, f"image {at}, {name}")
            cells.append(Picture(thumb, f"{number(float(values[at, column]))} dB"))
        rows.append(("", "", cells))
    return Gallery(rows, ("image", *names), "Images inverted into the generator")


def inversions(found: xr.Dataset) -> Table:
    """A condition a row."""
    named = {"psnr": "PSNR in dB", "ssim": "SSIM", "perceptual": "perceptual distance (less is nearer)"}
    scores, rows = {of: title for of, title in named.items() if of in found}, []
    for at, name in enumerate(labels(found, "condition")):
        one = found.isel(condition=at)
        means = [float(one[of].mean("image")) for of in scores]
        rows.append([name, count(int(one["pairs"])), *map(number, means)])
    columns = ["matched", "pairs", *scores.values()]
    caption = f"Means over {count(found.sizes['image'])} images. Units help if all models are above permuted pairs"
    return Table(columns, rows, caption)


def alone(context: Context, model: Model, inverted: xr.Dataset, row: int) -> Gallery:
    """A concept's unit alone: the image and where its partner is active there, and what is drawn from each latent."""
    image = inverted["original"].transpose("image", "y", "x", "rgb").values[inverted["alone_image"].values]
    drawn = inverted["alone_pixels"].transpose("alone", "goal", "latent", "y", "x", "rgb").values
    flat = drawn.reshape(len(drawn), -1, *drawn.shape[3:])
    grid = context.thumbs.grid(f"alone{model.slug}", np.concatenate([image[:, None], flat], 1))
    heat = inverted["alone_map"].transpose("alone", "y", "x").values[row].astype(np.float64)
    like = inverted["alone_similarity"].transpose("alone", "goal", "latent").values[row]
    partner = strings(inverted["alone_model"])[row]
    shown = Picture(grid.thumb(row, 0, "image to follow"), over=heat_uri(heat, signed=False))
    rows = [(f"where the unit of {partner} is active", "", [shown])]
    for at, goal in enumerate(labels(inverted, "goal")):
        cells = []
        for latent, value in enumerate(like[at].tolist()):
            thumb = grid.thumb(row, 1 + at * like.shape[1] + latent, f"{goal}, latent {latent}")
            cells.append(Picture(thumb, number(value)))
        rows.append((goal, "", cells))
    return Gallery(rows)


def sketches(context: Context, model: Model, found: xr.Dataset) -> Gallery:
    """A sketch a row: itself, and what the generator draws by units, and by permuted ones."""
    names = labels(found, "guide")
    drawn = found["sketch_pixels"].transpose("sketched", "guide", "y", "x", "rgb").values[:ROWS]
    first = found["sketch"].transpose("sketched", "y", "x", "rgb").values[:ROWS, None]
    grid = context.thumbs.grid(f"sketches{model.slug}", np.concatenate([first, drawn], 1))
    overlap = found["sketch_overlap"].transpose("sketched", "guide").values
    rows = []
    for at in range(len(first)):
        cells = [Picture(grid.thumb(at, 0, f"sketch {at}"))]
        for column, name in enumerate(names):
            thumb = grid.thumb(at, 1 + column, f"sketch {at}, {name}")
            cells.append(Picture(thumb, f"overlap {percent(float(overlap[at, column]), 0)}"))
        rows.append(("", "", cells))
    return Gallery(rows, ("sketch", *names), "Sketches turned into pictures by units alone")


def sketch_scores(found: xr.Dataset) -> Table:
    """A guide a row: how much of the outlined object is where it was, and is as it was."""
    rows = [
        [
            name,
            *(percent(float(found[of].sel(guide=name).mean("sketched"))) for of in ("sketch_overlap", "sketch_seen")),
        ]
        for name in labels(found, "guide")
    ]
    columns = ["matched", "overlap with the outlined object", "shape, size and position as outlined"]
    return Table(columns, rows, f"Means over {count(found.sizes['sketched'])} sketches, by the judge")


def edited(context: Context, model: Model, found: xr.Dataset) -> Gallery:
    """A picture a row: itself, and after each edit, by shared units and by permuted ones."""
    originals = found["original"].transpose("image", "y", "x", "rgb").values[:ROWS, None]
    drawn = found["pixels"].transpose("image", "edit", "pairs", "y", "x", "rgb").values[:ROWS]
    flat = drawn.reshape(len(drawn), -1, *drawn.shape[3:])
    grid = context.thumbs.grid(f"edited{model.slug}", np.concatenate([originals, flat], 1))
    names = [f"{edit}, {pairs}" for edit in labels(found, "edit") for pairs in labels(found, "pairs")]
    hit = found["succeeded"].transpose("image", "edit", "pairs").values.reshape(found.sizes["image"], -1)
    rows = []
    for at in range(len(originals)):
        cells = [Picture(grid.thumb(at, 0, f"picture {at}"))]
        for column, name in enumerate(names):
            cells.append(Picture(grid.thumb(at, 1 + column, f"picture {at}, {name}"), _seen(hit[at, column])))
        rows.append(("", "", cells))
    return Gallery(rows, ("picture", *names), "Edited by the units that are shared, and by permuted ones")


def edits(found: xr.Dataset) -> Table:
    """An edit a row: how often it is seen, how far the units went, and what else changed."""
    rows = []
    for edit in labels(found, "edit"):
        row = [edit]
        for pairs in labels(found, "pairs"):
            one = found.sel(edit=edit, pairs=pairs)
            share = float(one["succeeded"].mean("image"))
            ends = " to ".join(percent(float(one[f"success_{end}"]), 0) for end in ("low", "high"))
            row += [f"{percent(share, 0)} ({ends})", percent(float(one["reached"].mean("image")), 0)]
            row.append(percent(float(one["kept"].mean("image")), 0))
        rows.append(row)
    columns = ["edit"]
    for pairs in labels(found, "pairs"):
        columns += [f"seen, {pairs}", "way that units went", "other attributes kept"]
    caption = (
        f"Edits of {count(found.sizes['image'])} pictures, by {count(int(found.attrs['shared']))} shared units. Seen: "
        "twice the area, half of the shift, two objects, by the judge"
    )
    return Table(columns, rows, caption)


def concepts(context: Context, model: Model, found: xr.Dataset) -> Gallery:
    """A value and a way a row: pictures before and after, by its units and by others."""
    first, drawn = (
        found[name].transpose("concept", "way", ..., "sample", "y", "x", "rgb").values[..., :ACROSS, :, :, :]
        for name in ("concept_original", "concept_pixels")
    )
    sides, rows, cells = labels(found, "units"), [], []
    for c in range(found.sizes["concept"]):
        for w in range(found.sizes["way"]):
            each = [first[c, w], *drawn[c, w]]
            cells.append(np.stack(each, 1).reshape(-1, *first.shape[3:]))
    grid = context.thumbs.grid(f"concepts{model.slug}", np.stack(cells))
    seen = found["concept_seen"].transpose("concept", "way", "sample", "units").values
    for at, cell in enumerate(cells):
        c, w = divmod(at, found.sizes["way"])
        pictures = []
        for column in range(len(cell)):
            sample, side = divmod(column, 1 + len(sides))
            says = "before" if side == 0 else f"{sides[side - 1]}: {_seen(seen[c, w, sample, side - 1])}"
            pictures.append(Picture(grid.thumb(at, column, f"{labels(found, 'concept')[c]}, {says}"), says))
        rows.append((labels(found, "concept")[c], labels(found, "way")[w], pictures))
    return Gallery(rows, (), "Values taken out and put in by the units that are named by them, beside other units")


def causes(found: xr.Dataset) -> Table:
    """A value a row: how often it is seen after its units were changed, and how much else is as before."""
    sides, ways = labels(found, "units"), labels(found, "way")
    columns = ["value", "units", *(f"{way}, by {side}" for way in ways for side in sides)]
    rows = []
    for c, name in enumerate(labels(found, "concept")):
        one = found.isel(concept=c)
        row = [name, count(int(one["concept_units"]))]
        for way in ways:
            for side in sides:
                here = one.sel(way=way, units=side)
                share, kept = (float(here[f"concept_{of}"].mean("sample")) for of in ("seen", "kept"))
                row.append(f"{percent(share, 0)}, others kept {percent(kept, 0)}")
        rows.append(row)
    caption = (
        f"Of {count(found.sizes['sample'])} pictures each, in which share the value is seen after. Ablated and removed "
        "it was there before; added it was not"
    )
    return Table(columns, rows, caption)


def _seen(value: float) -> str:
    if not np.isfinite(value):
        return "not one object before"
    return "seen" if value == 1 else "not seen"
