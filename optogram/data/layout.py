"""Where class folders begin: the names of a folder's or zip's files as levels (train/, test/), classes and strays.

Nothing is guessed. A layout that can be read in two ways is an error that says what was found and what is expected.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from optogram.data.spelling import plain, same_name
from optogram.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff")
SUFFIXES += (".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".mpo")
# what a person calls a picture and this project does not read: listed as bad wherever it lies
UNREAD = (".heic", ".heif", ".hif", ".svg", ".svgz", ".psd", ".psb", ".xcf", ".ai", ".eps", ".ico", ".icns", ".tga")
UNREAD += (".raw", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f")
UNREAD += (".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".hdr", ".exr", ".dcm", ".nii", ".pcx")
UNREAD += (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".3gp")
# what lies beside pictures and is none: counted and named once, no error
COMPANIONS = (".txt", ".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".html", ".htm", ".yaml", ".yml")
COMPANIONS += (".db", ".ini", ".log", ".pdf", ".xmp", ".aae", ".py", ".ipynb", ".mat", ".sh", ".lnk", ".url")
HIDDEN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Icon\r")

LEVELS = {"train": "train", "training": "train", "trainset": "train", "test": "test", "testing": "test"}
LEVELS |= {"testset": "test", "val": "val", "valid": "val", "validation": "val", "valset": "val"}
LEVELS |= {"dev": "val", "eval": "val", "evaluation": "val"}
# words that say no more beside a level's: seg_train, x_train, train_set, training-images
FILLERS = {"set", "data", "dataset", "images", "imgs", "img", "pictures", "photos", "split", "folder", "seg", "x"}
# folders of a kind of file, never of a class; those of the second row may be one, beside classes of other names
KINDS = {"images", "imgs", "img", "jpegimages", "annotations", "annotation", "segmentationclass", "segmentationobject"}
PERHAPS_KINDS = {"image", "mask", "masks", "label", "labels", "gt", "groundtruth", "pictures", "photos", "jpg", "png"}

EXPECTED = (
    "Expected one folder a class with its images straight in it (CLASS/photo.jpg), or these folders under train/ and "
    "test/ (train/CLASS/photo.jpg, test/CLASS/photo.jpg)"
)
NO_FOLDER = "not in a class folder"
NO_LEVEL = "not under train/, val/ or test/, as other images are"
LISTED = 10

Bad = list[tuple[str, str]]
Parts = tuple[str, ...]


@dataclass(frozen=True)
class ImageFile:
    """One file: its stable id, the level it is under ("train", "test", "val" or ""), and its class folder's name."""

    id: str
    level: str
    folder: str


@dataclass
class Layout:
    """The image files, those that are no usable file with why, and names of files that are no images."""

    files: list[ImageFile] = field(default_factory=list)
    bad: Bad = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def lay_out(names: Iterable[str], source: str | Path) -> Layout:
    """Every name's place. names: '/'-separated; a folder's ends with '/', so that empty class folders are known.

    One folder around everything is looked into, as often as there is one. Raises DataError where it is not clear which
    folders are classes, and for class folders without any image that can be read.
    """
    shown = sorted(name for name in names if not any(map(hidden, name.split("/"))))
    pictures = [tuple(name.split("/")) for name in shown if _suffix(name) in SUFFIXES + UNREAD]
    around, inside = _unwrapped(pictures, "", source)
    regions: dict[Parts, str] = {}
    for folder, level in _levels(inside, source).items():
        beside = [parts[1:] for parts in inside if parts[0] == folder and len(parts) > 1] if folder else inside
        wrappers, within = _unwrapped(beside, level, source)
        _check_classes(within, source)
        regions[(*around, *([folder] if folder else []), *wrappers)] = level
    layout = Layout()
    for name in shown:
        _place(name, regions, len(around), layout)
    _check_places(layout, source)
    _check_used(shown, regions, layout, source)
    return layout


def level_of(name: str) -> str:
    """The level that a folder's name says ("train", "test", "val"), "" if none: also seg_train, x_train, train_set."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    said = [word for word in words if word not in FILLERS] if len(words) > 1 else words
    return LEVELS.get(said[0], "") if len(said) == 1 else ""


def hidden(name: str) -> bool:
    """Whether files of this name, and folders with all that is in them, are the system's and not the user's."""
    return name.startswith(".") or name in HIDDEN


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower() if not name.endswith("/") else ""


def _folders(paths: Iterable[Parts]) -> dict[str, list[Parts]]:
    """What lies in each first-level folder, by its path below that folder."""
    found: dict[str, list[Parts]] = {}
    for parts in paths:
        if len(parts) > 1:
            found.setdefault(parts[0], []).append(parts[1:])
    return found


def _unwrapped(paths: list[Parts], level: str, source: str | Path) -> tuple[Parts, list[Parts]]:
    """The folders around everything, by the images that are deep enough, and the paths below them.

    A level's folder is none, except within that very level (train/train/CLASS) and around other levels.
    """
    around: Parts = ()
    while len(below := _folders(paths)) == 1:
        ((name, inside),) = below.items()
        deeper = _folders(inside)
        own = level_of(name)
        if not deeper or (own not in ("", level) and not {level_of(folder) for folder in deeper} - {"", own}):
            break
        loose = sum(len(parts) == 1 for parts in inside)
        if loose and len(deeper) == 1 and not level_of(next(iter(deeper))) and not any(map(_folders, deeper.values())):
            raise _doubt(source, f"{name}/ holds images beside the folder {next(iter(deeper))}/", paths)
        around, paths = (*around, name), inside
    return around, paths


def _levels(paths: list[Parts], source: str | Path) -> dict[str, str]:
    """Folder -> level, of the folders that hold class folders; {"": ""} if class folders begin here."""
    below = _folders(paths)
    said = {name: level for name in below if (level := level_of(name))}
    deep = {name: level for name, level in said.items() if _folders(below[name])}
    others = [name for name in below if name not in said]
    if not deep:
        # "train" alone may be a class, among others
        if said and (not others or set(said.values()) != {"train"}):
            raise _doubt(source, f"{_named(said)} hold images, but no class folders", paths)
        return {"": ""}
    kinds = Counter(deep.values())
    if max(kinds.values()) > 1:
        raise _doubt(source, f"of {_named(deep)} several say the same", paths)
    if "train" not in kinds and len(kinds) > 1:
        raise _doubt(source, f"there are {_named(deep)}, but no train/", paths)
    if others and not ("train" in kinds and len(kinds) > 1):
        raise _doubt(source, f"{_named(deep)} may be a class or not, beside {_named(others)}", paths)
    return deep


def _check_classes(paths: list[Parts], source: str | Path) -> None:
    """DataError where folders that would be classes rather hold classes, or kinds of files."""
    below = _folders(paths)
    inner = {name: {parts[0] for parts in inside if len(parts) > 1} for name, inside in below.items()}
    loose = {name: sum(len(parts) == 1 for parts in inside) for name, inside in below.items()}
    nested = [name for name in below if len(inner[name]) > 1 and 2 * loose[name] < len(below[name])]
    if nested:
        same = " and the same" if len(nested) > 1 and len({frozenset(inner[name]) for name in nested}) == 1 else ""
        raise _doubt(
            source, f"{_named(nested)} hold several{same} folders of images, either of which may be classes", paths
        )
    shared = set.intersection(*inner.values()) if inner else set()
    if len(below) > 1 and not any(loose.values()) and shared:
        name = next(iter(shared))
        if _kind(name) not in KINDS | PERHAPS_KINDS:
            raise _doubt(source, f"{_named(below)} all hold the folder {name}/", paths)
    kinds = [name for name in below if _kind(name) in KINDS]
    perhaps = [name for name in below if _kind(name) in KINDS | PERHAPS_KINDS]
    if kinds or len(perhaps) > 1:
        raise _doubt(source, f"{_named(perhaps)} would be classes", paths)


def _kind(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _named(folders: Iterable[str]) -> str:
    folders = [f"{printable(name)}/" for name in folders]
    return ", ".join(folders[:LISTED]) + (", …" if len(folders) > LISTED else "")


def _doubt(source: str | Path, why: str, paths: Sequence[Parts]) -> DataError:
    found = []
    for name, inside in sorted(_folders(paths).items()):
        deeper = sorted(_folders(inside))
        within = f" in {', '.join(f'{folder}/' for folder in deeper[:3])}{', …' if len(deeper) > 3 else ''}"
        found.append(f"{name}/ ({count(len(inside))}{within if deeper else ''})")
    found += [f"{count(loose)} in no folder"] if (loose := sum(len(parts) == 1 for parts in paths)) else []
    listing = ", ".join(found[:LISTED]) + (f" and {len(found) - LISTED} more" if len(found) > LISTED else "")
    return DataError(
        f"{source}: it is not clear which folders are classes: {why}.\n  Found {printable(listing)}.\n  {EXPECTED}. "
        "Move or rename the folders so; what does not belong there, take out or let its name begin with a dot."
    )


def count(images: int) -> str:
    """How many images, in words."""
    return f"{images:,} image{'' if images == 1 else 's'}"


def printable(name: str) -> str:
    """A name as it can be printed: bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


def _place(name: str, regions: dict[Parts, str], depth: int, layout: Layout) -> None:
    """Put one name into `layout`, by the folder of `regions` that it lies in; levels' folders lie at `depth`."""
    parts, suffix = tuple(name.split("/")), _suffix(name)
    if name.endswith("/"):
        return
    region = next((region for region in regions if parts[: len(region)] == region), None)
    in_class = region is not None and len(parts) > len(region) + 1
    if suffix in COMPANIONS or (not in_class and suffix not in SUFFIXES + UNREAD):
        layout.others.append(name)
    elif suffix not in SUFFIXES:
        layout.bad.append((printable(name), f"{suffix or 'a file without a suffix'} is not read"))
    elif region is None or not in_class:
        outside = "" not in regions.values() and len(parts) > depth + 1 and not level_of(parts[depth])
        layout.bad.append((printable(name), NO_LEVEL if outside else NO_FOLDER))
    elif printable(name) != name:
        layout.bad.append((printable(name), "name is not valid UTF-8"))
    else:
        layout.files.append(ImageFile(name, regions[region], plain(parts[len(region)]) or parts[len(region)]))


def _check_places(layout: Layout, source: str | Path) -> None:
    """DataError if most images lie beside the class folders: then these are hardly what is meant."""
    strays = [name for name, reason in layout.bad if reason == NO_FOLDER]
    if layout.files and len(strays) > len(layout.files):
        raise DataError(
            f"{source}: {count(len(strays))} {NO_FOLDER}, and only {len(layout.files):,} in one: "
            f"{', '.join(strays[:3])}, …\n  {EXPECTED}. Move these images into class folders, or take them out."
        )


def _check_used(shown: list[str], regions: dict[Parts, str], layout: Layout, source: str | Path) -> None:
    """DataError that names the class folders without any image that can be read, unless they hold texts alone."""
    used = {same_name(file.folder) for file in layout.files}
    unused: dict[str, Counter[str]] = {}
    for name in shown if used else ():
        parts = tuple(name.split("/"))
        region = next((region for region in regions if parts[: len(region)] == region), None)
        if region is None or len(parts) < len(region) + 2 or same_name(parts[len(region)]) in used:
            continue
        held = unused.setdefault("/".join(parts[: len(region) + 1]), Counter())
        if not name.endswith("/"):
            held[_suffix(name) or "without a suffix"] += 1
    # a folder of texts alone lies beside the classes, and is noted with the other files that are no images
    unused = {folder: held for folder, held in unused.items() if not held or set(held) - set(COMPANIONS)}
    if unused:
        found = [
            f"{printable(folder)}/ ({', '.join(f'{n} {what}' for what, n in held.most_common(3)) or 'empty'})"
            for folder, held in unused.items()
        ]
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise DataError(
            f"{source}: no image that can be read in {len(found)} class folder{'' if len(found) == 1 else 's'}: "
            f"{', '.join(found[:LISTED])}{more}.\n  Convert their images (to .jpg or .png), or take these folders out; "
            "a folder whose name begins with a dot is left out too."
        )
