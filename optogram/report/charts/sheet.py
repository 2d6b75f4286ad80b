"""Room report: the white sheet that a still figure is drawn on, in inches from its top left.

User-made names are drawn as they are: never read as mathtext, cut to the room there is, characters that the font lacks
as their code points. Fonts are the files that matplotlib ships and settings its defaults, so that a figure has the same
bytes on every machine.
"""

import io
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from optogram.report.style import css

WIDTH, DPI = 9.0, 200
"""Inches and dots an inch: 1800 pixels across, sharp on a slide, readable at half of that."""
MARGIN = 0.3
TINY, SMALL, NORMAL, TITLE = 8.0, 8.5, 9.5, 13.0


@contextmanager
def _quietly() -> Iterator[None]:
    """matplotlib warns of a home where it cannot write as soon as it is imported, and then does well without."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


with _quietly():
    import matplotlib.style
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.ft2font import FT2Font
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text


def palette() -> dict[str, str]:
    """The report's colours by their CSS names, of the light page: {"--ink": "#1c2126", …}."""
    light = css().partition("@media")[0]
    return dict(re.findall(r"(--\w+): (#[0-9a-f]{6});", light))


INKS = palette()


def tint(colour: str, strength: float) -> str:
    """A colour's CSS name -> the colour on white, at this strength."""
    parts = (int(INKS[colour][k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * strength):02x}" for part in parts)


@cache
def _font_file(bold: bool) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts/ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


@cache
def _measure(bold: bool) -> FT2Font:
    return FT2Font(str(_font_file(bold)))


@cache
def _drawn_characters() -> frozenset[int]:
    return frozenset(_measure(False).get_charmap()) & frozenset(_measure(True).get_charmap())


def font(size: float = NORMAL, bold: bool = False) -> FontProperties:
    """The font file itself: a name might find another version of it on another machine."""
    return FontProperties(fname=_font_file(bold), size=size)


def drawable(text: str) -> str:
    """The text on one line, without invisible characters, those that the font lacks as their code points: [732B]."""
    return "".join(_drawable(text))


def _drawable(text: str) -> list[str]:
    shown = []
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        if unicodedata.category(character) in ("Cc", "Cf"):
            continue
        known = ord(character) in _drawn_characters()
        shown.append(character if known else f"[{ord(character):04X}]")
    return shown


def width_of(text: str, size: float = NORMAL, bold: bool = False) -> float:
    """Inches that a drawable text takes."""
    face = _measure(bold)
    face.set_size(size, DPI)
    face.set_text(text)
    return face.get_width_height()[0] / 64 / DPI


def fit(text: str, room: float, size: float = NORMAL, bold: bool = False) -> str:
    """The text as it can be drawn within `room` inches, or cut in the middle: names differ at their ends."""
    parts = _drawable(text)
    if width_of("".join(parts), size, bold) <= room:
        return "".join(parts)
    low, high = 0, len(parts) - 1
    while low < high:
        kept = (low + high + 1) // 2
        if width_of(_cut(parts, kept), size, bold) <= room:
            low = kept
        else:
            high = kept - 1
    return _cut(parts, low)


def _cut(parts: list[str], kept: int) -> str:
    last = kept // 3
    return "".join(parts[: kept - last]).rstrip() + "…" + "".join(parts[len(parts) - last :]).lstrip()


def wrap(text: str, room: float, size: float = NORMAL, bold: bool = False) -> list[str]:
    """A sentence of ours as lines of at most `room` inches."""
    lines = [""]
    for word in drawable(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer, size, bold) > room and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@contextmanager
def plain_style() -> Iterator[None]:
    """matplotlib's own defaults, whatever the user's settings are; they are put back at the end."""
    with matplotlib.style.context("default", after_reset=True):
        yield


class Sheet:
    """A figure with a title, how to read it, and a place for axes below; draw on it within `plain_style`.

    `top` is where the free space begins, in inches from the upper edge; `shortened` holds what is drawn of the
    names that are not drawn as they are, and these names.
    """

    def __init__(
        self, title: str, model: str, reading: str, height: float, legend: Sequence[Sequence[tuple[str, Any]]] = ()
    ) -> None:
        self.shortened: list[tuple[str, str]] = []
        heads = wrap(title, WIDTH - 2 * MARGIN, TITLE, bold=True)
        lines = wrap(reading, WIDTH - 2 * MARGIN, NORMAL)
        rows = [row for entries in legend for row in self._legend_rows(entries)]
        below = 0.52 + 0.26 * len(heads)
        self.top = below + 0.12 + 0.2 * len(lines) + (0.1 + 0.25 * len(rows) if rows else 0)
        self.height = self.top + height
        self.figure = Figure(figsize=(WIDTH, self.height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.text(MARGIN, 0.3, self.name(model, WIDTH - 2 * MARGIN), colour="--muted")
        for k, line in enumerate(heads):
            self.text(MARGIN, 0.58 + 0.26 * k, line, size=TITLE, bold=True)
        for k, line in enumerate(lines):
            self.text(MARGIN, below + 0.1 + 0.2 * k, line, colour="--muted")
        for k, row in enumerate(rows):
            self._legend_row(row, self.top - 0.25 * (len(rows) - k) + 0.08)

    def name(self, name: str, room: float, size: float = NORMAL, bold: bool = False) -> str:
        """A user-made name as it is drawn within `room` inches; noted when that is not all of it."""
        shown = fit(name, room, size, bold)
        if shown != name and (shown, name) not in self.shortened:
            self.shortened.append((shown, name))
        return shown

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = NORMAL,
        bold: bool = False,
        colour: str = "--ink",
        ha: str = "left",
        va: str = "baseline",
        rotation: float = 0,
    ) -> Text:
        """A drawable text at (x, y)."""
        return self.figure.text(
            x / WIDTH,
            1 - y / self.height,
            text,
            fontproperties=font(size, bold),
            color=INKS[colour],
            ha=ha,
            va=va,
            rotation=rotation,
            parse_math=False,
        )

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without frame or ticks; its size is that of the drawing area."""
        at = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(at)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=5)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    def box(self, left: float, top: float, width: float, height: float, **look: Any) -> None:
        """A rectangle."""
        at = (left / WIDTH, 1 - (top + height) / self.height)
        size = width / WIDTH, height / self.height
        self.figure.add_artist(Rectangle(at, *size, transform=self.figure.transFigure, **look))

    def rule(self, left: float, right: float, y: float, colour: str, width: float) -> None:
        """A level line."""
        at = [left / WIDTH, right / WIDTH], [1 - y / self.height] * 2
        self.figure.add_artist(Line2D(*at, transform=self.figure.transFigure, color=INKS[colour], linewidth=width))

    def png(self) -> bytes:
        """The figure as PNG, without date or program in it."""
        out = io.BytesIO()
        self.figure.savefig(out, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        return out.getvalue()

    def _legend_rows(self, legend: Sequence[tuple[str, Any]]) -> list[list[tuple[float, str, Any]]]:
        """Where each entry begins, in as many rows as they need."""
        rows: list[list[tuple[float, str, Any]]] = []
        x = WIDTH
        for name, look in legend:
            shown = self.name(name, 3.0)
            width = _handle(look) + width_of(shown) + 0.24
            if x + width - 0.24 > WIDTH - MARGIN:
                rows.append([])
                x = MARGIN
            rows[-1].append((x, shown, look))
            x += width
        return rows

    def _legend_row(self, row: list[tuple[float, str, Any]], y: float) -> None:
        for x, name, look in row:
            # a line with its marker in the middle, or the marker alone
            room = _handle(look) - 0.08
            xs = [x / WIDTH, (x + room / 2) / WIDTH, (x + room) / WIDTH]
            ys = [1 - (y - 0.045) / self.height] * 3
            line = Line2D(xs, ys, transform=self.figure.transFigure, markevery=[1], **look)
            self.figure.add_artist(line)
            self.text(x + room + 0.08, y, name)


Drawn = tuple[str, str, Sheet]
"""A picture's title, its caption, and itself."""


def _handle(look: dict[str, Any]) -> float:
    """Inches from an entry's mark to its name."""
    return 0.2 if look.get("linestyle") == "none" else 0.4


def name_ticks(
    axis: Any, at: Sequence[float], names: Sequence[str], size: float = SMALL, colour: str = "--muted"
) -> None:
    """Ticks of an axis with drawable names."""
    axis.set_ticks(list(at), list(names), fontproperties=font(size), color=INKS[colour], parse_math=False)
