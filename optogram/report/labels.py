"""Room report: numbers and names as people read them."""

import html
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

CONDITIONS = {
    "none": "nothing",
    "mlps": "all MLPs",
    "class_token": "class token",
    "class_token+mlps": "class token and MLPs",
}
ABLATED = {
    "base": "nothing ablated",
    "chosen": "heads named after the cue",
    "random best": "random heads, best draw",
    "random mean": "random heads, mean",
    "same size best": "as many random, best draw",
    "same size mean": "as many random, mean",
}
METHODS = {
    "decomposition": "Ours",
    "neurons": "Ours, by neurons",
    "raw_attention": "Raw attention",
    "rollout": "Rollout",
    "grad_cam": "GradCAM",
    "chefer": "Chefer et al.",
    "lrp": "LRP",
    "partial_lrp": "Partial LRP",
}
OURS = {"decomposition": "--s0", "neurons": "--s1"}
"""The colours of our own methods."""
NEURONS = {
    "none": "nothing ablated",
    "all": "w/o all neurons",
    "small": "w/o small norm",
    "large": "w/o large norm",
    "rank_one": "reconstruction from PC #1",
    "first_order": "w/o first-order effects",
    "indirect": "w/o activations (indirect)",
}
EFFECTS = {
    "second_order": "second order",
    "second_order_same_images": "second order, same images",
    "indirect": "indirect",
}
MINED = {
    "plain": "No phrases",
    "random": "Random neurons",
    "indirect": "Indirect effect",
    "similar": "Similar words",
    "second_order": "Second order",
}
VISUALISED = {
    "real": "Real images",
    "vital": "VITAL",
    "fourier": "Fourier",
    "maco": "MACO",
    "deepinversion": "DeepInversion",
    "pii": "PII",
}
METRICS = {
    "pixel_accuracy": "pixel accuracy",
    "miou": "mIoU",
    "pixel_accuracy_half": "pixel accuracy, cut at ½",
    "miou_half": "mIoU, cut at ½",
    "map": "mAP",
    "map_foreground": "mAP, foreground",
}


def percent(value: float, digits: int = 1) -> str:
    """A share as per cent: 0.7312 -> 73.1%."""
    return f"{100 * value:.{digits}f}%".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "n/a"


def points(value: float) -> str:
    """A difference of shares in percentage points, signed: -0.031 -> −3.1."""
    if not math.isfinite(value):
        return "n/a"
    text = f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text.endswith("0.0") and len(text) == 4 else text


def number(value: float) -> str:
    """Three significant digits, with a real minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "n/a"


def signed(value: float) -> str:
    """Two significant digits and a sign: -0.4871 -> −0.49."""
    return f"{value:+#.2g}".rstrip(".").replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "n/a"


def count(value: int) -> str:
    """An integer with thousands separators."""
    return f"{value:,}"


def p_value(value: float) -> str:
    """p = 0.012, or p < 0.001."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def words(name: str) -> str:
    """An identifier as words: class_token -> class token."""
    return name.replace("_", " ")


def slug(name: str) -> str:
    """A name that is safe as a file name, an element id and a CSS class."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name) or "_"


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A distinct slug for each name."""
    found: dict[str, str] = {}
    for name in names:
        base = short = slug(name)
        extra = 2
        while short in found.values():
            short, extra = f"{base}-{extra}", extra + 1
        found[name] = short
    return found


def plot_text(text: str, longest: int = 60) -> str:
    """Text for plotly, which reads a small HTML in every label: escaped, and cut when long."""
    return html.escape(text if len(text) <= longest else text[: longest - 1] + "…", quote=False)


def plain(value: Any) -> Any:
    """JSON types only: arrays as lists, floats to five significant digits, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
