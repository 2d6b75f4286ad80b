"""Scenes: the bytes never change, labels say what is painted, the bias and the held-out combinations are as asked."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.data.scenes import ATTRIBUTES, BLOCK, SPLITS, TIED, Scenes, held_out_combinations, value_names
from optogram.errors import ParamError

COLUMN = {name: k for k, name in enumerate(ATTRIBUTES)}


@pytest.fixture(scope="module")
def scenes():
    return Scenes("eval", 4 * BLOCK, 3).read(0, 4 * BLOCK)


def test_schema_is_that_of_the_architecture(scenes):
    assert scenes["pixels"].dims == ("image", "y", "x", "rgb")
    assert scenes["pixels"].dtype == np.uint8
    assert scenes["label"].dims == ("image", "attribute")
    assert scenes["label"].dtype == np.int16
    assert scenes["mentions"].dims == ("image", "variant", "attribute")
    assert scenes["mentions"].dtype == bool
    assert scenes["mask"].dims == ("image", "y", "x")
    assert scenes["mask"].dtype == np.uint8
    assert scenes["caption"].dims == ("image", "variant")
    assert scenes["attribute"].values.tolist() == list(ATTRIBUTES)
    assert scenes["image"].values[123] == "eval/000123"
    assert scenes["image"].values.tolist() == Scenes("eval", 4 * BLOCK, 3).ids
    assert scenes.attrs == {"class_attribute": "shape"}
    for row, values in zip(value_names(), ATTRIBUTES.values(), strict=True):
        assert tuple(row[: len(values)]) == values
        assert not any(row[len(values) :])


def test_bytes_are_the_same_everywhere():
    """A digest taken on an x86-64 machine: another machine or numpy must render the same bytes."""
    drawn = Scenes("train", 300, 11, bias=0.9).read(0, 300)
    digest = hashlib.sha256(drawn["pixels"].values.tobytes() + drawn["mask"].values.tobytes())
    digest.update("\n".join(drawn["caption"].values.ravel()).encode())
    assert digest.hexdigest() == DIGEST


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 599), max_size=3, unique=True), split=st.sampled_from(SPLITS))
def test_rows_do_not_depend_on_how_the_range_is_cut(cuts, split):
    source = Scenes(split, 600, 5)
    whole = source.read(0, 600)
    edges = [0, *sorted(cuts), 600]
    for start, stop in pairwise(edges):
        assert source.read(start, stop).identical(whole.isel(image=slice(start, stop)))


def test_seeds_and_splits_differ():
    drawn = [
        Scenes(split, 64, seed).read(0, 64)["pixels"].values
        for split in ("train", "train_biased", "eval")
        for seed in (0, 1)
    ]
    assert len({pixels.tobytes() for pixels in drawn}) == 6


def test_mask_counts_the_objects_and_lies_where_the_label_says(scenes):
    mask = scenes["mask"].values
    count = scenes["label"].values[:, COLUMN["count"]] + 1
    assert np.array_equal(mask.max((1, 2)), count)
    seen = mask > 0
    x = (seen * np.arange(64)).sum((1, 2)) / seen.sum((1, 2)) - 31.5
    y = (seen * np.arange(64)[:, None]).sum((1, 2)) / seen.sum((1, 2)) - 31.5
    for k, value in enumerate(ATTRIBUTES["position"]):
        of = scenes["label"].values[:, COLUMN["position"]] == k
        offset = {"left": -x, "right": x, "top": -y, "bottom": y, "centre": 8 - np.maximum(abs(x), abs(y))}[value]
        across = {"left": y, "right": y, "top": x, "bottom": x, "centre": np.zeros_like(x)}[value]
        assert (offset[of] > abs(across[of])).all()


def test_objects_stay_whole_and_apart(scenes):
    mask, label = scenes["mask"].values, scenes["label"].values
    rim = np.concatenate([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]], 1)
    assert not rim.any()
    area = np.stack([(mask == k).sum((1, 2)) for k in (1, 2, 3)], 1)
    present = np.arange(3) <= label[:, [COLUMN["count"]]]
    for k in range(len(ATTRIBUTES["shape"])):
        of = present & (label[:, [COLUMN["shape"]]] == k)
        small, large = (area[of & (label[:, [COLUMN["size"]]] == size)] for size in (0, 1))
        assert small.max() < large.min()  # size is told by size alone; a covered or clipped object would break it
        assert small.min() > 50
    # two objects never touch
    for dy, dx in ((0, 1), (1, 0)):
        a, b = mask[:, dy:, dx:], mask[:, : 64 - dy, : 64 - dx]
        assert not ((a != b) & (a > 0) & (b > 0)).any()


def test_objects_have_their_colour_on_every_background(scenes):
    """Median over a plain object's pixels, less its rim: the label's colour is the nearest, on each background."""
    label, plain = scenes["label"].values, scenes["label"].values[:, COLUMN["texture"]] == 0
    inside = scenes["mask"].values > 0
    for axis in (1, 2):
        inside = inside & np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    medians = {k: np.median(scenes["pixels"].values[k][inside[k]], 0) for k in np.flatnonzero(plain)}
    colours = label[:, COLUMN["colour"]]
    means = np.stack([np.mean([m for k, m in medians.items() if colours[k] == c], 0) for c in range(8)])
    guesses = {k: int(((means - m) ** 2).sum(-1).argmin()) for k, m in medians.items()}
    assert np.mean([guesses[k] == colours[k] for k in medians]) > 0.99


def test_backgrounds_are_told_apart_by_a_few_pixel_statistics(scenes):
    empty = np.ma.array(scenes["pixels"].values, mask=np.repeat(scenes["mask"].values[..., None] > 0, 3, -1))
    features = np.concatenate([empty.mean((1, 2)).data, empty.std((1, 2)).data], 1)
    ground = scenes["label"].values[:, COLUMN["background"]]
    means = np.stack([features[ground == k].mean(0) for k in range(6)])
    assert (((features[:, None] - means) ** 2).sum(-1).argmin(1) == ground).mean() > 0.97


def test_held_out_combinations_never_occur_in_train_and_do_in_eval(scenes):
    forbidden = held_out_combinations()
    assert 0.08 < forbidden.mean() < 0.12
    assert all((~forbidden).any(axis).all() for axis in range(3))
    for split in ("train", "train_biased", "single", "biased", "reference"):
        assert not Scenes(split, 2048, 0).read(0, 2048)["held_out"].values.any()
    assert 0.06 < scenes["held_out"].values.mean() < 0.15
    assert not Scenes("eval", 512, 0, held_out=False).read(0, 512)["held_out"].values.any()


@pytest.mark.parametrize("split", ["train", "train_biased"])
@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0])
def test_bias_ties_each_shape_of_the_pair_to_its_background(bias, split):
    label = Scenes(split, 12 * BLOCK, 2, bias=bias).read(0, 12 * BLOCK)["label"].values
    shape, ground = label[:, COLUMN["shape"]], label[:, COLUMN["background"]]
    for name, tied in TIED.items():
        of = shape == ATTRIBUTES["shape"].index(name)
        rate = (ground[of] == ATTRIBUTES["background"].index(tied)).mean()
        assert abs(rate - (bias + (1 - bias) / 6)) < 0.06
    free = ~np.isin(shape, [ATTRIBUTES["shape"].index(name) for name in TIED])
    assert np.bincount(ground[free], minlength=6).min() / free.sum() > 1 / 8


def test_single_scenes_have_one_object_and_captions_that_say_all():
    drawn = Scenes("single", 1024, 0).read(0, 1024)
    assert set(drawn["mask"].values.max((1, 2))) == {1}
    label = drawn["label"].to_pandas()
    assert (label.pop("count") == 0).all()
    for name, values in label.items():
        assert set(values) == set(range(len(ATTRIBUTES[name])))
        assert values.value_counts(normalize=True).min() > 0.7 / len(ATTRIBUTES[name])
    stated = drawn["mentions"].values.mean((0, 2))
    assert (stated[:4] == 1).all()
    assert (stated[4:] < 0.5).all()


def test_biased_split_has_four_balanced_groups():
    drawn = Scenes("biased", 1024, 0).read(0, 1024)
    names, counts = np.unique(drawn["group"].values, return_counts=True)
    assert set(names) == {f"{shape} on {ground}" for shape in TIED for ground in TIED.values()}
    assert set(counts) == {256}
    label = drawn["label"].values
    said = [f"{ATTRIBUTES['shape'][row[0]]} on {ATTRIBUTES['background'][row[-1]]}" for row in label]
    assert said == drawn["group"].values.tolist()


def test_attributes_are_balanced(scenes):
    for k, values in enumerate(ATTRIBUTES.values()):
        share = np.bincount(scenes["label"].values[:, k], minlength=len(values)) / len(scenes["label"])
        assert abs(share * len(values) - 1).max() < 0.3


def test_other_sizes_show_the_same_scene():
    small, large = (Scenes("eval", 32, 4, size=size).read(0, 32) for size in (64, 128))
    assert large["pixels"].shape == (32, 128, 128, 3)
    assert np.array_equal(small["label"], large["label"])
    halved = large["mask"].values[:, ::2, ::2]
    assert ((halved > 0) == (small["mask"].values > 0)).mean() > 0.97


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("evil", 10, 0), "Did you mean 'eval'"),
        (("train", 0, 0), "count = 0"),
        (("train", 10, -1), "seed = -1"),
        (("train", 10, 0, 64, 1.5), r"bias = 1.5, expected 0 to 1"),
        (("train", 10, 0, 16), "size = 16"),
        (("train", 10, 0, 64, 0.5, True), "held_out"),
        (("train_biased", 10, 0, 64, 1.0, True), "held_out = True for the split 'train_biased'"),
        (("single", 10, 0, 64, 0.0, True), "held_out = True for the split 'single'"),
        (("biased", 10, 0, 64, 0.5), "equally frequent"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ParamError, match=named):
        Scenes(*arguments)


@pytest.mark.parametrize(("start", "stop"), [(0, 11), (5, 5), (-1, 3)])
def test_rows_outside_the_split_are_refused(start, stop):
    with pytest.raises(ParamError, match="rows 0 to 10"):
        Scenes("eval", 10, 0).read(start, stop)


DIGEST = "112b7f5545514492a5c4ff1dd30de7861cfc27e26c45c247c82efb09193fe66f"
