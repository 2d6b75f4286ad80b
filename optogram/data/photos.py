"""Photographs as an image source: splits, labels and captions of a folder, a zip or a Hugging Face dataset."""

import hashlib
import heapq
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from optogram.data.image_files import ImageFiles, decode, find_images, quiet_decoding
from optogram.data.layout import Bad, ImageFile, count
from optogram.data.repeats import repeat_notes
from optogram.data.spelling import is_no_text, plain, same_name
from optogram.errors import DataError, ParamError, nearest

SPLITS = ("train", "reference", "eval")
EVAL_SHARE = 0.2
MEMORY_BYTES = 1 << 30  # of kept pixels; twice that for a moment, when they are stacked
BATCH = 64
BLOCK = 64 * BATCH

# From the 80 templates of CLIP (Radford et al. 2021), those that fit small photographs of any subject.
CLASS_TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a photo of a small {}.",
    "a photo of a big {}.",
    "a close-up photo of a {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "a pixelated photo of a {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
)
CAPTION_TEMPLATES = (
    "a photo of a {}",
    "a picture of a {}",
    "an image of a {}",
    "a photograph showing a {}",
    "a snapshot of a {}",
    "{}",
    "there is a {} in this photo",
    "a close-up of a {}",
)


def class_name(folder: str) -> str:
    """The class that a folder's name stands for: underscores become spaces, Unicode's forms one, as in `plain`."""
    return plain(folder).replace("_", " ").strip() or folder


def class_prompts(name: str) -> list[str]:
    """Zero-shot prompts for a class, one a template; their unit embeddings are averaged into its classifier.

    >>> from optogram.data import class_prompts
    >>> class_prompts("dog")[0]
    'a photo of a dog.'
    """
    return [template.format(name) for template in CLASS_TEMPLATES]


class Photos:
    """One split of a set of photographs, checked by decoding; rows as in docs/artifacts/images.md.

    `source`: a folder or zip of class folders, perhaps under train/ and test/ (or val/); a folder written by
    `datasets` save_to_disk; or `hf:name` (`hf:name@config`), a hub dataset. With train/ and test/, `eval` is test/;
    without, a fifth of everything. `reference` is `reference_share` of the rest. Both are drawn within each class by a
    hash of seed and id, so splits never overlap and never depend on which files are bad. Rows come round-robin over
    the classes: any prefix is balanced, and `limit` keeps that many good rows.

    Attributes: `ids` (row ids: the path within the folder or zip, or split/row), `classes` (names, by label),
    `bad_files` (name, reason), of the files looked at: with `limit`, no more are decoded than needed;
    `notes`, a sentence each on what is left out or doubtful: other files, images that are in train and in eval.

    Raises ParamError for an argument that cannot be used; DataError if the source cannot be read, if it is not clear
    which folders are classes, if there is one class only or one has too few good images to be in every split, or, with
    `on_bad="refuse"`, if any file is bad.
    """

    def __init__(
        self,
        source: str | Path,
        split: str,
        *,
        size: int = 64,
        limit: int | None = None,
        on_bad: Literal["skip", "refuse"] = "skip",
        seed: int = 0,
        min_side: int = 8,
        reference_share: float = 0.2,
        pixel_limit: int = 80_000_000,
        label_column: str | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ParamError(f"split = {split!r}: expected one of {', '.join(SPLITS)}.{nearest(split, list(SPLITS))}")
        if on_bad not in ("skip", "refuse"):
            raise ParamError(f"on_bad = {on_bad!r}: expected 'skip' (list bad files, go on) or 'refuse' (stop).")
        for name, value in (("size", size), ("limit", limit), ("min_side", min_side)):
            if value is not None and value < 1:
                raise ParamError(f"{name} = {value}: expected at least 1.")
        if not 0 < reference_share < 1:
            raise ParamError(f"reference_share = {reference_share}: expected a number between 0 and 1.")
        self.source, self.split, self.size = source, split, size
        self._limits = {"min_side": min_side, "pixel_limit": pixel_limit}
        self._source: ImageFiles = find_images(source, label_column=label_column)
        self.bad_files: Bad = list(self._source.bad)
        folders = sorted({file.folder for file in self._source.files})
        self.classes = _class_names(folders, source, self.bad_files)
        parts = _split(self._source.files, folders, seed, reference_share, source)
        if len(folders) < 2:
            raise DataError(
                f"{source}: found one class only, {self.classes[0]!r}. Expected at least two, as what is studied is "
                "how a model tells classes apart: put the images into one folder a class."
            )
        self.notes = [*self._source.notes, *_unused(self._source.files, parts), *repeat_notes(parts, self._source)]
        self._rows, self._pixels = self._choose(parts[split], limit)
        if on_bad == "refuse" and self.bad_files:
            raise DataError(
                f"{source}: {_listing(self.bad_files)}. Repair or remove them, or set on_bad to 'skip' to go on "
                "without them."
            )
        if not self._rows:
            raise DataError(
                f"{source}: no good image in split {split!r}: {_listing(self.bad_files)}. Repair them, or lower "
                "min_side if they are just small."
            )
        self._check_classes(parts[split])
        self._labels = {folder: label for label, folder in enumerate(folders)}
        self.ids = [file.id for file in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def counts(self) -> dict[str, int]:
        """How many rows each class has."""
        held = Counter(file.folder for file in self._rows)
        return {class_name(folder): held[folder] for folder in self._labels}

    def read(self, start: int, stop: int) -> xr.Dataset:
        """Rows `start` to `stop` as a Dataset of the images/<split> schema. Raises ParamError outside the rows."""
        if not 0 <= start < stop <= len(self):
            raise ParamError(f"{self.source}: rows {start} to {stop}, expected a range within 0 to {len(self)}.")
        rows = self._rows[start:stop]
        if self._pixels is None:
            decoded = self._decode(rows)
            damaged = [(file.id, found) for file, found in zip(rows, decoded, strict=True) if isinstance(found, str)]
            if damaged:
                raise DataError(f"{self.source}: changed while being read: {_listing(damaged)}. Start again.")
            pixels = np.stack([found for found in decoded if not isinstance(found, str)])
        else:
            pixels = self._pixels[start:stop]
        names = [class_name(file.folder) for file in rows]
        captions = [[template.format(name) for template in CAPTION_TEMPLATES] for name in names]
        labels = np.array([[self._labels[file.folder]] for file in rows], np.int16)
        return xr.Dataset(
            {
                "pixels": (("image", "y", "x", "rgb"), pixels),
                "label": (("image", "attribute"), labels),
                "value_name": (("attribute", "value"), np.array([self.classes], object)),
                "caption": (("image", "variant"), np.array(captions, object)),
                "mentions": (("image", "variant", "attribute"), np.ones((len(rows), len(CAPTION_TEMPLATES), 1), bool)),
            },
            coords={
                "image": ("image", np.array(self.ids[start:stop], object)),
                "attribute": ("attribute", np.array(["class"], object)),
            },
            attrs={"class_attribute": "class"},
        )

    def _check_classes(self, files: list[ImageFile]) -> None:
        """DataError for classes of which no file of this split is good."""
        looked = {id for id, _ in self.bad_files}
        left = {file.folder for file in files if file.id not in looked}
        none = [repr(class_name(folder)) for folder in sorted({file.folder for file in files} - left)]
        if none:
            raise DataError(
                f"{self.source}: no good image of {', '.join(none[:10])}{', …' if len(none) > 10 else ''} in split "
                f"{self.split!r}: {_listing(self.bad_files)}. Repair or add images, or remove the class."
            )

    def _choose(self, files: list[ImageFile], limit: int | None) -> tuple[list[ImageFile], np.ndarray | None]:
        """The good rows, round-robin over classes, and their pixels if they fit in memory. Extends `bad_files`."""
        wanted = len(files) if limit is None else min(limit, len(files))
        keep = wanted * self.size**2 * 3 <= MEMORY_BYTES
        queues: dict[str, deque[ImageFile]] = {}
        for file in files:
            queues.setdefault(file.folder, deque()).append(file)
        good: dict[str, list[tuple[ImageFile, np.ndarray | None]]] = {folder: [] for folder in queues}
        # a bad file is replaced by the next of its class, if there is one: again until enough are good
        while missing := wanted - sum(map(len, good.values())):
            picks = _fewest_first(queues, {folder: len(held) for folder, held in good.items()}, missing)
            if not picks:
                break
            for start in range(0, len(picks), BLOCK):
                block = picks[start : start + BLOCK]
                for file, found in zip(block, self._decode(block), strict=True):
                    if isinstance(found, str):
                        self.bad_files.append((file.id, found))
                    else:
                        good[file.folder].append((file, found if keep else None))
        order = sorted((rank, folder) for folder, held in good.items() for rank in range(len(held)))
        chosen = [good[folder][rank] for rank, folder in order]
        pixels = np.stack([found for _, found in chosen if found is not None]) if keep and chosen else None
        return [file for file, _ in chosen], pixels

    def _decode(self, files: list[ImageFile]) -> list[np.ndarray | str]:
        """Each file's pixels, or the reason why there are none. Threads pay: PIL decodes outside Python's lock."""
        with (
            self._source.reading() as read,
            quiet_decoding(),
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads,
        ):
            batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
            parts = threads.map(lambda batch: [self._decode_one(read, file) for file in batch], batches)
            return [found for part in parts for found in part]

    def _decode_one(self, read: Callable[[ImageFile], bytes], file: ImageFile) -> np.ndarray | str:
        try:
            data = read(file)
        except DataError as error:
            return str(error)
        except Exception as error:  # a broken link, a disk fault, a damaged or unknown compression in a zip
            return f"cannot be read: {getattr(error, 'strerror', None) or error}"
        try:
            return decode(data, self.size, **self._limits)
        except DataError as error:
            return str(error)


def _class_names(folders: list[str], source: str | Path, bad: Bad) -> list[str]:
    names = [class_name(folder) for folder in folders]
    if not names:
        found = f"only {_listing(bad)}" if bad else "none"
        raise DataError(
            f"{source}: no images: expected image files in one folder a class (CLASS/photo.jpg, or "
            f"train/CLASS/photo.jpg and test/CLASS/photo.jpg), found {found}."
        )
    odd = [folder for folder in folders if any(map(is_no_text, folder))]
    if odd:
        raise DataError(
            f"{source}: the class name{'s' if len(odd) > 1 else ''} {', '.join(map(repr, odd[:10]))} "
            f"ha{'ve' if len(odd) > 1 else 's'} line breaks or other characters that are no text. Expected a word or "
            "several in one line, as it stands in prompts: rename the folder."
        )
    keys = [same_name(folder) for folder in folders]
    same = [folder for folder, key in zip(folders, keys, strict=True) if keys.count(key) > 1]
    if same:
        raise DataError(
            f"{source}: folders {', '.join(map(repr, same))} name the same class (letter case and underscores count "
            "for nothing: a CLIP reads them alike). Merge or rename them, alike in train/ and test/."
        )
    return names


def _split(
    files: list[ImageFile], folders: list[str], seed: int, share: float, source: str | Path
) -> dict[str, list[ImageFile]]:
    """The files of each split, in the order of the hash of seed and id, which also draws the splits."""
    files = sorted(files, key=lambda file: hashlib.sha256(f"{seed}/{file.id}".encode()).digest())
    held_out = next((level for level in ("test", "val") if any(file.level == level for file in files)), None)
    levelled = held_out is not None and any(file.level == "train" for file in files)
    parts: dict[str, list[ImageFile]] = {split: [] for split in SPLITS}
    few: list[str] = []
    grouped: dict[str, list[ImageFile]] = {folder: [] for folder in folders}
    for file in files:
        if file.level == "train" or not levelled:
            grouped[file.folder].append(file)
    for folder, mine in grouped.items():
        if len(mine) < (2 if levelled else 3):
            few.append(f"{folder!r} ({len(mine)})")
            continue
        if not levelled:
            fifth = max(1, round(EVAL_SHARE * len(mine)))
            parts["eval"] += mine[:fifth]
            mine = mine[fifth:]
        cut = min(max(1, round(share * len(mine))), len(mine) - 1)
        parts["reference"] += mine[:cut]
        parts["train"] += mine[cut:]
    missing = []
    if levelled:
        parts["eval"] = [file for file in files if file.level == held_out]
        missing = sorted(set(folders) - {file.folder for file in parts["eval"]})
    if few:
        need = "2 images under train/ (train, reference)" if levelled else "3 images (train, reference, eval)"
        raise DataError(
            f"{source}: every class needs at least {need}, but {len(few)} of {len(folders)} have fewer: "
            f"{', '.join(few[:10])}{', …' if len(few) > 10 else ''}. Add images to these folders, or remove them."
        )
    if missing:
        raise DataError(
            f"{source}: no image under {held_out}/ of {', '.join(map(repr, missing[:10]))}"
            f"{', …' if len(missing) > 10 else ''}, which train/ has. Add images there, or remove the class from both."
        )
    return parts


def _unused(files: list[ImageFile], parts: dict[str, list[ImageFile]]) -> list[str]:
    """What to say of whole levels that no split is made of: with train/, val/ and test/, that is val/."""
    used = {file.level for part in parts.values() for file in part}
    left = Counter(file.level for file in files if file.level not in used)
    return [f"{level}/ ({count(number)}) is not used: eval is test/" for level, number in sorted(left.items())]


def _fewest_first(queues: dict[str, deque[ImageFile]], held: dict[str, int], count: int) -> list[ImageFile]:
    """Take `count` files off the queues, always from the class that then has the fewest."""
    heap = [(held[folder], folder) for folder, queue in queues.items() if queue]
    heapq.heapify(heap)
    picks: list[ImageFile] = []
    while heap and len(picks) < count:
        number, folder = heapq.heappop(heap)
        picks.append(queues[folder].popleft())
        if queues[folder]:
            heapq.heappush(heap, (number + 1, folder))
    return picks


def _listing(bad: Iterable[tuple[str, str]]) -> str:
    bad = list(bad)
    more = f", and {len(bad) - 10:,} more" if len(bad) > 10 else ""
    files = "1 bad file" if len(bad) == 1 else f"{len(bad):,} bad files"
    return f"{files}: " + "; ".join(f"{name} ({reason})" for name, reason in bad[:10]) + more
