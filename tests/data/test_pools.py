import hashlib
from collections import Counter
from importlib import resources

import numpy as np
import pytest
import xarray as xr

from optogram.data import captions
from optogram.data.photos import class_prompts
from optogram.data.pools import POOLS, is_random, pool, random_vectors, read_descriptions, zeroshot_prompts
from optogram.data.scenes import ATTRIBUTES, Scenes
from optogram.errors import DataError, ParamError

PHOTOS = xr.Dataset(
    {"value_name": (("attribute", "value"), np.array([["red fox", "sea", "car", ""]]))},
    coords={"attribute": ["class"]},
    attrs={"class_attribute": "class"},
)
VALUES = [(attribute, value) for attribute, values in ATTRIBUTES.items() for value in values]


def rows(table: xr.Dataset) -> dict[str, tuple[str, str]]:
    columns = (table[name].values.tolist() for name in ("text", "attribute", "value"))
    return {text: (attribute, value) for text, attribute, value in zip(*columns, strict=True)}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("images", [None, PHOTOS])
def test_pools_follow_the_texts_schema(name, images):
    table = pool(name, images=images, count=300)
    assert set(table.variables) == {"text", "attribute", "value"}
    assert all(table[variable].dims == ("text",) for variable in table.variables)
    assert all(table[variable].dtype.kind == "U" for variable in table.variables)
    texts = table.text.values.tolist()
    assert len(set(texts)) == len(texts)
    assert all(text and text == text.strip() for text in texts)
    known = {("", ""), *(VALUES if images is None else [("class", v) for v in ("red fox", "sea", "car")])}
    pairs = {tuple(f"{a}+{b}" for a, b in zip(one, two, strict=True)) for one in known for two in known}
    assert set(rows(table).values()) <= known | pairs


def test_a_dataset_of_scenes_says_the_same_as_the_default():
    images = Scenes("eval", 3, seed=0).read(0, 3)
    for name in POOLS:
        assert pool(name, images=images, count=50).identical(pool(name, count=50))
    assert zeroshot_prompts(images) == zeroshot_prompts()


def test_general_descriptions_are_many_short_and_unique():
    lines = (resources.files("optogram.data") / "general_descriptions.txt").read_text("utf-8").splitlines()
    assert len(lines) >= 350
    assert len({line.lower() for line in lines}) == len(lines)
    assert all(0 < len(line) <= 48 and line == line.strip() for line in lines)
    assert all(line in rows(pool("descriptions", images=PHOTOS)) for line in lines)


def test_scene_descriptions_name_every_value_and_are_english():
    table = rows(pool("descriptions"))
    named = Counter(table.values())
    assert all(named[pair] >= 3 for pair in VALUES)
    for text, tag in {
        "a photo of a circle": ("shape", "circle"),
        "an image with orange objects": ("colour", "orange"),
        "an orange object": ("colour", "orange"),
        "crosses": ("shape", "cross"),
        "two objects": ("count", "two"),
        "one object": ("count", "one"),
        "an object at night": ("background", "night"),
        "objects in the centre": ("position", "centre"),
        "an orange star": ("shape+colour", "star+orange"),
        "three crosses": ("shape+count", "cross+three"),
        "a ring on water": ("shape+background", "ring+water"),
        "A photo dominated by red": ("colour", "red"),
        "A photo of two objects": ("count", "two"),
        "A harbour": ("", ""),
    }.items():
        assert table[text] == tag


def test_a_tag_is_a_value_that_the_text_names():
    for text, (_, value) in rows(pool("descriptions")).items():
        assert all(one in text.lower() for one in value.split("+"))


def test_photo_descriptions_name_the_classes():
    table = rows(pool("descriptions", images=PHOTOS))
    assert table["red fox"] == ("class", "red fox")
    assert table["A car"] == ("class", "car")
    assert table["A photo dominated by red"] == ("", "")
    assert "a circle" not in table


def test_words_are_the_most_common_ones():
    words = pool("words", count=2000).text.values.tolist()
    assert len(words) == 2000
    assert words[:3] == ["the", "to", "and"]
    assert all(word.isalpha() and word.islower() for word in words)
    assert pool("words", count=500).text.values.tolist() == words[:500]
    assert rows(pool("words", count=2000))["red"] == ("colour", "red")
    with pytest.raises(DataError, match="words: 10,000,000 words asked, but the list has"):
        pool("words", count=10_000_000)


@pytest.mark.parametrize(("name", "size"), [("words_10k", 10_000), ("words_30k", 30_000)])
def test_the_thesis_s_pools_of_words_have_their_size_whatever_count_is(name, size):
    table = pool(name, count=7)
    assert table.identical(pool(name))
    assert table.identical(pool("words", count=size))
    assert table.sizes == {"text": size}


def test_class_pool_is_every_value_under_every_prompt():
    table = rows(pool("class"))
    assert table == {p: (a, v) for a, v in VALUES for p in captions.prompts(a, v)}
    assert set(rows(pool("class", images=PHOTOS))) == {p for v in ("red fox", "sea", "car") for p in class_prompts(v)}


def test_zeroshot_prompts_of_photographs():
    assert zeroshot_prompts(PHOTOS) == [("class", v, class_prompts(v)) for v in ("red fox", "sea", "car")]


def test_random_vectors_are_gaussian_directions_and_never_change():
    vectors = random_vectors(2000, 64, seed=3)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert np.abs(vectors.mean(0)).max() < 0.02
    assert abs(vectors.var() * 64 - 1) < 0.01
    assert np.array_equal(random_vectors(5, 64, seed=3), vectors[:5])
    assert not np.array_equal(random_vectors(5, 64, seed=4), vectors[:5])
    digest = hashlib.sha256(random_vectors(100, 33, seed=0).tobytes()).hexdigest()
    assert digest == "acbb10a0ac2cb62084b7936e42db5e947f6e4a360ed5c320c90ee15a1717ced3"


def test_random_names():
    names = pool("random", count=12).text.values.tolist()
    assert names[0] == "random 0001"
    assert is_random(names)
    assert not is_random(["random 0001", "random thoughts"])


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffa red thing\r\nÜber den Wolken  \r\nred on blue\r\n".encode())
    table = pool(str(path))
    assert rows(table) == {"a red thing": ("colour", "red"), "Über den Wolken": ("", ""), "red on blue": ("", "")}
    bare = tmp_path / "words"
    bare.write_text("only\nthese")
    assert pool(bare).text.values.tolist() == ["only", "these"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"mine.txt: empty"),
        (b"\n \n", r"empty"),
        (b"a\n\nb\n\n", r"blank lines 2, 4. Remove"),
        (b"a\n   \nb", r"blank line 2. Remove"),
        (b"a\nb\na\nb \n", r"repeated lines 3, 4; line 3 says 'a' as line 1 does. Remove"),
        (b"a\nb\n\xff\xfe", r"line 3 is not UTF-8. Save"),
        ("a\nb".encode("utf-16"), r"line 1 is not UTF-8"),
        (b"a\nb\tc\n", r"control characters in line 2"),
        (b"a\nb\0c\n", r"control characters in line 2; the first is U\+0000 \(without a name\), character 2 of line 2"),
        ("a\nb\u2028c\n".encode(), r"no text in line 2; the first is U\+2028 \(LINE SEPARATOR\)"),
        ("caf\ufffd\n".encode(), r"U\+FFFD \(REPLACEMENT CHARACTER\), character 4 of line 1"),
        ("café\ncafe\u0301\nexam\u00adple\nexample\n".encode(), r"repeated lines 2, 4"),
        ("a\n\u200b\u00a0\n".encode(), r"blank line 2"),
    ],
)
def test_files_that_cannot_be_used_name_the_lines(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_descriptions(path)


def test_joiners_emoji_and_new_characters_of_a_file_are_kept(tmp_path):
    path = tmp_path / "mine.txt"
    lines = [
        "\u0645\u06cc\u200c\u062e\u0648",
        "a \U0001f469\u200d\U0001f52c",
        "a \U0001f3f4\U000e0067\U000e007f flag",
        "\U0001fae8",
    ]
    path.write_text("\r".join([*lines, "100\u00a0km", "a re\u00add thing\ufeff"]), "utf-8", newline="")
    assert read_descriptions(path) == [*lines, "100 km", "a red thing"]


def test_unknown_pools_and_missing_files(tmp_path):
    with pytest.raises(ParamError, match=r"text pool 'word' is unknown.*Did you mean 'words'"):
        pool("word")
    with pytest.raises(DataError, match=r"cannot be read.*No such file"):
        pool(str(tmp_path / "missing.txt"))
    with pytest.raises(DataError, match="cannot be read"):
        pool(tmp_path)
    with pytest.raises(ParamError, match="count = 0"):
        pool("words", count=0)
