"""Image files and where they lie: a folder or zip of class folders, a Hugging Face dataset; and one file's pixels."""

import io
import os
import stat
import threading
import warnings
import zipfile
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from optogram.data.layout import LISTED, Bad, ImageFile, hidden, lay_out, level_of, printable
from optogram.data.network import hub_access
from optogram.data.spelling import plain
from optogram.data.zips import FILE_BYTES, zip_entries
from optogram.errors import DataError

HUB = "hf:"
# raster formats only: PIL's EPS reader starts another program
Image.init()
FORMATS = [name for name in ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF") if name in Image.OPEN]
_LABEL_TYPES = {
    "string",
    "large_string",
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
# tags of TIFF, and a value of the second and of the third
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED = 0, 2
TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}


@dataclass
class ImageFiles:
    """The files of one source, sorted by id; what is no usable file, with why; and how to get at their bytes.

    `mark`: something that is equal for files of equal content, and cheap to know: their size, say.
    `notes`: what a person should know of what is not used, a sentence each.
    """

    files: list[ImageFile]
    bad: Bad
    reading: Callable[[], AbstractContextManager[Callable[[ImageFile], bytes]]] = field(repr=False)
    mark: Callable[[ImageFile], Hashable] = field(repr=False)
    notes: list[str] = field(default_factory=list)


def find_images(source: str | Path, *, label_column: str | None = None) -> ImageFiles:
    """List the image files of a folder, a zip, a saved Hugging Face dataset, or a hub dataset (`hf:name`).

    Nothing is decoded or unpacked. Raises DataError if the source is missing, unreachable, unreadable or encrypted.
    """
    if str(source).startswith(HUB):
        return _hub_dataset(str(source), label_column)
    path = Path(source)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise DataError(
            f"{source}: cannot be reached ({error.strerror}). Expected a folder or zip of class folders: check its "
            "name and the permissions of the folders above it."
        ) from error
    if is_folder:
        return _saved_dataset(path, label_column) if _is_saved(path) else _folder(path)
    if is_file:
        return _zip(path)
    raise DataError(
        f"{source}: no such folder or zip. Expected a folder or zip of class folders, a folder written by "
        f"`datasets` save_to_disk, or a hub dataset written {HUB}NAME."
    )


def _is_saved(path: Path) -> bool:
    """Whether `datasets` save_to_disk wrote the folder; a state.json alone may be anything's."""
    kinds = (("dataset_dict.json",), ("state.json", "dataset_info.json"))
    return any(all((path / name).is_file() for name in names) for names in kinds)


def _folder(root: Path) -> ImageFiles:
    layout = lay_out(_walk(root, "", ()), root)

    @contextmanager
    def reading() -> Iterator[Callable[[ImageFile], bytes]]:
        yield lambda file: _read_regular(root / file.id)

    def mark(file: ImageFile) -> Hashable:
        try:
            return (root / file.id).stat().st_size
        except OSError:  # a broken link; reading it says so
            return file.id

    return ImageFiles(layout.files, layout.bad, reading, mark, _others_note(layout.others))


def _zip(path: Path) -> ImageFiles:
    entries = zip_entries(path)
    layout = lay_out([*entries.files, *entries.folders], path)

    @contextmanager
    def reading() -> Iterator[Callable[[ImageFile], bytes]]:
        with zipfile.ZipFile(path) as archive:
            yield lambda file: archive.read(entries.files[file.id])

    def mark(file: ImageFile) -> Hashable:
        info = entries.files[file.id]
        return info.file_size, info.CRC

    return ImageFiles(layout.files, entries.bad + layout.bad, reading, mark, _others_note(layout.others))


def _others_note(names: list[str]) -> list[str]:
    shown = ", ".join(map(printable, names[:LISTED])) + (", …" if len(names) > LISTED else "")
    return (
        [f"{len(names):,} file{' is' if len(names) == 1 else 's are'} no image and left out: {shown}"] if names else []
    )


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Names of the files under a folder, and of its folders, with '/' at their end.

    Links are followed, except one that leads back into itself.
    """
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
        if is_folder and not hidden(entry.name):
            yield f"{prefix}{entry.name}/"
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
    import pyarrow.compute

    arrow: Any = pyarrow.compute
    splits = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    levels = _split_levels(list(splits), source)
    lock = threading.Lock()
    encoded: dict[str, tuple[Any, int]] = {}
    sizes: dict[str, Hashable] = {}
    found = ImageFiles([], [], lambda: reading(), lambda file: sizes[file.id])
    for split, level in sorted(levels.items()):
        table = splits[split]
        image, column = _columns(table.features, source, label_column, found.notes)
        pictures = table.cast_column(image, datasets.Image(decode=False)).select_columns(image)
        lengths = arrow.binary_length(arrow.struct_field(pictures.data.column(image), "bytes")).to_pylist()
        kind = table.features[column]
        names = kind.names if isinstance(kind, datasets.ClassLabel) else None
        for row, value in enumerate(table[column]):
            id = f"{split}/{row:06d}" if split else f"{row:06d}"
            if value in (None, "") or (isinstance(value, int) and value < 0):
                found.bad.append((id, "no label"))
                continue
            folder = names[value] if names else str(value)
            found.files.append(ImageFile(id, level, plain(folder) or folder))
            encoded[id], sizes[id] = (pictures, row), lengths[row] or id

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

    found.notes += [f"split {split!r} is not used" for split in splits if split not in levels]
    return found


def _split_levels(splits: list[str], source: str) -> dict[str, str]:
    """The level of each split that is used. DataError for several splits that are not a training and a test split."""
    levels = {split: level_of(split) for split in splits}
    said = sorted(level for level in levels.values() if level)
    if len(splits) > 1 and ("train" not in said or len(said) == 1 or len({*said}) < len(said)):
        raise DataError(
            f"{source}: it is not clear which of the splits {', '.join(splits)} are for training and for testing. "
            "Expected one split, or train and test (or validation): take these with `datasets.DatasetDict(train=…, "
            "test=…).save_to_disk(FOLDER)` and give the folder."
        )
    return {split: level for split, level in levels.items() if level or len(splits) == 1}


def _columns(features: Any, source: str, label_column: str | None, notes: list[str]) -> tuple[str, str]:
    """The columns of images and of labels; what else might have been meant goes to the notes."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    column = label_column or next((name for name in ("label", *labels) if name in features), None)
    if not images or column is None or column not in features:
        raise DataError(
            f"{source}: expected a column of images and one of labels, found {', '.join(features)}. "
            "Name the label column with `label_column`, or call it `label` before `save_to_disk`."
        )
    kind = features[column]
    if not isinstance(kind, datasets.ClassLabel) and getattr(kind, "dtype", "") not in _LABEL_TYPES:
        raise DataError(
            f"{source}: the labels of column {column!r} are of the type {kind}, expected one class an image: names, or "
            "integers. Give a column of those, called `label`, before `save_to_disk`."
        )
    others = [name for name in (*images[1:], *labels) if name != column]
    note = f"images are of column {images[0]!r}, classes of {column!r}; not used: {', '.join(others)}"
    if others and note not in notes:
        notes.append(note)
    return images[0], column


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
            image.load()
            # asked after loading: Pillow turns some formats itself (TIFF), and then takes the tag away
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
    tags = getattr(image, "tag_v2", {})
    if (image.mode == "I" and tags.get(BITS_PER_SAMPLE) == (32,)) or SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise DataError("32-bit or signed integers: no known white. Save it with 8 or 16 bits, unsigned")
    if image.mode.startswith("I;16") or image.mode == "I":  # convert("RGB") would clip these at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise DataError("32-bit integers out of the range of 16 bits: no known white")
        levels = _tiff_levels(tags, levels)
        levels[levels == image.info.get("transparency")] = 65535
        return Image.fromarray((levels // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError("floating-point pixels: no known white")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _tiff_levels(tags: Mapping[int, Any], levels: np.ndarray) -> np.ndarray:
    """The 16-bit levels of a TIFF as its tags mean them: 12 bits fill the range, and white may be zero."""
    if tags.get(BITS_PER_SAMPLE) == (12,):
        levels = levels * 65535 // 4095
    return 65535 - levels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else levels
