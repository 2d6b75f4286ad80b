import pytest

from optogram.data.layout import NO_FOLDER, NO_LEVEL, lay_out, level_of
from optogram.errors import DataError


def folders(*prefixes: str, classes=("cat", "dog"), suffix="jpg") -> list[str]:
    return [f"{prefix}{name}/{k}.{suffix}" for prefix in prefixes for name in classes for k in range(4)]


def found(names):
    layout = lay_out(names, "source")
    return {(file.level, file.folder) for file in layout.files}, layout


FLAT = {("", "cat"), ("", "dog")}
SPLIT = {(level, name) for level in ("train", "test") for name in ("cat", "dog")}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (folders(""), FLAT),
        (folders("a/b/c/"), FLAT),
        (folders("train/", "test/"), SPLIT),
        (folders("Train/", "TEST/"), SPLIT),
        (folders("seg_train/seg_train/", "seg_test/seg_test/"), SPLIT),
        (folders("x_train/", "x_test/"), SPLIT),
        (folders("dataset/training_set/training_set/", "dataset/test_set/"), SPLIT),
        (folders("training_data/train/", "training_data/test/"), SPLIT),
        (folders("train/images/", "test/images/"), SPLIT),
        (folders("images/") + folders("annotations/", suffix="xml"), FLAT),
        (folders("train/", classes=("a/images", "b/images")), {("train", "a"), ("train", "b")}),
        (folders("", classes=("train", "car")), {("", "train"), ("", "car")}),
        (folders("", classes=("mask", "no_mask")), {("", "mask"), ("", "no_mask")}),
        ([*folders(""), "cat/more/1.jpg"], FLAT),
        (folders("d/") + folders("__MACOSX/d/") + ["d/dog/.ipynb_checkpoints/1.jpg", "d/cat/@eaDir/1.jpg/s.jpg"], FLAT),
    ],
)
def test_classes_begin_where_they_begin_without_doubt(names, expected):
    classes, layout = found(names)
    assert classes == expected
    assert layout.bad == []


@pytest.mark.parametrize(
    ("names", "strays", "expected"),
    [
        (folders("data/"), ["data/preview.png", "logo.jpg"], FLAT),
        (folders("a/b/"), ["a/montage.jpg"], FLAT),
        (folders("data/train/", "data/test/"), ["data/preview.png", "data/train/x.png"], SPLIT),
        (folders("train/"), ["test/1.jpg", "test/2.jpg"], {("train", "cat"), ("train", "dog")}),
    ],
)
def test_stray_images_are_listed_and_move_nothing(names, strays, expected):
    classes, layout = found(names + strays)
    assert classes == expected
    assert sorted(layout.bad) == [(name, NO_FOLDER) for name in sorted(strays)]


def test_images_beside_train_and_test_are_listed():
    classes, layout = found([*folders("seg_train/", "seg_test/"), "seg_pred/1.jpg"])
    assert classes == SPLIT
    assert layout.bad == [("seg_pred/1.jpg", NO_LEVEL)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (folders("images/", "masks/"), r"hold several and the same folders.*\n.*images/ \(8 images in cat/, dog/\)"),
        ([f"{kind}/{k}.png" for kind in ("images", "masks") for k in range(4)], "images/, masks/ would be classes"),
        ([f"images/{k}.png" for k in range(4)], "images/ would be classes"),
        ([f"{level}/{k}.png" for level in ("train", "test") for k in range(4)], "test/, train/ hold images, but no"),
        ([*folders(""), "test/1.jpg"], "test/ hold images, but no class folders"),
        (folders("train/", "car/"), r"train/ may be a class or not, beside car/"),
        (folders("val/", "test/"), "no train/"),
        (folders("train/", "training/", "test/"), "several say the same"),
        (
            folders("dog/", classes=("poodle", "beagle")) + folders("cat/", classes=("siam", "manx")),
            "hold several fold",
        ),
        (folders("") + folders("copy/"), r"copy/ hold several folders"),
        (folders("cam1/", "cam2/", classes=("cat",)), "all hold the folder cat/"),
        (["d/cats/1.jpg", "d/logo.png"], "d/ holds images beside the folder cats/"),
        (folders("data/") + [f"data/{k}.jpg" for k in range(9)], "9 images not in a class folder, and only 8 in one"),
    ],
)
def test_doubt_is_refused_with_what_was_found_and_what_is_expected(names, message):
    with pytest.raises(DataError, match=rf"(?s){message}.*CLASS/photo.jpg"):
        lay_out(names, "source")


def test_class_folders_without_a_readable_image_are_named():
    names = [*folders(""), "bird/", "fish/1.HEIC", "fish/2.HEIC", "owl/urls.txt", "owl/owl"]
    found = r"bird/ \(empty\), fish/ \(2 .heic\), owl/ \(1 without a suffix, 1 .txt\)"
    with pytest.raises(DataError, match=rf"in 3 class folders: {found}"):
        lay_out(names, "source")


def test_a_folder_of_texts_beside_the_classes_is_left_out_and_noted():
    layout = lay_out([*folders(""), "docs/", "docs/readme.txt", "labels_of_all/1.xml"], "source")
    assert {file.folder for file in layout.files} == {"cat", "dog"}
    assert layout.others == ["docs/readme.txt", "labels_of_all/1.xml"]


def test_what_is_not_read_is_listed_and_companions_are_counted():
    unread = ["cat/a.HEIC", "cat/b.cr2", "cat/c.mp4", "cat/d", "loose.svg"]
    layout = lay_out(folders("") + unread + ["cat/a.xmp", "readme.txt", "cat/Thumbs.db", "LICENSE"], "source")
    assert dict(layout.bad) == {
        "cat/a.HEIC": ".heic is not read",
        "cat/b.cr2": ".cr2 is not read",
        "cat/c.mp4": ".mp4 is not read",
        "cat/d": "a file without a suffix is not read",
        "loose.svg": ".svg is not read",
    }
    assert layout.others == ["LICENSE", "cat/Thumbs.db", "cat/a.xmp", "readme.txt"]


def test_level_of():
    assert [level_of(name) for name in ("seg_train", "Test Images", "valid", "x-val")] == [
        "train",
        "test",
        "val",
        "val",
    ]
    assert not any(map(level_of, ("steam_train", "test tube", "images", "set", "trainer", "")))
