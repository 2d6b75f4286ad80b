import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from optogram.data.zips import zip_entries
from optogram.errors import DataError


def written(path: Path, names: list[str | zipfile.ZipInfo]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def without_utf8_flag(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + offset] &= ~0x08
    path.write_bytes(data)
    return path


def in_code_page(path: Path, name: str, page: str, extra: bytes = b"") -> Path:
    """A zip with one name in a code page, as old Windows tools write it."""
    raw = name.encode(page)
    info = zipfile.ZipInfo("#" * len(raw))
    info.extra = extra
    written(path, [info])
    path.write_bytes(path.read_bytes().replace(b"#" * len(raw), raw))
    return path


def test_utf8_names_without_their_flag(tmp_path):
    path = without_utf8_flag(written(tmp_path / "mac.zip", ["Überraschung/1.png", "naïve/1.png", "plain/1.png"]))
    entries = zip_entries(path)
    assert list(entries.files) == ["Überraschung/1.png", "naïve/1.png", "plain/1.png"]
    with zipfile.ZipFile(path) as archive:
        assert archive.read(entries.files["naïve/1.png"]) == b"x"


@pytest.mark.parametrize("fits", [True, False])
def test_info_zips_unicode_field_counts_if_it_is_of_this_name(tmp_path, fits):
    name = "日本/1.png"
    body = struct.pack("<BI", 1, zlib.crc32(name.encode("cp932")) if fits else 0) + name.encode()
    path = in_code_page(tmp_path / "x.zip", name, "cp932", struct.pack("<HH", 0x7075, len(body)) + body)
    if fits:
        assert list(zip_entries(path).files) == [name]
    else:
        with pytest.raises(DataError, match="unknown code page"):
            zip_entries(path)


def test_a_name_that_python_took_from_info_zips_field_is_known_by_its_bytes(tmp_path, monkeypatch):
    name = "\u00fcber/1.png"  # its name in UTF-8 has characters of code page 437 only
    body = struct.pack("<BI", 1, zlib.crc32(name.encode("cp1252"))) + name.encode()
    path = in_code_page(tmp_path / "x.zip", name, "cp1252", struct.pack("<HH", 0x7075, len(body)) + body)
    read = zipfile.ZipFile.infolist

    def newer(archive):  # as from Python 3.12 on
        for info in (found := read(archive)):
            info.filename = name
        return found

    monkeypatch.setattr(zipfile.ZipFile, "infolist", newer)
    assert list(zip_entries(path).files) == [name]


@pytest.mark.parametrize(("name", "page"), [("кот/1.png", "cp866"), ("狗/1.png", "gbk"), ("猫/1.png", "cp932")])
def test_class_names_of_a_code_page_that_is_not_named_are_refused(tmp_path, name, page):
    with pytest.raises(DataError, match=r"unknown code page, neither ASCII nor UTF-8.*Unpack it"):
        zip_entries(in_code_page(tmp_path / "x.zip", name, page))


def test_one_name_that_is_no_utf8_tells_of_those_that_are_by_chance(tmp_path):
    cat, dog = "猫".encode("gbk"), "狗".encode("gbk")
    assert cat.decode() == "è"
    path = written(tmp_path / "x.zip", ["##/1.png", "%%/1.png"])
    path.write_bytes(path.read_bytes().replace(b"##", cat).replace(b"%%", dog))
    with pytest.raises(DataError, match="unknown code page"):
        zip_entries(path)


def test_a_file_name_of_a_code_page_is_no_class(tmp_path):
    path = in_code_page(tmp_path / "x.zip", "cat/ñandú.png", "cp437")
    assert list(zip_entries(path).files) == ["cat/ñandú.png"]


def test_dots_colons_drives_links_and_folders(tmp_path):
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = 0o120777 << 16
    names = ["./cat/1.png", ".//cat/./2.png", "a: apple/1.png", "C:/x/1.png", "../1.png", "/abs/1.png", link]
    empty = zipfile.ZipInfo("./empty/")
    entries = zip_entries(written(tmp_path / "x.zip", [*names, "cat/1.png", empty]))
    assert list(entries.files) == ["cat/1.png", "cat/2.png", "a: apple/1.png"]
    assert entries.folders == {"empty/"}
    unsafe = "unsafe name: absolute, or with '..'"
    assert entries.bad == [
        ("C:/x/1.png", unsafe),
        ("../1.png", unsafe),
        ("/abs/1.png", unsafe),
        ("cat/link.png", "a link: give the folder instead of the zip"),
        ("cat/1.png", "second entry of this name"),
    ]
