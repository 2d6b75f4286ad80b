import io
import os
import struct
import time
import zipfile
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from optogram.data.image_files import TURNS, decode
from optogram.data.photos import CAPTION_TEMPLATES, SPLITS, Photos, class_prompts
from optogram.errors import DataError, ParamError
from optogram.store import write as store

CIFAR = Path(__file__).parents[3] / "shared/data/cifar10_subset.zip"
COLOURS = {"red_fox": (200, 60, 20), "sea": (20, 60, 200), "tree": (30, 160, 50)}


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def plain(colour=(10, 200, 30), size=(20, 16), mode="RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def class_folders(root: Path, *, count: int = 10, levels: tuple[str, ...] = ("",)) -> Path:
    for level in levels:
        for name, colour in COLOURS.items():
            folder = root / level / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number:03d}.png").write_bytes(encoded(plain((*colour[:2], (colour[2] + number) % 256))))
    return root


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def folder_as_files(root: Path, prefix: str = "") -> dict[str, bytes]:
    return {prefix + str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def pixels(data: bytes, size: int = 8) -> np.ndarray:
    return decode(data, size, min_side=2, pixel_limit=10**6)


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that claims to be huge in a few bytes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


# Splits, rows and the schema


def test_rows_follow_the_images_schema(tmp_path):
    photos = Photos(class_folders(tmp_path), "train", size=12)
    rows = photos.read(0, len(photos))
    assert {name: rows[name].dims for name in rows.data_vars} == {
        "pixels": ("image", "y", "x", "rgb"),
        "label": ("image", "attribute"),
        "value_name": ("attribute", "value"),
        "caption": ("image", "variant"),
        "mentions": ("image", "variant", "attribute"),
    }
    assert rows.pixels.dtype == np.uint8
    assert rows.label.dtype == np.int16
    assert rows.mentions.dtype == bool
    assert rows.mentions.values.all()
    assert rows.attrs["class_attribute"] == "class"
    assert rows.attribute.values.tolist() == ["class"]
    assert rows.value_name.values.tolist() == [["red fox", "sea", "tree"]]
    for k, id in enumerate(photos.ids):
        folder = id.split("/")[0]
        assert rows.image.values[k] == id
        assert photos.classes[rows.label.values[k, 0]] == folder.replace("_", " ")
        assert np.abs(rows.pixels.values[k].mean((0, 1))[:2] - COLOURS[folder][:2]).max() < 1
        assert folder.replace("_", " ") in str(rows.caption.values[k, 0])
    assert len(set(rows.caption.values[0])) == len(CAPTION_TEMPLATES)


def test_a_row_does_not_depend_on_the_range_it_is_read_in(tmp_path):
    photos = Photos(class_folders(tmp_path), "train")
    whole = photos.read(0, len(photos))
    for start, stop in ((0, 1), (3, 9), (len(photos) - 2, len(photos))):
        assert photos.read(start, stop).identical(whole.isel(image=slice(start, stop)))
    with pytest.raises(ParamError, match="rows 5 to 5"):
        photos.read(5, 5)


@pytest.mark.parametrize("levels", [("",), ("train", "test"), ("train", "val"), ("Train", "validation", "test")])
def test_splits_are_disjoint_and_cover(tmp_path, levels):
    root = class_folders(tmp_path, levels=levels)
    ids = {split: set(Photos(root, split).ids) for split in SPLITS}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values()))
    if levels == ("",):
        assert {split: len(rows) for split, rows in ids.items()} == {"train": 18, "reference": 6, "eval": 6}
    else:
        assert {split: len(rows) for split, rows in ids.items()} == {"train": 24, "reference": 6, "eval": 30}
        assert {id.split("/")[0] for id in ids["train"] | ids["reference"]} == {levels[0]}
        assert {id.split("/")[0] for id in ids["eval"]} == {"test" if "test" in levels else levels[1]}


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_reference_share(tmp_path, share):
    sizes = [len(Photos(class_folders(tmp_path), split, reference_share=share)) for split in ("train",)]
    sizes += [len(Photos(tmp_path, split, reference_share=share)) for split in ("reference", "eval")]
    reference = 3 * min(max(round(8 * share), 1), 7)
    assert sizes == [24 - reference, reference, 6]


def test_splits_change_with_the_seed_only(tmp_path):
    root = class_folders(tmp_path)
    assert Photos(root, "eval").ids == Photos(root, "eval").ids
    assert set(Photos(root, "eval", seed=1).ids) != set(Photos(root, "eval").ids)


def test_limit_is_balanced_and_a_prefix(tmp_path):
    root = class_folders(tmp_path)
    everything = Photos(root, "train").ids
    for limit in (1, 2, 3, 7, 100):
        photos = Photos(root, "train", limit=limit)
        assert photos.ids == everything[:limit]
        counts = np.bincount(photos.read(0, len(photos)).label.values[:, 0], minlength=3)
        assert counts.max() - counts.min() <= 1


def test_a_bad_file_is_replaced_within_the_limit_and_moves_no_other_file(tmp_path):
    root = class_folders(tmp_path)
    before = {split: Photos(root, split).ids for split in SPLITS}
    victim = before["train"][0]
    (root / victim).write_text("this is no picture")
    photos = Photos(root, "train", limit=6)
    assert photos.bad_files == [(victim, "not an image of a known format")]
    assert np.bincount(photos.read(0, 6).label.values[:, 0]).tolist() == [2, 2, 2]
    assert set(Photos(root, "train").ids) == set(before["train"]) - {victim}
    assert [Photos(root, split).ids for split in ("reference", "eval")] == [before["reference"], before["eval"]]


def test_rows_are_decoded_again_when_memory_is_short(tmp_path, monkeypatch):
    root = class_folders(tmp_path)
    (root / Photos(root, "train").ids[4]).write_bytes(b"")
    kept = Photos(root, "train")
    monkeypatch.setattr("optogram.data.photos.MEMORY_BYTES", 0)
    again = Photos(root, "train")
    assert again.ids == kept.ids
    assert again.bad_files == kept.bad_files
    assert again.read(2, 9).identical(kept.read(2, 9))
    (root / again.ids[3]).unlink()
    with pytest.raises(DataError, match=r"changed while being read.*No such file"):
        again.read(2, 9)


def test_rows_can_be_stored(tmp_path, here):
    photos = Photos(class_folders(tmp_path / "photos"), "train")
    store.write_sharded(Path("out"), photos.read, store.Provenance("photos", "photos"), total=len(photos), shard=5)
    with xr.open_zarr("out", chunks=None) as stored:
        rows = photos.read(0, len(photos))
        assert stored.attrs["class_attribute"] == "class"
        for name in rows.variables:
            assert (stored[name].values == rows[name].values).all()


def test_zip_and_folder_give_the_same_rows(tmp_path):
    root = class_folders(tmp_path / "folder", levels=("train", "test"))
    packed = zipped(tmp_path / "photos.zip", folder_as_files(root))
    for split in SPLITS:
        ours, theirs = Photos(root, split), Photos(packed, split)
        assert ours.read(0, len(ours)).identical(theirs.read(0, len(theirs)))


# Sources


def test_one_folder_around_everything_is_looked_into(tmp_path):
    root = class_folders(tmp_path / "folder", levels=("train", "test"))
    packed = zipped(tmp_path / "photos.zip", folder_as_files(root, "download/pets/"))
    photos = Photos(packed, "eval")
    assert photos.classes == ["red fox", "sea", "tree"]
    assert photos.ids[0].startswith("download/pets/test/red_fox/")


def test_a_class_may_be_called_train(tmp_path):
    root = class_folders(tmp_path)
    (root / "sea").rename(root / "train")
    assert Photos(root, "train").classes == ["red fox", "train", "tree"]


def test_hidden_files_and_other_files_are_ignored(tmp_path):
    root = class_folders(tmp_path / "folder")
    files = folder_as_files(root) | {
        "__MACOSX/sea/._000.png": b"x",
        "sea/.hidden.png": b"x",
        ".cache/sea/1.png": b"x",
        "sea/Thumbs.db": b"x",
        "readme.txt": b"x",
    }
    photos = Photos(zipped(tmp_path / "photos.zip", files), "train")
    assert photos.bad_files == []
    assert photos.classes == ["red fox", "sea", "tree"]


def test_unsafe_and_misplaced_names_in_a_zip_are_listed_and_never_read(tmp_path):
    picture = encoded(plain())
    unsafe = ["../sea/out.png", "sea/../out.png", "sea/../../out.png", "/etc/out.png", "C:\\sea\\out.png"]
    files = folder_as_files(class_folders(tmp_path / "folder")) | dict.fromkeys([*unsafe, "loose.png"], picture)
    photos = Photos(zipped(tmp_path / "photos.zip", files), "train")
    assert [name for name, reason in photos.bad_files if "unsafe" in reason] == [n.replace("\\", "/") for n in unsafe]
    assert not any("out.png" in id for id in photos.ids)
    assert ("loose.png", "not in a class folder") in photos.bad_files
    assert not list(tmp_path.rglob("out.png"))


def test_windows_zip_names_and_repeated_entries(tmp_path):
    files = folder_as_files(class_folders(tmp_path / "folder"))
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename = name.replace("/", "\\")
            archive.writestr(info, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("sea\\000.png", b"other")
    photos = Photos(path, "train")
    assert photos.classes == ["red fox", "sea", "tree"]
    assert photos.bad_files == [("sea/000.png", "second entry of this name")]


def test_encrypted_zip(tmp_path):
    path = zipped(tmp_path / "photos.zip", {"sea/1.png": encoded(plain())})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of the entry and of the directory
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"encrypted \(sea/1.png\). Unpack it"):
        Photos(path, "train")


def test_damaged_zip_entry_is_a_bad_file(tmp_path):
    root = class_folders(tmp_path / "folder")
    path = zipped(tmp_path / "photos.zip", folder_as_files(root))
    picture = (root / "sea/003.png").read_bytes()
    data = path.read_bytes()
    path.write_bytes(data.replace(picture, picture[:-20] + b"\0" * 20))
    bad = [pair for split in SPLITS for pair in Photos(path, split).bad_files]
    assert [name for name, _ in bad] == ["sea/003.png"]
    assert "cannot be read: Bad CRC" in bad[0][1]


def test_links_loops_and_pipes(tmp_path):
    root = class_folders(tmp_path / "photos")
    (root / "sea" / "again").symlink_to(root)
    (root / "sea" / "self.png").symlink_to(root / "sea" / "self.png")
    (root / "sea" / "broken.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "sea" / "pipe.png")
    elsewhere = class_folders(tmp_path / "elsewhere")
    (root / "linked").symlink_to(elsewhere / "tree")
    ids: list[str] = []
    reasons: dict[str, str] = {}
    for split in SPLITS:
        photos = Photos(root, split)
        ids += photos.ids
        reasons |= dict(photos.bad_files)
    assert photos.classes == ["linked", "red fox", "sea", "tree"]
    assert len(ids) == 40
    assert not any("again" in id for id in ids)
    assert {name.rsplit("/", 1)[1]: reason for name, reason in reasons.items()} == {
        "self.png": "cannot be read: Too many levels of symbolic links",
        "broken.png": "cannot be read: No such file or directory",
        "pipe.png": "not a regular file",
    }


def test_name_that_is_not_utf8(tmp_path):
    root = class_folders(tmp_path)
    Path(os.fsdecode(os.fsencode(root / "sea") + b"/se\xe9.png")).write_bytes(encoded(plain()))
    assert Photos(root, "train").bad_files == [("sea/se\\udce9.png", "name is not valid UTF-8")]


def test_unicode_class_names(tmp_path):
    root = class_folders(tmp_path)
    (root / "sea").rename(root / "Straße_日本")
    photos = Photos(root, "train")
    assert photos.classes == ["Straße 日本", "red fox", "tree"]
    assert "a photo of a Straße 日本" in photos.read(0, 3).caption.values


def test_one_class_whatever_form_its_name_has(tmp_path):
    files = {
        f"{level}/{name}/{k}.png": encoded(plain((k, 9, 9)))
        for level, name, k in product(("train", "test"), ("dog", "caf\u00e9"), range(3))
    }
    files = {name.replace("train/caf\u00e9", "train/cafe\u0301"): data for name, data in files.items()}
    photos = Photos(zipped(tmp_path / "photos.zip", files), "eval")
    assert photos.classes == ["café", "dog"]
    assert np.bincount(photos.read(0, 6).label.values[:, 0]).tolist() == [3, 3]
    assert "6 images of eval also in train or reference, byte for byte (test/" in photos.notes[0]
    files = {name.replace("test/dog", "test/Dog"): data for name, data in files.items()}
    with pytest.raises(DataError, match=r"folders 'Dog', 'dog' name the same class .letter case"):
        Photos(zipped(tmp_path / "photos.zip", files), "eval")


def test_notes_tell_what_is_left_out_or_doubtful(tmp_path):
    root = class_folders(tmp_path, levels=("train", "val", "test"), count=3)
    (root / "test/sea/000.png").write_bytes((root / "train/tree/002.png").read_bytes())
    (root / "labels.csv").write_text("x")
    notes = Photos(root, "train").notes
    assert notes[:2] == ["1 file is no image and left out: labels.csv", "val/ (9 images) is not used: eval is test/"]
    assert "9 images of eval also in train or reference, byte for byte (test/" in notes[2]
    assert notes[3].startswith("1 image in more than one class, byte for byte")
    assert Photos(class_folders(tmp_path / "plain"), "train").notes == []


def test_every_class_must_be_in_test_and_have_a_good_image(tmp_path):
    root = class_folders(tmp_path, levels=("train", "test"), count=3)
    for path in (root / "test/sea").iterdir():
        path.write_text("no picture")
    with pytest.raises(DataError, match="no good image of 'sea' in split 'eval': 3 bad files"):
        Photos(root, "eval")
    for path in (root / "test/sea").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no image under test/ of 'sea', which train/ has"):
        Photos(root, "eval")


def test_one_class_is_refused(tmp_path):
    files = {f"sea/{k}.png": encoded(plain()) for k in range(9)}
    with pytest.raises(DataError, match=r"one class only, 'sea'. Expected at least two"):
        Photos(zipped(tmp_path / "photos.zip", files), "train")


@pytest.fixture
def saved(tmp_path):
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["red_fox", "sea"])})

    def table(count):
        rows = {"img": [{"bytes": encoded(plain((9, 9, 7 * k))), "path": None} for k in range(count)]}
        rows["label"] = [k % 2 for k in range(count)]
        return rows

    train, test = table(20), table(8)
    train["img"][3] = {"bytes": b"not a picture", "path": None}
    train["img"][4] = None
    train["label"][5] = -1
    dataset = datasets.DatasetDict(
        train=datasets.Dataset.from_dict(train, features), test=datasets.Dataset.from_dict(test, features)
    )
    dataset.save_to_disk(tmp_path / "all")
    dataset["test"].save_to_disk(tmp_path / "one")
    dataset.rename_column("label", "kind").cast_column("kind", datasets.Value("string"))["test"].save_to_disk(
        tmp_path / "odd"
    )
    return tmp_path


def test_saved_hugging_face_dataset(saved):
    photos = {split: Photos(saved / "all", split, size=8) for split in SPLITS}
    assert photos["train"].classes == ["red fox", "sea"]
    assert {id.split("/")[0] for id in photos["eval"].ids} == {"test"}
    assert len(photos["train"]) + len(photos["reference"]) == 17
    bad = dict(photos["train"].bad_files + photos["reference"].bad_files)
    assert bad == {
        "train/000003": "not an image of a known format",
        "train/000004": "no image in this row",
        "train/000005": "no label",
    }
    rows = photos["eval"].read(0, 8)
    for id, label, square in zip(rows.image.values, rows.label.values[:, 0], rows.pixels.values, strict=True):
        number = int(id.split("/")[1])
        assert label == number % 2
        assert square[0, 0].tolist() == [9, 9, 7 * number]


def test_saved_dataset_of_one_table(saved):
    assert sorted(id for split in SPLITS for id in Photos(saved / "one", split).ids) == [f"{k:06d}" for k in range(8)]
    with pytest.raises(DataError, match=r"found img, kind. Name the label column with `label_column`"):
        Photos(saved / "odd", "train")
    assert Photos(saved / "odd", "train", label_column="kind").classes == ["0", "1"]


def test_a_state_json_alone_makes_no_saved_dataset(tmp_path):
    root = class_folders(tmp_path)
    (root / "state.json").write_text("{}")
    assert Photos(root, "train").classes == ["red fox", "sea", "tree"]


def test_splits_of_a_saved_dataset_that_say_nothing_are_refused(saved):
    import datasets

    one = datasets.load_from_disk(str(saved / "one"))
    twice = one.add_column("coarse", [0] * 8).cast_column("coarse", datasets.ClassLabel(names=["all"]))
    datasets.DatasetDict(first=one, second=one).save_to_disk(saved / "odd splits")
    datasets.DatasetDict(train=twice, validation=twice, extra=twice).save_to_disk(saved / "three")
    with pytest.raises(DataError, match="which of the splits first, second are for training"):
        Photos(saved / "odd splits", "train")
    photos = Photos(saved / "three", "eval")
    assert {id.split("/")[0] for id in photos.ids} == {"validation"}
    assert photos.notes[:2] == [
        "images are of column 'img', classes of 'label'; not used: coarse",
        "split 'extra' is not used",
    ]
    assert photos.notes[2].startswith("8 images of eval also in train")


def test_damaged_saved_dataset(saved):
    next((saved / "one").glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(DataError, match="not a readable saved dataset"):
        Photos(saved / "one", "train")


def test_hub_name_without_a_network_fails_at_once(tmp_path, monkeypatch):
    import datasets.config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # a port that nobody answers
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"hf:no/such: cannot be loaded: the hub cannot be reached.*save_to_disk"):
        Photos("hf:no/such", "train")
    assert time.monotonic() - started < 5
    assert datasets.config.HF_HUB_OFFLINE is False


# One file


def test_modes_become_rgb():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = Image.fromarray(ramp)
    expected = np.repeat(ramp[..., None], 3, 2)
    assert (pixels(encoded(grey), 16) == expected).all()
    assert (pixels(encoded(grey.convert("P")), 16) == expected).all()
    sixteen = Image.fromarray(ramp.astype(np.uint16) * 257)
    assert sixteen.mode == "I;16"
    assert (pixels(encoded(sixteen), 16) == expected).all()
    assert (pixels(encoded(sixteen, "TIFF"), 16) == expected).all()
    assert (pixels(b"P5 16 16 65535\n" + (ramp.astype(">u2") * 257).tobytes(), 16) == expected).all()
    one = pixels(encoded(grey.point(lambda level: 255 * (level > 99)).convert("1")), 16)
    assert (one == np.where(expected > 99, 255, 0)).all()
    assert (pixels(encoded(grey, "DIB"), 16) == expected).all()
    cmyk = pixels(encoded(plain((0, 255, 255, 0), mode="CMYK"), "JPEG"), 16)
    assert np.abs(cmyk.astype(int) - [255, 0, 0]).max() < 4


def test_transparency_is_put_on_white():
    layer = np.zeros((16, 16, 4), np.uint8)
    layer[:8] = (200, 0, 0, 255)
    layer[8:] = (0, 0, 0, 0)
    for data in (
        encoded(Image.fromarray(layer)),
        encoded(Image.fromarray(layer), "WEBP", lossless=True),
        encoded(Image.fromarray(layer).convert("PA").convert("RGBA").quantize(), "PNG"),
    ):
        square = pixels(data, 16)
        assert (square[:8] == (200, 0, 0)).all()
        assert (square[8:] == 255).all()
    assert (pixels(encoded(plain((0, 128), mode="LA"))) == 127).all()
    keyed = encoded(plain((7, 8, 9)), transparency=(7, 8, 9))
    assert (pixels(keyed) == 255).all()
    sixteen = Image.fromarray(np.repeat(np.array([257, 771], np.uint16), 128).reshape(16, 16))
    assert pixels(encoded(sixteen, transparency=771), 16)[[0, 15], 0, 0].tolist() == [1, 255]


def test_first_frame_of_an_animation():
    frames = [plain((250, 0, 0)), plain((0, 250, 0))]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert np.abs(pixels(data)[0, 0].astype(int) - [250, 0, 0]).max() < 8, format


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    from PIL import ImageOps

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (pixels(data, 16) == np.asarray(upright)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "LZW", "JPEG in TIFF", "pages"])
def test_every_format_comes_out_upright(format, orientation):
    corners = np.zeros((32, 32, 3), np.uint8)
    corners[:16, :16], corners[:16, 16:], corners[16:, :16] = (240, 0, 0), (0, 240, 0), (0, 0, 240)
    upright = Image.fromarray(corners)
    # what a camera stores, held so that a viewer has to turn it back
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    stored = upright
    for turn in TURNS.get(undo, ()):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    tiff = {"LZW": {"compression": "tiff_lzw"}, "JPEG in TIFF": {"compression": "jpeg"}}.get(format, {})
    if format == "pages":
        tiff = {"save_all": True, "append_images": [stored]}
    if format in ("TIFF", "LZW", "JPEG in TIFF", "pages"):
        data = encoded(stored, "TIFF", tiffinfo={274: orientation}, **tiff)
    elif format == "MPO":
        data = encoded(stored, "MPO", save_all=True, append_images=[stored], exif=exif)
    else:
        data = encoded(stored, format, exif=exif)
    assert np.abs(pixels(data, 32).astype(int) - corners)[4:12, 4:12].max() < 60
    found = pixels(data, 32)[[8, 8, 24, 24], [8, 24, 8, 24]].astype(int)
    assert np.abs(found - corners[[8, 8, 24, 24], [8, 24, 8, 24]]).max() < 20


def test_sixteen_bit_tiffs_mean_what_their_tags_say():
    ramp = Image.fromarray((np.arange(256).reshape(16, 16) * 257).astype(np.uint16))
    white_is_zero = pixels(encoded(ramp, "TIFF", tiffinfo={262: 0}), 16)
    assert (white_is_zero[..., 0] == 255 - np.arange(256).reshape(16, 16)).all()


@pytest.mark.parametrize(
    ("levels", "tags"),
    [(np.int32, {}), (np.uint32, {339: 1}), (np.uint16, {339: 2}), (np.uint8, {339: 2})],
)
def test_integers_without_a_known_white_are_refused(levels, tags):
    image = Image.fromarray(
        (np.arange(256).reshape(16, 16) * 100 % 127).astype(np.int32 if levels == np.uint32 else levels)
    )
    with pytest.raises(DataError, match=r"32-bit or signed integers: no known white. Save it with 8 or 16 bits"):
        pixels(encoded(image, "TIFF", tiffinfo=tags))


@pytest.mark.parametrize(("size", "crop"), [((64, 96), (0, 3)), ((192, 64), (12, 0)), ((48, 48), (0, 0))])
def test_resizing_is_scaling_the_shorter_side_and_cropping_the_centre(size, crop):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    scaled = image.resize([side * 12 // min(size) for side in size], Image.Resampling.BICUBIC)
    literal = np.asarray(scaled.crop((*crop, crop[0] + 12, crop[1] + 12)))
    ours = pixels(encoded(image), 12)
    # a cropped picture's outer two pixels differ: the filter does not reach beyond the crop
    assert (ours[2:-2, 2:-2] == literal[2:-2, 2:-2]).all()


def test_an_extreme_strip_costs_no_memory():
    square = pixels(encoded(plain((1, 2, 3), (2, 200_000))), 512)
    assert square.shape == (512, 512, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"hello, I am a text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(Image.effect_noise((99, 99), 50), "JPEG")[:2000], "damaged: .*truncated"),
        (encoded(Image.effect_noise((99, 99), 50))[:900], "damaged"),
        (encoded(plain(size=(1, 1))), "1 x 1 pixels, a side under min_side = 2"),
        (encoded(plain(size=(1, 500))), "a side under"),
        (png_header_only(2_000, 2_000), "2000 x 2000 pixels, more than pixel_limit = 1,000,000"),
        (png_header_only(12_000, 9_000), "bomb"),
        (png_header_only(60_000, 60_000), "bomb"),
        (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((9, 9), 10**6, np.int32)), "TIFF"), "32-bit"),
    ],
)
def test_bad_data_says_why(data, reason):
    from optogram.data.image_files import quiet_decoding

    with quiet_decoding(), pytest.raises(DataError, match=reason):
        pixels(data)


def test_every_truncation_is_listed_or_decoded(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    root = class_folders(tmp_path)
    for format, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp"), ("TIFF", "tif")):
        data = encoded(image, format)
        for k, cut in enumerate(np.linspace(0, len(data) - 1, 40).astype(int)):
            garbled = bytearray(data)
            (root / "sea" / f"cut{k:02d}.{suffix}").write_bytes(data[:cut])
            for place in rng.integers(len(data), size=9):
                garbled[place] = rng.integers(256)
            (root / "sea" / f"garbled{k:02d}.{suffix}").write_bytes(garbled)
    good = bad = 0
    for split in SPLITS:
        photos = Photos(root, split)
        good, bad = good + len(photos), bad + len(photos.bad_files)
        photos.read(0, len(photos))
    assert good + bad == 30 + 400
    assert bad > 150


# Refusals


def test_refuse_names_ten_files_and_the_fix(tmp_path):
    root = class_folders(tmp_path)
    for k in range(14):
        (root / "sea" / f"bad{k:02d}.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"1\d bad files: sea/bad.*and \d more\. Repair.*on_bad to 'skip'") as caught:
        Photos(root, "train", on_bad="refuse")
    assert str(caught.value).count("(not an image of a known format)") == 10
    assert Photos(class_folders(tmp_path / "good"), "train", on_bad="refuse").bad_files == []


def test_nothing_good_is_left(tmp_path):
    for name in COLOURS:
        (tmp_path / name).mkdir()
        for k in range(5):
            (tmp_path / name / f"{k}.jpg").write_text("no picture")
    with pytest.raises(DataError, match="no good image in split 'train': 9 bad files"):
        Photos(tmp_path, "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no images: expected image files in one folder a class .* found none"),
        ({"a/notes.txt": b"x"}, "no images"),
        ({"1.png": b"x", "2.png": b"x"}, "no images.*not in a class folder"),
        ({"a/1.png": b"x"}, r"at least 3 images \(train, reference, eval\), but 1 of 1 have fewer: 'a' \(1\)"),
        ({f"{c}/{k}.png": b"x" for c in "ab" for k in range(3)} | {"c/1.png": b"x"}, r"1 of 3 have fewer: 'c' \(1\)"),
        ({"train/a/1.png": b"x", "test/a/1.png": b"x"}, r"at least 2 images under train/ .* 'a' \(1\)"),
        ({f"{f}/{k}.png": b"x" for f in ("a_b", "a b") for k in range(3)}, "'a b', 'a_b' name the same class"),
        (
            {f"{f}/{k}.png": b"x" for f in ("a", "ca\nts") for k in range(3)},
            r"class name 'ca\\nts' has line breaks .* rename",
        ),
    ],
)
def test_folders_and_zips_that_cannot_be_used(tmp_path, files, message):
    (tmp_path / "folder").mkdir()
    for name, data in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for source in (tmp_path / "folder", zipped(tmp_path / "photos.zip", files)):
        with pytest.raises(DataError, match=message):
            Photos(source, "train")


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no such folder or zip"):
        Photos(tmp_path / "missing", "train")
    with pytest.raises(
        DataError, match=r"cannot be reached \(File name too long\).*check its name and the permissions"
    ):
        Photos(tmp_path / ("x" * 300), "train")
    (tmp_path / "not.zip").write_text("hello")
    with pytest.raises(DataError, match="not a readable zip"):
        Photos(tmp_path / "not.zip", "train")


def test_arguments(tmp_path):
    with pytest.raises(ParamError, match=r"split = 'evall'.*Did you mean 'eval'"):
        Photos(tmp_path, "evall")
    for options in ({"size": 0}, {"limit": 0}, {"min_side": 0}, {"reference_share": 1}):
        with pytest.raises(ParamError, match=next(iter(options))):
            Photos(tmp_path, "train", **options)


@pytest.mark.misfits
def test_bad_files_are_skipped_or_refused_and_nothing_else(tmp_path):
    with pytest.raises(ParamError, match="on_bad"):
        Photos(tmp_path, "train", on_bad="ignore")  # type: ignore[arg-type]


def test_class_prompts():
    prompts = class_prompts("red fox")
    assert 8 <= len(set(prompts)) == len(prompts) <= 18
    assert all("red fox" in prompt for prompt in prompts)
    assert prompts[0] == "a photo of a red fox."


@pytest.mark.skipif(not CIFAR.exists(), reason="the shared data is not here")
def test_cifar_photographs():
    photos = Photos(CIFAR, "eval", size=32)
    assert len(photos) == 2000
    assert photos.bad_files == []
    rows = photos.read(0, 2000)
    assert np.bincount(rows.label.values[:, 0]).tolist() == [200] * 10
    with zipfile.ZipFile(CIFAR) as archive:
        for k in (0, 777, 1999):
            image = Image.open(io.BytesIO(archive.read(photos.ids[k])))
            assert (np.asarray(image) == rows.pixels.values[k]).all()
