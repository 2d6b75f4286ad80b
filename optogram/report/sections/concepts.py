"""Room report: what the active neurons of an image name."""

import numpy as np

from optogram.metrics import intervals
from optogram.report.findings import Model, labels, params_of
from optogram.report.labels import count, number
from optogram.report.panels import Context, Panel, Tile

SHOWN = 8
"""Images whose concepts are shown, at most."""
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
MARKS = {1: ("true", "✓", "true of this image"), 0: ("false", "✗", "not true of this image"), -1: ("open", "?", "open")}


def concepts(context: Context, model: Model) -> Panel:
    """Concept discovery in images (appendix B)."""
    panel = context.panel(model, "concepts")
    found = model.part("concepts")
    if found is None:
        return panel
    params = params_of(found).get("concepts")
    asked = params.get("shown", SHOWN) if isinstance(params, dict) else SHOWN
    some = found.isel(image=slice(min(int(asked), SHOWN)))
    texts, scores, true = (some[name].transpose("image", "k").values for name in ("text", "score", "true"))
    images = []
    for row, image in enumerate(labels(some, "image")):
        most = float(np.nanmax(scores[row], initial=0)) or 1.0
        rows = [
            (str(text), MARKS[int(true[row, k])], round(100 * float(scores[row, k]) / most, 1))
            for k, text in enumerate(texts[row])
            if text
        ]
        active = f"{count(int(some['active'].values[row]))} active neurons"
        images.append({"thumb": context.thumbs.thumb(image), "id": image, "active": active, "rows": rows})
    panel.extra = {"concepts": images}
    if why := str(found.attrs.get("truth_skipped") or ""):
        panel.notes.append(f"Whether they are true was not counted: {why}")
    beside = f"of {count(int(found.attrs['neurons']))}, mean over {count(found.sizes['image'])} images"
    beside += f" {PLUS_MINUS} {number(float(intervals.mean_interval(found['active'].values).half))}"
    panel.tiles.append(Tile("Active neurons", number(float(found.attrs["active"])), beside))
    return panel
