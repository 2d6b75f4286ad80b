"""Zips of photographs: which entries are files that can be read, and what their names are."""

import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from optogram.data.layout import Bad
from optogram.errors import DataError

FILE_BYTES = 256 << 20  # of one file; a larger one is no photograph
UNICODE_PATH = 0x7075  # Info-ZIP's extra field with the name in UTF-8
UTF8_FLAG = 0x800


@dataclass
class Entries:
    """A zip's entries by their cleaned name; names of its folders, each with '/' at its end; what is bad, with why."""

    files: dict[str, zipfile.ZipInfo] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    bad: Bad = field(default_factory=list)


def zip_entries(path: Path) -> Entries:
    """What a zip holds, by its directory. It is never unpacked, so no name in it can reach outside.

    Raises DataError if it is no zip, is encrypted, or holds folder names of an unknown code page.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path}: not a readable zip ({error}). Expected a folder or a zip of class folders; check that the "
            "download is complete, and unpack other kinds of archives (tar, rar, 7z)."
        ) from error
    found = Entries()
    for info, written in zip(infos, _names(infos, path), strict=True):
        name = _clean(written)
        if info.flag_bits & 0x1:
            raise DataError(f"{path}: encrypted ({name}). Unpack it with its password and give the folder instead.")
        # a colon alone names no drive: class folders may be called "a: apple"
        if ".." in name.split("/") or name.startswith("/") or re.match("[A-Za-z]:/", name):
            found.bad.append((name, "unsafe name: absolute, or with '..'"))
        elif name.endswith("/"):
            found.folders.add(name)
        elif stat.S_ISLNK(info.external_attr >> 16):
            found.bad.append((name, "a link: give the folder instead of the zip"))
        elif name in found.files:
            found.bad.append((name, "second entry of this name"))
        elif info.file_size > FILE_BYTES:
            found.bad.append((name, f"{info.file_size:,} bytes unpacked, more than {FILE_BYTES:,}"))
        elif name:
            found.files[name] = info
    return found


def _names(infos: list[zipfile.ZipInfo], path: Path) -> list[str]:
    """The entries' names: UTF-8 if they are flagged so, if Info-ZIP's field says it, or if all their bytes are valid.

    Other bytes are of a code page that the zip does not name. Those of a file alone are read as code page 437, as
    zipfile does; in a folder's name, which would become a class, they are refused.
    """
    read = [_read_name(info) for info in infos]
    # two letters of another code page may be valid UTF-8 by chance: one name that is not tells of them all
    all_valid = all(name is not None for name, _ in read)
    names = []
    for info, (name, sure) in zip(infos, read, strict=True):
        if name is None or not (sure or all_valid):
            name = info.filename
            folder = name.replace("\\", "/").rpartition("/")[0]
            if not folder.isascii():
                raise DataError(
                    f"{path}: the folder {folder!r} is named in an unknown code page, neither ASCII nor UTF-8: the zip "
                    "was made by an old tool. Unpack it on the system that it comes from and give the folder, or zip "
                    "that anew (7-Zip, macOS and Linux write UTF-8)."
                )
        names.append(name)
    return names


def _read_name(info: zipfile.ZipInfo) -> tuple[str | None, bool]:
    """An entry's name, None if its bytes are no UTF-8; and whether the entry itself says so."""
    # newer Pythons take `filename` from Info-ZIP's field, if there is one; the bytes are in `orig_filename`
    raw = b"" if info.flag_bits & UTF8_FLAG else info.orig_filename.encode("cp437")
    if raw.isascii():
        return info.filename, True
    if (said := _unicode_path(info.extra, raw)) is not None:
        return said, True
    try:
        return raw.decode("utf-8"), False
    except UnicodeDecodeError:
        return None, False


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name of Info-ZIP's Unicode Path field, if there is one and it belongs to these bytes (its CRC says so)."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(body) > 5 and struct.unpack_from("<xI", body)[0] == zlib.crc32(raw):
            return body[5:].decode("utf-8", "replace")
    return None


def _clean(name: str) -> str:
    """The name without "." and empty parts, and with '/' between the others, where Windows tools write a backslash."""
    parts = name.replace("\\", "/").split("/")
    kept = [part for k, part in enumerate(parts) if part != "." and (part or k in (0, len(parts) - 1))]
    return "/".join(kept)
