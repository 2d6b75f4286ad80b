"""Image files and where they lie: a folder or zip of class folders, a Hugging Face dataset; and one file's pixels."""

import io
import os
import stat
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from optogram.errors import DataError
from optogram.hub import hub_access

HUB = "hf:"
# raster formats only: PIL's EPS reader starts another program
Image.init()
FORMATS = [name for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF") if name in Image.OPEN]
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif")
SUFFIXES += (".ppm", ".pgm", ".pbm", ".pnm")
LEVELS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
LEVELS |= {"val": "val", "valid": "val", "validation": "val"}
FILE_BYTES = 256 << 20
TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}

Bad = list[tuple[str, str]]


@dataclass(frozen=True)
class ImageFile:
    """One file: its stable id, the level it is under ("train", "test", "val" or ""), and its class folder's name."""

    id: str
    level: str
    folder: str


@dataclass
class ImageFiles:
    """The files of one source, sorted by id; what is no usable file, with why; and how to get at their bytes."""

    files: list[ImageFile]
    bad: Bad
    reading: Callable[[], AbstractContextManager[Callable[[ImageFile], bytes]]] = field(repr=False)


def find_images(source: str | Path, *, label_column: str | None = None) -> ImageFiles:
    """List the image files of a folder, a zip, a saved Hugging Face dataset, or a hub dataset (`hf:name`).

    Nothing is decoded or unpacked. Raises DataError if the source is missing, unreachable, unreadable or encrypted.
    """
    if str(source).startswith(HUB):
        return _hub_dataset(str(source), label_column)
    path = Path(source)
    if path.is_dir():
        saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
        return _saved_dataset(path, label_column) if saved else _folder(path)
    if path.is_file():
        return _zip(path)
    raise DataError(
        f"{source}: no such folder or zip. Expected a folder or zip of class folders, a folder written by "
        f"`datasets` save_to_disk, or a hub dataset written {HUB}NAME."
    )


def _folder(root: Path) -> ImageFiles:
    names = sorted(_walk(root, "", ()))

    @contextmanager
    def reading() -> Iterator[Callable[[ImageFile], bytes]]:
        yield lambda file: _read_regular(root / file.id)

    return ImageFiles(*_classify(names), reading)


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Names of the files under a folder; links are followed, except one that leads back into itself."""
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        entries = [] if here in above else sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}). Check its permissions.") from error
    for entry in entries:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself
            is_folder = False
        if is_folder and not _hidden(entry.name):
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        elif not is_folder:
            yield prefix + entry.name


def _read_regular(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
        raise DataError("not a regular file")
    if status.st_size > FILE_BYTES:
        raise DataError(f"{status.st_size:,} bytes, more than {FILE_BYTES:,}")
    return path.read_bytes()


def _zip(path: Path) -> ImageFiles:
    """A zip is read in memory and never unpacked, so no name in it can reach outside; unsafe names are refused."""
    entries: dict[str, zipfile.ZipInfo] = {}
    bad: Bad = []
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path}: not a readable zip ({error}). Expected a folder or a zip of class folders; "
            "check that the download is complete."
        ) from error
    for info in infos:
        name = info.filename.replace("\\", "/")
        if info.is_dir():
            continue
        if info.flag_bits & 0x1:
            raise DataError(f"{path}: encrypted ({name}). Unpack it with its password and give the folder instead.")
        if ".." in name.split("/") or name.startswith("/") or name[1:2] == ":":
            bad.append((name, "unsafe name: absolute, or with '..'"))
        elif not _is_image_name(name):
            continue
        elif name in entries:
            bad.append((name, "second entry of this name"))
        elif info.file_size > FILE_BYTES:
            bad.append((name, f"{info.file_size:,} bytes unpacked, more than {FILE_BYTES:,}"))
        else:
            entries[name] = info

    @contextmanager
    def reading() -> Iterator[Callable[[ImageFile], bytes]]:
        with zipfile.ZipFile(path) as archive:
            yield lambda file: archive.read(entries[file.id])

    files, misplaced = _classify(sorted(entries))
    return ImageFiles(files, bad + misplaced, reading)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image_name(name: str) -> bool:
    return not any(map(_hidden, name.split("/"))) and PurePosixPath(name).suffix.lower() in SUFFIXES


def _classify(names: list[str]) -> tuple[list[ImageFile], Bad]:
    """Split '/'-separated names into level, class folder and file; a single folder around everything is looked into."""
    names = [name for name in names if _is_image_name(name)]
    paths = {name: name.split("/") for name in names}
    while all(len(parts) > 2 for parts in paths.values()) and len({parts[0] for parts in paths.values()}) == 1:
        if next(iter(paths.values()))[0].lower() in LEVELS:
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    levelled = any(len(parts) > 2 and parts[0].lower() in LEVELS for parts in paths.values())
    files: list[ImageFile] = []
    bad: Bad = []
    for name, parts in paths.items():
        level = LEVELS.get(parts[0].lower()) if levelled else ""
        rest = parts[1:] if levelled else parts
        if level is None:
            bad.append((_printable(name), "not under train/, val/ or test/, as other images are"))
        elif len(rest) < 2:
            bad.append((_printable(name), "not in a class folder"))
        elif _printable(name) != name:
            bad.append((_printable(name), "name is not valid UTF-8"))
        else:
            files.append(ImageFile(name, level, rest[0]))
    return files, bad


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _hub_dataset(source: str, label_column: str | None) -> ImageFiles:
    import datasets

    name, _, config = source.removeprefix(HUB).partition("@")
    with hub_access() as online:
        try:
            return _rows(datasets.load_dataset(name, config or None), source, label_column)
        except DataError:
            raise
        except Exception as error:  # whatever the hub's libraries raise: a name, a network or a format problem
            reason = str(error).splitlines()[0] if online else "the hub cannot be reached, and it is not in the cache"
            raise DataError(
                f"{source}: cannot be loaded: {reason}. Without a network give a local path instead: a folder or zip "
                "of class folders, or a folder written by `datasets.load_dataset(...).save_to_disk(FOLDER)`."
            ) from error


def _saved_dataset(path: Path, label_column: str | None) -> ImageFiles:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # pyarrow and datasets raise many kinds on damaged files
        raise DataError(f"{path}: not a readable saved dataset ({error}). Write it again with save_to_disk.") from error
    return _rows(loaded, str(path), label_column)


def _rows(loaded: Any, source: str, label_column: str | None) -> ImageFiles:
    """The rows of a Hugging Face dataset as files: ids are `<split>/<row>`, or `<row>` when it has no splits."""
    import datasets

    splits = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    lock = threading.Lock()
    encoded: dict[str, tuple[Any, int]] = {}
    files: list[ImageFile] = []
    bad: Bad = []
    for split, table in sorted(splits.items()):
        features = table.features
        images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
        labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        column = label_column or next((name for name in ("label", *labels) if name in features), None)
        if not images or column not in features:
            raise DataError(
                f"{source}: expected a column of images and one of labels, found {', '.join(features)}. "
                "Name the label column with `label_column`."
            )
        pictures = table.cast_column(images[0], datasets.Image(decode=False)).select_columns(images[0])
        names = features[column].names if isinstance(features[column], datasets.ClassLabel) else None
        for row, value in enumerate(table[column]):
            id = f"{split}/{row:06d}" if split else f"{row:06d}"
            if value is None or (names and value < 0):
                bad.append((id, "no label"))
                continue
            files.append(ImageFile(id, LEVELS.get(split, ""), names[value] if names else str(value)))
            encoded[id] = (pictures, row)

    @contextmanager
    def reading() -> Iterator[Callable[[ImageFile], bytes]]:
        def read(file: ImageFile) -> bytes:
            table, row = encoded[file.id]
            with lock:  # a table's row cache is not made for several threads
                cell = table[row][table.column_names[0]]
            if cell is None:
                raise DataError("no image in this row")
            return cell["bytes"] if cell["bytes"] is not None else _read_regular(Path(cell["path"]))

        yield read

    return ImageFiles(files, bad, reading)


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """PIL's warnings as reasons: a suspected decompression bomb is an error, a malformed tag is not worth a line.

    Python's warning filters are global: enter this once around the threads that decode, not in each.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(data: bytes, size: int, *, min_side: int, pixel_limit: int) -> UInt8[np.ndarray, "size size 3"]:
    """Pixels of an encoded image: upright, on white where transparent, the centre square resized (bicubic) to `size`.

    The first frame of an animation; 16-bit grey scaled to 8 bits; embedded colour profiles are not applied.
    Raises DataError with the reason when it is not an image, is damaged, or is too small or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > pixel_limit:
                raise DataError(f"{width} x {height} pixels, more than pixel_limit = {pixel_limit:,}")
            if min(width, height) < min_side:
                raise DataError(f"{width} x {height} pixels, a side under min_side = {min_side}")
            turns = TURNS.get(_orientation(image), ())
            picture = _to_rgb(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError("decompression bomb: far more pixels than any photograph") from error
    except Image.UnidentifiedImageError as error:
        raise DataError("not an image of a known format") from error
    except Exception as error:  # on hostile bytes PIL's decoders raise nearly anything
        raise DataError(f"damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    for turn in turns:
        picture = picture.transpose(turn)
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # cropping within the resize never builds the huge strip that a 1 : 10,000 picture would become
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata does not make the picture bad
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # convert("RGB") would clip these at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise DataError("32-bit integers out of the range of 16 bits: no known white")
        return Image.fromarray((levels // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError("floating-point pixels: no known white")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
