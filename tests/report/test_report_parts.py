"""Thumbnails, heatmaps and numbers of the report."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from optogram.report import labels as formats
from optogram.report.findings import collect
from optogram.report.images import Thumbnails, heat_uri, mask_uri


def opened(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_thumbnail_lies_where_it_says(scenes, tmp_path):
    images = scenes[0]
    thumbs = Thumbnails(images)
    ids = images["eval"].image.values[[7, 150, 7, 3]].tolist()
    found = [thumbs.thumb(name) for name in ids]
    assert found[0] == found[2]
    thumbs.write(tmp_path)
    (sheet,) = tmp_path.glob(f"{found[0].sheet}.*")
    pixels = np.asarray(Image.open(sheet)).astype(int)
    for thumb in found:
        cell = pixels[64 * thumb.y : 64 * thumb.y + 64, 64 * thumb.x : 64 * thumb.x + 64]
        truth = images["eval"].pixels.sel(image=thumb.id).values.astype(int)
        assert np.abs(cell - truth).mean() < 4
    assert thumbs.thumb("nowhere/000000") is None


def test_few_simple_images_are_kept_exactly(scenes, tmp_path):
    flat = scenes[0]["eval"].isel(image=slice(0, 4)).compute()
    flat["pixels"][:] = 200
    thumbs = Thumbnails({"eval": flat})
    thumb = thumbs.thumb(str(flat.image.values[2]))
    thumbs.write(tmp_path)
    sheet = np.asarray(Image.open(tmp_path / f"{thumb.sheet}.png"))
    assert (sheet[:64, :64] == 200).all()


def test_a_thumbnail_tells_its_labels(scenes):
    images = scenes[0]
    says = Thumbnails(images).describe(str(images["eval"].image.values[5]))
    labels = images["eval"].label.values[5]
    names = images["eval"].value_name.values
    expected = [f"{a} {names[k, labels[k]]}" for k, a in enumerate(images["eval"].attribute.values)]
    assert says == " · ".join(expected)


def test_pages_share_the_labels_of_images(scenes, tmp_path):
    images = scenes[0]
    thumbs = Thumbnails(images)
    ids = [str(images["eval"].image.values[row]) for row in (9, 4)]
    found = [thumbs.thumb(name) for name in ids]
    thumbs.write(tmp_path)
    told = json.loads((tmp_path / "labels.js").read_text().removeprefix("const LABELS = ").removesuffix(";\n"))
    assert told == {found[0].sheet: [thumbs.describe(name) for name in ids]}
    assert [thumb.x + 32 * thumb.y for thumb in found] == [0, 1]


def test_unknown_labels_are_left_out(photos):
    images = photos[0]
    row = int(np.argmax(images["eval"].label.values[:, 0] == -1))
    assert Thumbnails(images).describe(str(images["eval"].image.values[row])) == ""


def test_signed_heat_is_clear_at_zero_and_full_at_the_largest_magnitude():
    pixels = opened(heat_uri(np.array([[0.0, 0.5], [-1.0, 0.25]]), signed=True))
    assert pixels[0, 0, 3] == 0
    assert pixels[1, 0, 3] == pixels[..., 3].max() == 225
    warm, cold = pixels[0, 1], pixels[1, 0]
    assert warm[0] > warm[2]
    assert cold[2] > cold[0]


@pytest.mark.parametrize("signed", [True, False])
def test_a_constant_heatmap_is_no_error(signed):
    assert opened(heat_uri(np.zeros((8, 8)), signed=signed))[..., 3].max() == 0


def test_unsigned_heat_runs_from_least_to_most():
    pixels = opened(heat_uri(np.array([[-3.0, -1.0]]), signed=False))
    assert pixels[0, :, 3].tolist() == [0, 225]


def test_a_mask_darkens_the_background_only():
    pixels = opened(mask_uri(np.array([[0, 1], [2, 0]])))
    assert (pixels[..., 3] > 0).tolist() == [[True, False], [False, True]]


def test_the_class_attribute_comes_first_and_colours_are_distinct(scenes):
    findings = collect(*scenes)
    assert findings.attributes[0] == findings.class_attribute == "shape"
    assert len({findings.colour(name) for name in findings.attributes}) == 7
    assert findings.colour("") == "--none"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.7312, "73.1%"), (-0.05, "\N{MINUS SIGN}5.0%"), (float("nan"), "n/a")],
)
def test_percent(value, text):
    assert formats.percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.031, "+3.1"), (-0.031, "\N{MINUS SIGN}3.1"), (-0.0001, "0.0")])
def test_points(value, text):
    assert formats.points(value) == text


def test_slugs_are_safe_and_distinct():
    assert formats.slugs(["a/b", "a b", "..", "ViT-L-14"]) == {
        "a/b": "a_b",
        "a b": "a_b-2",
        "..": "_",
        "ViT-L-14": "ViT-L-14",
    }


def test_plain_leaves_only_json():
    value = {"a": np.array([1.23456789, np.nan]), 2: (np.int16(3), np.float32(0.5))}
    assert formats.plain(value) == {"a": [1.2346, None], "2": [3, 0.5]}
