"""Room report: pictures that activate units most, beside real images and texts alone, and what a judge sees in them."""

from collections.abc import Sequence

import xarray as xr

from optogram.methods.guidance.portraits import CONDITIONS, FOUND, OTHER, TEXT, of_told
from optogram.metrics.intervals import share
from optogram.report.findings import Model, labels, strings
from optogram.report.labels import count, number, percent, words
from optogram.report.panels import Context, Gallery, Panel, Picture, Table, Tile
from optogram.report.section import Section

KIND = "neuron_pictures"
REAL = 4
"""Real images of a unit on the wall: with two pictures of each kind, they fill a row."""


def panel(context: Context, model: Model) -> Panel:
    """A unit a row: the real images, the texts alone and what was found from them; then the numbers of all units."""
    shown = context.panel(model, KIND)
    if (found := model.part(KIND)) is None:
        return shown
    shown.says = (
        f"{model.name}: units of the last layer of {found.attrs['classifier']}, those that raise each logit most."
    )
    shown.pictures_first = True
    shown.galleries = [_wall(context, model, found)]
    shown.tables.append(_activations(found))
    if "told" in found:
        shown.tables.append(_recognised(found))
    shown.folded.append(_prompts(found))
    shown.notes = _notes(found)
    return shown


def tiles(context: Context, model: Model) -> list[Tile]:
    """For how many units a picture is beyond all real images, and for how many it shows what these share."""
    if (found := model.part(KIND)) is None:
        return []
    told = [("units that a found picture activates more than any real image", "exceeds")]
    if "told" in found:
        told.append(("units whose strongest picture shows what their top images share", "seen"))
    of = found.sizes["unit"]
    return [
        Tile(title, f"{_hits(found, name, FOUND)} of {of}", f"by text alone {_hits(found, name, TEXT)} of {of}")
        for title, name in told
    ]


def headline(context: Context, models: Sequence[Model]) -> list[str]:
    """Two sentences a group, negatives included."""
    return [_said(model, found) for model in models if (found := model.part(KIND)) is not None]


def _said(model: Model, found: xr.Dataset) -> str:
    of, real = found.sizes["unit"], count(int(found.attrs["images"]))
    beyond, text = (_hits(found, "exceeds", name) for name in (FOUND, TEXT))
    told = f"{model.name}: a found picture activates {beyond} of {of} units ({_interval(beyond, of)}) more than any of "
    told += f"{real} real images does, one drawn by text alone {text}"
    told += "." if 2 * beyond >= of else ": for most units the search does not get beyond what is real."
    if "told" not in found:
        return told
    seen, before, other = (_hits(found, "seen", name) for name in (FOUND, TEXT, OTHER))
    told += f" What a unit's top images share the judge sees in its strongest found picture for {seen} of {of} "
    told += f"({_interval(seen, of)}), by text alone for {before}, with another text for {other}"
    if seen <= other:
        return f"{told}: not more than with another text."
    if seen < before:
        return f"{told}: the search loses some of what the text had."
    return f"{told}."


def _hits(found: xr.Dataset, name: str, condition: str) -> int:
    return int(found[name].sel(condition=condition).sum())


def _interval(hits: int, of: int) -> str:
    ends = share(hits, of)
    return f"{percent(float(ends.low), 0)} to {percent(float(ends.high), 0)}"


def _wall(context: Context, model: Model, found: xr.Dataset) -> Gallery:
    """The activation is below each picture, and the caption beside the unit."""
    order = ("unit", "condition", "sample")
    pixels = found["pixels"].transpose(*order, "y", "x", "rgb").sel(condition=[TEXT, FOUND]).values
    units, _, samples = pixels.shape[:3]
    grid = context.thumbs.grid(f"neuron-pictures{model.slug}", pixels.reshape(units, 2 * samples, *pixels.shape[3:]))
    reached = found["activation"].transpose(*order).sel(condition=[TEXT, FOUND]).values
    real, names = found["real_activation"].transpose("unit", "rank").values, strings(found["image"])
    rows = []
    for at, name in enumerate(labels(found, "unit")):
        pictures = [
            Picture(context.thumbs.thumb(image), f"real {number(float(value))}")
            for image, value in zip(names[at][:REAL], real[at][:REAL], strict=True)
        ]
        for column, (condition, mark) in enumerate(((TEXT, "text"), (FOUND, "→"))):
            for k in range(samples):
                thumb = grid.thumb(at, column * samples + k, f"{name}, {condition} {k}")
                below = f"{mark} {number(float(reached[at, column, k]))}"
                pictures.append(Picture(thumb, below, says=_seen(found, at, condition, k)))
        rows.append((name, str(found["caption"].values[at]), pictures))
    title = "The real images that activate a unit most; then pictures of a text alone, and what the search made of them"
    return Gallery(rows, title=f"{title} (→); below, the activation")


def _seen(found: xr.Dataset, at: int, condition: str, k: int) -> str:
    """What the classifier says of a picture, and what the judge sees in it."""
    here = found.isel(unit=at, sample=k).sel(condition=condition)
    told = f"{found.attrs['classifier']} sees {here['says'].item()}"
    if "judged" not in found:
        return told
    return f"{told}; the judge: {', '.join(value for value in strings(here['judged']) if value) or 'nothing'}"


def _activations(found: xr.Dataset) -> Table:
    """A unit a row: the best real image, and the best and mean picture of each kind."""
    rows = []
    for at, name in enumerate(labels(found, "unit")):
        here = found.isel(unit=at)
        row = [name, number(float(here["weight"])), *(number(float(here[of])) for of in ("mean_activation",))]
        row.append(number(float(here["real_activation"].max())))
        for condition in CONDITIONS:
            values = here["activation"].sel(condition=condition)
            row.append(f"{number(float(values.max()))} ({number(float(values.mean()))})")
        row.append("yes" if bool(here["exceeds"].sel(condition=FOUND)) else "no")
        row.append(" → ".join(percent(float(here["confidence"].sel(condition=c).mean()), 0) for c in (TEXT, FOUND)))
        rows.append(row)
    columns = ["unit", "weight", "mean of all images", "best real image", *CONDITIONS, "beyond all real images"]
    caption = (
        "Activations: of pictures the largest, and the mean in brackets; and how sure the classifier is of the class"
    )
    return Table([*columns, "confidence, text → optimised"], rows, caption)


def _recognised(found: xr.Dataset) -> Table:
    """A unit a row: what its top images share, and in what share of the pictures of each kind it is seen."""
    value, of_top, of_data = (of_told(found, name) for name in ("common_value", "common_share", "data_share"))
    shares, samples = of_told(found, "recognised").transpose("condition", "unit"), found.sizes["sample"]
    rows = []
    for at, name in enumerate(labels(found, "unit")):
        row = [name, f"{words(str(found['told'].values[at]))} {value.values[at]}".strip()]
        row += [percent(float(each.values[at]), 0) for each in (of_top, of_data)]
        row += [f"{round(float(shares.sel(condition=c)[at]) * samples)} of {samples}" for c in CONDITIONS]
        rows.append([*row, "yes" if bool(found["seen"].sel(condition=FOUND)[at]) else "no"])
    total, every = samples * found.sizes["unit"], ["all", "", "", percent(float(of_data.mean()), 0)]
    for condition in CONDITIONS:
        hits = round(float(shares.sel(condition=condition).sum()) * samples)
        every.append(f"{percent(hits / total, 0)} ({_interval(hits, total)})")
    seen = _hits(found, "seen", FOUND)
    rows.append([*every, f"{seen} of {found.sizes['unit']} ({_interval(seen, found.sizes['unit'])})"])
    columns = ["unit", "top images share", "of them", "of the data", *CONDITIONS, "in the strongest optimised"]
    return Table(columns, rows, "Pictures in which the judge sees what a unit's top images share, with 95% intervals")


def _prompts(found: xr.Dataset) -> Table:
    """A text a row: those that were tried for each unit."""
    texts, means = strings(found["prompt"]), found["prompt_activation"].transpose("unit", "prompt").values
    rows = [
        [name, text, number(float(mean)), "yes" if text == found["caption"].values[at] else ""]
        for at, name in enumerate(labels(found, "unit"))
        for text, mean in zip(texts[at], means[at], strict=True)
        if text
    ]
    return Table(["unit", "text", "mean activation", "taken"], rows, "The captions of the top images, as drawn")


def _notes(found: xr.Dataset) -> list[str]:
    told = []
    reached = found["activation"].sel(condition=[TEXT, FOUND]).transpose("condition", "unit", "sample").values
    if still := int((reached == 0).all(0).sum()):
        told.append(
            f"{count(still)} searches began where the unit is 0, which no small change moves, and found nothing. The "
            "strongest of a unit's pictures counts."
        )
    if failed := int((strings(found["status"]) == "diverged").sum()):
        told.append(
            f"{count(failed)} searches ended early, as numbers grew out of bounds; their best until then is shown."
        )
    return told


SECTIONS: tuple[Section, ...] = (
    Section(
        KIND,
        "What excites a unit",
        "Pictures that start from the caption of a real image which activates a unit, and are changed until it is as "
        "large as it gets (DiG-IN, section F.1). Units are the inputs of the last layer: of each class those "
        "that raise its logit most.",
        ("neuron_pictures/{group}",),
        panel,
        tiles=tiles,
        headline=headline,
    ),
)
