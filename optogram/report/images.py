"""Room report: thumbnails on shared sheets, and heatmaps and masks that the browser lays over them."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageOps

from optogram.report.findings import Datasets, labels, strings
from optogram.report.labels import slugs

COLUMNS = 32
ROWS = 32
LARGEST = 96
"""Pixels a side of a thumbnail, at most; smaller images are kept as they are."""
PNG_BYTES, VEIL_BYTES = 4500, 1500
"""A thumbnail, and a veil: sheets whose PNG takes more are WebP."""
CELL, VEIL = 224, 64
"""Pixels a side of a picture and of a veil on a grid, at most."""
GRID_PIXELS = 12_000_000
"""Of a sheet of a grid: phones give up on larger pictures."""
HOT, COLD = (235, 94, 0), (24, 90, 200)


@dataclass(frozen=True)
class Thumb:
    """Where an image lies on the sheets, and what is known about it.

    `labels` stand in the pages for pictures of no split only: those of the splits' images are in labels.js.
    """

    id: str
    sheet: str
    x: int
    y: int
    labels: str = ""


@dataclass(frozen=True)
class Grid:
    """Pictures of no split in rows and columns; also veils, which are grey: 255 shows all.

    `over`: the pictures that veils lie over, row by row and sheet by sheet.
    """

    name: str
    cells: UInt8[np.ndarray, "row column y x *rgb"]
    over: "Grid | None" = None

    @property
    def rows(self) -> int:
        """Rows of a sheet."""
        return self.over.rows if self.over else max(1, GRID_PIXELS // (self.cells.shape[1] * self._side**2))

    @property
    def _side(self) -> int:
        return min(VEIL if self.cells.ndim == 4 else CELL, max(self.cells.shape[2:4]))

    def place(self, row: int) -> tuple[str, int]:
        """The sheet of a row of pictures, and its place there."""
        return f"grid-{self.name}-{row // self.rows}", row % self.rows

    def thumb(self, row: int, column: int, name: str, labels: str = "") -> Thumb:
        """One picture."""
        sheet, y = self.place(row)
        return Thumb(name, sheet, column, y, labels)

    def write(self, folder: Path) -> list[str]:
        """Write the sheets into `folder`; their CSS."""
        side, veil, rules = self._side, self.cells.ndim == 4, []
        smooth = "" if side <= 64 and not veil else ";image-rendering:auto"
        for start in range(0, len(self.cells), self.rows):
            part, (name, _) = self.cells[start : start + self.rows], self.place(start)
            pictures = part.reshape(-1, *part.shape[2:])
            sheet, limit = _sheet(pictures, side, part.shape[1]), VEIL_BYTES if veil else PNG_BYTES
            data, suffix = _encode(sheet, limit * len(pictures), 70 if veil else 90)
            (folder / f"{name}.{suffix}").write_bytes(data)
            rules.append(f".{name}{{background-image:url({name}.{suffix});--w:{part.shape[1]}{smooth}}}\n")
        return rules


class Thumbnails:
    """Thumbnails of the images that the pages show: each once, on sheets of 1,024, written when all are known."""

    def __init__(self, images: Datasets) -> None:
        self._images = images
        self._slugs = slugs(images)
        self._rows: dict[str, tuple[str, int]] = {}
        self._labels: dict[str, np.ndarray] = {}
        self._names: dict[str, np.ndarray] = {}
        self._attributes = {split: labels(dataset, "attribute") for split, dataset in images.items()}
        for split, dataset in images.items():
            self._rows |= {str(name): (split, row) for row, name in enumerate(labels(dataset, "image"))}
            self._labels[split] = dataset["label"].values
            self._names[split] = strings(dataset["value_name"])
        self._used: dict[str, dict[int, int]] = {split: {} for split in images}
        self._grids: dict[str, Grid] = {}

    def grid(self, name: str, cells: UInt8[np.ndarray, "row column y x *rgb"], over: Grid | None = None) -> Grid:
        """Pictures of no split, or veils over pictures, under a name of letters that is theirs alone."""
        return self._grids.setdefault(name, Grid(name, cells, over))

    def find(self, image: str) -> tuple[str, int] | None:
        """Split and row of an image id, or None if no split has it."""
        return self._rows.get(image)

    def thumb(self, image: str) -> Thumb | None:
        """An image's thumbnail, which from now on is on a sheet; None if no split has the image."""
        found = self._rows.get(image)
        if found is None:
            return None
        split, row = found
        used = self._used[split]
        number = used.setdefault(row, len(used))
        sheet, cell = divmod(number, COLUMNS * ROWS)
        return Thumb(image, f"sheet-{self._slugs[split]}-{sheet}", cell % COLUMNS, cell // COLUMNS)

    def describe(self, image: str) -> str:
        """The known labels of an image: "shape circle · colour red"."""
        split, row = self._rows[image]
        names, values = self._names[split], self._labels[split][row]
        attributes = self._attributes[split]
        return " · ".join(f"{attributes[k]} {names[k, v]}" for k, v in enumerate(values) if v >= 0)

    def write(self, folder: Path) -> None:
        """Write the sheets and their CSS into `folder`, and the labels of the images on them, which all pages share."""
        rules, told = [], {}
        for split, used in self._used.items():
            rows = list(used)
            ids = labels(self._images[split], "image")
            for sheet, start in enumerate(range(0, len(rows), COLUMNS * ROWS)):
                pixels = _rows_of(self._images[split]["pixels"], rows[start : start + COLUMNS * ROWS])
                name = f"sheet-{self._slugs[split]}-{sheet}"
                told[name] = [self.describe(ids[row]) for row in rows[start : start + COLUMNS * ROWS]]
                side = min(LARGEST, max(pixels.shape[1:3]))
                data, suffix = _encode(_sheet(pixels, side, COLUMNS), PNG_BYTES * len(pixels), 90)
                (folder / f"{name}.{suffix}").write_bytes(data)
                smooth = "" if max(pixels.shape[1:3]) <= 64 else ";image-rendering:auto"
                rules.append(f".{name}{{background-image:url({name}.{suffix}){smooth}}}\n")
        for grid in self._grids.values():
            rules += grid.write(folder)
        (folder / "sheets.css").write_text("".join(rules))
        text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
        (folder / "labels.js").write_text(f"const LABELS = {text};\n")


def heat_uri(heat: Float[np.ndarray, "gy gx"], *, signed: bool) -> str:
    """A heatmap as a data URI of one pixel a cell, for the browser to stretch smoothly over the image.

    Signed: orange adds, blue takes away, transparent is zero, scaled by the largest magnitude. Otherwise the map is
    scaled from its least (transparent) to its largest value (orange).
    """
    return _uri(Image.fromarray(_heat(heat, signed)))


def heat_strip(heats: Float[np.ndarray, "k gy gx"]) -> str:
    """Heatmaps one below the other as one data URI, each as `heat_uri` makes an unsigned one: fewer bytes than k URIs.

    Around each its edge is repeated, so that none bleeds into the next when the browser stretches them. 16 levels.
    """
    strip = np.concatenate([np.pad(_heat(heat, False), ((1, 1), (1, 1), (0, 0)), "edge") for heat in heats])
    strip[..., 3] = (strip[..., 3] + 7) // 15 * 15
    return _uri(Image.fromarray(strip))


def _heat(heat: Float[np.ndarray, "gy gx"], signed: bool) -> UInt8[np.ndarray, "gy gx rgba"]:
    heat = np.asarray(heat, np.float64)
    low = 0.0 if signed else heat.min()
    scale = np.abs(heat - low).max() or 1.0
    strength = (heat - low) / scale
    rgba = np.empty((*heat.shape, 4), np.uint8)
    rgba[..., :3] = np.where((strength < 0)[..., None], COLD, HOT)
    rgba[..., 3] = np.round(225 * np.abs(strength))
    return rgba


def mask_uri(mask: Integer[np.ndarray, "y x"]) -> str:
    """A mask as a data URI: what is no object is darkened."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[mask == 0] = (16, 18, 22, 205)
    return _uri(Image.fromarray(rgba))


def _rows_of(pixels: xr.DataArray, rows: list[int]) -> UInt8[np.ndarray, "image y x rgb"]:
    """These rows, in this order, read in the order of the file."""
    order = np.argsort(rows, kind="stable")
    read = pixels.isel(image=np.asarray(rows)[order]).values
    return read[np.argsort(order, kind="stable")]


def _sheet(pictures: UInt8[np.ndarray, "image y x *rgb"], side: int, columns: int) -> Image.Image:
    mode = "RGB" if pictures.ndim == 4 else "L"
    sheet = Image.new(mode, (columns * side, side * -(-len(pictures) // columns)))
    for cell, image in enumerate(pictures):
        thumb = Image.fromarray(image)
        if thumb.size != (side, side):
            thumb = ImageOps.pad(thumb, (side, side), Image.Resampling.LANCZOS)
        sheet.paste(thumb, (cell % columns * side, cell // columns * side))
    return sheet


def _encode(sheet: Image.Image, most: int, quality: int) -> tuple[bytes, str]:
    """A sheet's bytes and suffix: exact within `most` bytes, else WebP (1.6 kB a scene, where JPEG takes 2.7)."""
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    if buffer.tell() <= most:
        return buffer.getvalue(), "png"
    buffer = io.BytesIO()
    sheet.save(buffer, format="WEBP", quality=quality)
    return buffer.getvalue(), "webp"


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
