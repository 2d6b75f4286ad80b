"""Images that occur more than once, byte for byte: in train and in eval, or in two classes."""

import hashlib
from collections.abc import Hashable, Mapping

from optogram.data.image_files import ImageFiles
from optogram.data.layout import ImageFile, count

SHOWN = 3


def repeat_notes(parts: Mapping[str, list[ImageFile]], source: ImageFiles) -> list[str]:
    """A sentence on images of `eval` that are in another split too, and one on images that are in several classes.

    parts: the files of each split. Files that cannot be read are passed over.
    """
    split_of = {file.id: split for split, files in parts.items() for file in files}
    leaked, torn = [], []
    for group in _repeated([file for files in parts.values() for file in files], source):
        seen = [file for file in group if split_of[file.id] != "eval"]
        leaked += [(file.id, seen[0].id) for file in group if split_of[file.id] == "eval" and seen]
        if other := next((file for file in group if file.folder != group[0].folder), None):
            torn.append((group[0].id, other.id))
    notes = []
    if leaked:
        notes.append(
            f"{count(len(leaked))} of eval also in train or reference, byte for byte ({_pairs(leaked)}): accuracies on "
            "eval count them as if they were new"
        )
    if torn:
        notes.append(f"{count(len(torn))} in more than one class, byte for byte ({_pairs(torn)})")
    return notes


def _repeated(files: list[ImageFile], source: ImageFiles) -> list[list[ImageFile]]:
    """Files of equal content, group by group; only those of equal marks are read."""
    marked: dict[Hashable, list[ImageFile]] = {}
    for file in files:
        marked.setdefault(source.mark(file), []).append(file)
    alike: dict[bytes, list[ImageFile]] = {}
    with source.reading() as read:
        for group in marked.values():
            for file in group if len(group) > 1 else ():
                try:
                    content = hashlib.sha256(read(file)).digest()
                except Exception:  # whatever is wrong with it: decoding it says so
                    continue
                alike.setdefault(content, []).append(file)
    return [sorted(group, key=lambda file: file.id) for group in alike.values() if len(group) > 1]


def _pairs(pairs: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{one} = {other}" for one, other in sorted(pairs)[:SHOWN])
    return shown + (", …" if len(pairs) > SHOWN else "")
