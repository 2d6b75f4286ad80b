"""Masks: against the sentences of DiG-IN's D.1.4 written out as loops, planted places, and files of the user's."""

import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare

from optogram.data.photos import Photos
from optogram.errors import DataError, ParamError, ShapeError
from optogram.guidance.masks import check_masks, cleaned, latent_mask, mask_files, rough_mask, sampled_points


def some_maps(count=3, rows=4, columns=5):
    return torch.from_numpy(np.random.default_rng(0).random((count, rows, columns), np.float32))


def literal_bilinear(small, size):
    """Pixels at their centres, the edge going on beyond it."""
    large = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            at = [(k + 0.5) * n / m - 0.5 for k, n, m in zip((y, x), small.shape, size, strict=True)]
            at = [min(max(k, 0), n - 1) for k, n in zip(at, small.shape, strict=True)]
            for row in range(small.shape[0]):
                for column in range(small.shape[1]):
                    near = max(0, 1 - abs(at[0] - row)) * max(0, 1 - abs(at[1] - column))
                    large[y, x] += near * small[row, column]
    return large


def test_a_rough_mask_is_upsampled_divided_by_its_maximum_and_cut_off():
    maps = some_maps()
    found = rough_mask(maps, (12, 10), threshold=0.6)
    for one, mask in zip(maps.double().numpy(), found, strict=True):
        large = literal_bilinear(one, (12, 10))
        large /= large.max()
        large[large < 0.6] = 0
        np.testing.assert_allclose(mask, large, atol=1e-6)
    assert (found == 0).any()
    assert found.amax((1, 2)).tolist() == [1, 1, 1]
    assert torch.equal(rough_mask(maps[1:2], (12, 10), threshold=0.6), found[1:2]), "whatever is beside it"
    torch.testing.assert_close(rough_mask(7 * maps, (12, 10), threshold=0.6), found)
    assert not rough_mask(torch.zeros(1, 2, 2), (4, 4), threshold=0.6).any()


def test_rough_masks_refuse_what_is_no_attention():
    maps = some_maps()
    maps[1, 0, 0] = -0.1
    maps[2, 0, 0] = math.nan
    with pytest.raises(DataError, match="image 1, image 2"):
        rough_mask(maps, (8, 8), threshold=0.3)
    with pytest.raises(ParamError, match=r"threshold = 1.*less than 1"):
        rough_mask(maps, (8, 8), threshold=1)


def test_points_are_as_frequent_as_the_rough_mask_is_large():
    mask = torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.0, 1.0]])
    points = sampled_points(mask[None], 4000, seeds=[3])[0]
    counts = np.zeros((2, 3))
    for y, x in points.tolist():
        counts[y, x] += 1
    there = mask.numpy() > 0
    assert counts[~there].sum() == 0
    expected = mask.double().numpy()[there] / float(mask.double().sum()) * 4000
    assert chisquare(counts[there], expected).pvalue > 1e-3
    assert chisquare(counts[there], np.full(4, 1000)).pvalue < 1e-9, "and not as frequent everywhere"


def test_an_image_s_points_follow_from_its_mask_and_seed_alone():
    masks = some_maps(3, 16, 16)
    points = sampled_points(masks, seeds=[5, 6, 7])
    assert points.shape == (3, 5, 2)
    assert torch.equal(sampled_points(masks[1:], seeds=[6, 7]), points[1:])
    assert not torch.equal(sampled_points(masks[:1], seeds=[6]), points[:1])


def test_no_points_without_a_rough_mask():
    masks = some_maps()
    masks[2] = 0
    with pytest.raises(DataError, match=r"empty in image 2.*lower the threshold"):
        sampled_points(masks, seeds=[0, 1, 2])
    with pytest.raises(ShapeError, match="3 masks, but 2 seeds"):
        sampled_points(masks, seeds=[0, 1])
    with pytest.raises(ParamError, match="count = 0"):
        sampled_points(masks, 0, seeds=[0, 1, 2])


def literal_window(mask, side, most):
    """The least or largest value in a square about each pixel, of those that are in the image."""
    found, far = np.zeros_like(mask), side // 2
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            window = mask[max(0, y - far) : y + far + 1, max(0, x - far) : x + far + 1]
            found[y, x] = window.max() if most else window.min()
    return found


def literal_blur(mask, deviation):
    """A Gaussian cut off after four deviations; pixels beyond the edge are those at the edge."""
    far = int(4 * deviation + 0.5)
    weights = np.array([math.exp(-(k**2) / (2 * deviation**2)) for k in range(-far, far + 1)])
    weights /= weights.sum()
    found = np.zeros_like(mask)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            for down, a in zip(range(-far, far + 1), weights, strict=True):
                for right, b in zip(range(-far, far + 1), weights, strict=True):
                    near = min(max(y + down, 0), mask.shape[0] - 1), min(max(x + right, 0), mask.shape[1] - 1)
                    found[y, x] += a * b * mask[near]
    return found


def test_cleaning_erodes_then_dilates_then_blurs():
    masks = (some_maps(2, 14, 11) > 0.25).float()
    found = cleaned(masks, erode=3, dilate=5, blur=0.8)
    for one, mask in zip(masks.double().numpy(), found, strict=True):
        literal = literal_blur(literal_window(literal_window(one, 3, False), 5, True), 0.8)
        np.testing.assert_allclose(mask, literal, atol=1e-6)
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    assert torch.equal(cleaned(masks[1:], erode=3, dilate=5, blur=0.8), found[1:]), "whatever is beside it"
    assert torch.equal(cleaned(masks, erode=1, dilate=1, blur=0), masks)


def test_cleaning_takes_specks_away_and_leaves_objects_at_the_edge():
    mask = torch.zeros(1, 12, 12)
    mask[0, 3, 9] = 1
    mask[0, 6:, :6] = 1
    found = cleaned(mask, erode=3, dilate=3, blur=0)
    mask[0, 3, 9] = 0
    assert torch.equal(found, mask)


@pytest.mark.parametrize(("name", "value"), [("erode", 0), ("dilate", 4), ("blur", -1), ("blur", math.nan)])
def test_cleaning_refuses_kernels_without_a_centre(name, value):
    with pytest.raises(ParamError, match=f"{name} = {value}"):
        cleaned(torch.ones(1, 4, 4), **{"erode": 1, "dilate": 1, "blur": 0, name: value})


def test_a_latent_mask_is_the_mean_of_each_place():
    mask = some_maps(2, 8, 12)
    found = latent_mask(mask, 4)
    assert found.shape == (2, 2, 3)
    for k, row, column in np.ndindex(2, 2, 3):
        mean = sum(float(mask[k, 4 * row + y, 4 * column + x]) for y in range(4) for x in range(4)) / 16
        assert float(found[k, row, column]) == pytest.approx(mean, abs=1e-6)
    with pytest.raises(ShapeError, match=r"8 x 12.*multiples of 5"):
        latent_mask(mask, 5)


def test_masks_that_cannot_be_used_are_named():
    good = torch.zeros(3, 4, 4)
    good[:, 1:3, 1:3] = 1
    check_masks(good, (4, 4))
    with pytest.raises(ShapeError, match=r"4 x 4, but images of 8 x 4"):
        check_masks(good, (8, 4))
    for value, says in ((0.0, "empty"), (1.0, "1 everywhere"), (1.5, "leaves"), (math.nan, "leaves")):
        bad = good.clone()
        bad[1] = value
        with pytest.raises(DataError, match=f"{says}.* in image 1[.:]"):
            check_masks(bad, (4, 4))
        with pytest.raises(DataError, match=f"{says}.* in dog/b.jpg[.:]"):
            check_masks(bad, (4, 4), ["dog/a.jpg", "dog/b.jpg", "dog/c.jpg"])
    check_masks(cleaned(good, erode=1, dilate=1, blur=1), (4, 4))
    with pytest.raises(DataError, match="everywhere"):
        check_masks(cleaned(torch.ones(1, 9, 9), erode=1, dilate=1, blur=2.3), (9, 9))


def blob(width, height, k=0):
    """A grey picture with a white rectangle off its middle."""
    grey = np.zeros((height, width), np.uint8)
    grey[height // 4 + k : height - 4, width // 3 : width - 5 - k] = 255
    return grey


@pytest.fixture
def photographs(tmp_path):
    """Photographs of several shapes, one lying on its side, whose masks are the pictures themselves."""
    sizes = {"cat/a": (40, 30), "cat/b": (30, 44), "cat/c": (32, 32), "dog/a": (40, 30), "dog/b": (24, 36)}
    sizes["dog/c"] = (36, 24)
    for k, (name, size) in enumerate(sizes.items()):
        for folder, suffix in (("photos", ".png"), ("masks", ".PNG")):
            path = tmp_path / folder / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            upright = Image.fromarray(blob(*size, k))
            exif = Image.Exif()
            if folder == "photos" and name == "dog/c":
                exif[0x0112] = 6
                upright = upright.transpose(Image.Transpose.ROTATE_90)
            upright.save(path, exif=exif)
    return tmp_path


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


def test_masks_of_photographs_are_cropped_and_resized_as_these_are(photographs):
    source = photographs / "photos"
    images = Photos(source, "train", size=16, seed=0)
    shown = images.read(0, len(images))
    ids = [str(name) for name in shown.image.values]
    found = mask_files(photographs / "masks", ids, 16, photographs=source)
    np.testing.assert_array_equal(found, shown.pixels.values[..., 0] >= 128)
    assert len({one.numpy().tobytes() for one in found}) == len(ids), "no two alike"
    turned = ["dog/c.png", "cat/b.png"]
    both = mask_files(photographs / "masks", turned, 16, photographs=source)
    assert torch.equal(both, mask_files(zipped(photographs / "masks"), turned, 16, photographs=zipped(source)))
    assert torch.equal(both[:1], mask_files(photographs / "masks", turned[:1], 16, photographs=source))


def test_masks_of_the_images_own_size(tmp_path):
    (tmp_path / "eval").mkdir()
    for k in range(2):
        Image.fromarray(blob(20, 20, k)).save(tmp_path / f"eval/00000{k}.png")
    found = mask_files(tmp_path, ["eval/000001", "eval/000000"], 20)
    np.testing.assert_array_equal(found, [blob(20, 20, 1) > 0, blob(20, 20, 0) > 0])
    with pytest.raises(DataError, match=r"000000.png is of 20 x 20 pixels, but its image of 32 x 32"):
        mask_files(tmp_path, ["eval/000000"], 32)


def test_mask_files_that_are_missing_or_cannot_be_used_are_named(photographs):
    source, masks = photographs / "photos", photographs / "masks"
    ids = [f"{kind}/{name}.png" for kind in ("cat", "dog") for name in "abc"]

    def refused(match):
        return pytest.raises(DataError, match=match)

    with refused(r"2 of 8 images have no mask: cat/d.jpg, dog/d.jpg. Expected cat/d.png"):
        mask_files(masks, [*ids, "cat/d.jpg", "dog/d.jpg"], 16, photographs=source)
    with refused(r"1 of 1 photographs are not there: cat/a.jpg"):
        mask_files(masks, ["cat/a.jpg"], 16, photographs=source)
    with refused(r"share the mask of 'cat/a.jpg'"):
        mask_files(masks, ["cat/a.jpg", "cat/a.png"], 16)
    with refused("no such folder or zip"):
        mask_files(photographs / "nowhere", ids, 16)
    for name, picture, says in (
        ("cat/a.PNG", blob(30, 40), r"30 x 40 pixels, but its image of 40 x 30"),
        ("cat/b.PNG", np.zeros((44, 30), np.uint8), "empty in cat/b.PNG.*White"),
        ("cat/c.PNG", blob(32, 32) // 255, "empty in cat/c.PNG.*White"),
        ("dog/a.PNG", np.full((30, 40), 255, np.uint8), "1 everywhere in dog/a.PNG"),
        ("dog/b.PNG", np.stack([blob(24, 36), blob(24, 36, 2), blob(24, 36)], -1), "dog/b.PNG is coloured"),
    ):
        before = (masks / name).read_bytes()
        Image.fromarray(picture).save(masks / name)
        with refused(says):
            mask_files(masks, ids, 16, photographs=source)
        (masks / name).write_bytes(before)
    (masks / "dog/c.jpg").write_bytes(b"\xff\xd8\xff no more")
    with refused(r"dog/c.PNG and dog/c.jpg are masks of one image"):
        mask_files(masks, ids, 16, photographs=source)
    (masks / "dog/c.PNG").unlink()
    with refused(r"dog/c.jpg cannot be read .*not an image"):
        mask_files(masks, ids, 16, photographs=source)
