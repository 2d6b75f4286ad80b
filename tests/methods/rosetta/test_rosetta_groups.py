"""Groups of models from images to the dictionary, where it is known what they share."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from tiny_generator import tiny_generator

from optogram.data.scenes import Scenes
from optogram.errors import DataError, ParamError
from optogram.methods.rosetta.dictionary import headline
from optogram.methods.rosetta.groups import LABELS, Drawn, Stored, rosetta
from optogram.methods.rosetta.mining import Images, Member, mine, rotations

SETTINGS = {"k": 3, "rate": 0.05, "shuffles": 2, "alike": 0.9, "seed": 0}


def features(seed, channels=6, side=8):
    """A model of units that nobody knows: random filters, and the nonlinearity."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(channels, 3, 9, 9, generator=generator)

    def maps(pixels):
        rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5
        return [F.adaptive_avg_pool2d(F.conv2d(rgb, weight).relu(), side)]

    return maps


def joined(*models):
    return lambda pixels: [torch.cat([maps for model in models for maps in model(pixels)], 1)]


@pytest.fixture(scope="module")
def scenes():
    return Scenes("eval", 160, 0).read(0, 160)


@pytest.fixture(scope="module")
def found(scenes):
    """Two models with six units in common, of which the second has them in another order, twice the size."""
    shared = features(0, side=8)
    again = features(0, side=16)
    one = Member("one", ("a",), joined(shared, features(1, 4)), features(7, 10))
    other = Member("other", ("b",), lambda pixels: [joined(features(2, 3, 16), again)(pixels)[0]], features(8, 9, 16))
    source = Stored(scenes, 160, 0)
    return rosetta(source, [one, other, *source.own], examples=4, shown=3, **SETTINGS)


def test_what_two_models_share_is_found(found):
    kept = found.isel(pair=np.flatnonzero(found.found))
    pairs = {(int(found.channel[a]), int(found.channel[b])) for a, b in zip(kept.a.values, kept.b.values, strict=True)}
    assert {(unit, unit + 3) for unit in range(6)} <= pairs
    planted = [r for a, b, r in zip(kept.a.values, kept.b.values, kept.r.values, strict=True) if b - 10 == a + 3]
    assert min(planted) > 0.85, "maps of 8 and of 16 points a side"
    assert found.concept_r.sel(model="other").max() > 0.9
    assert found.attrs["anchor"] == "one"
    told, counts = headline(found), found["count"].isel(match=0)
    assert told.value == float(counts.sel(kind="real"))
    assert told.versus_value == float(counts.sel(kind=["shuffled", "rotated", "untrained"]).max()), "the nearest null"


def test_units_that_see_what_is_labelled_are_named(scenes):
    def sees(pixels):
        green = torch.from_numpy((pixels[..., 1].astype(int) - pixels[..., 0] > 40) & (pixels[..., 2] < 100)).float()
        return [torch.stack([green, torch.rand(green.shape, generator=torch.Generator().manual_seed(0))], 1)]

    source = Stored(scenes, 160, 0)
    found = rosetta(source, [Member("a", ("x",), sees), Member("b", ("y",), sees), *source.own], shown=0, **SETTINGS)
    names = found.name_labels.values.tolist()
    assert names[0] == names[2] == "grass"
    assert found.attribute_labels.values[0] == "background"
    assert "pixels" not in found


def test_pictures_are_of_the_strongest_images(found, scenes):
    source = Stored(scenes, 160, 0)
    maps = features(0)(source.draw(np.arange(160)).pixels)[0].mean((2, 3))
    unit = int(found.channel[int(found.concept_unit.values[0, 0])])
    if unit < 6:
        strengths = maps[:, unit].sort(descending=True).values[[0, 1, 80, 159]]
        torch.testing.assert_close(maps[found.image_number.values[0], unit], strengths)
    drawn = source.draw(found.image_number.values[0]).pixels
    np.testing.assert_array_equal(found.pixels.values[0], drawn)
    there = found.maps.values[0][np.isfinite(found.concept_unit.values[0])].astype(float)
    assert there.min() == 0
    assert there.max() == 1


def test_null_models_are_counted(found):
    counts = found["count"].isel(match=0)
    assert counts.sel(kind="shuffled") <= 0.05 * counts.sel(kind="real")
    assert np.isfinite(counts.values).all()
    assert set(found.null_kind.values.tolist()) == {"shuffled", "rotated", "untrained"}


@pytest.mark.parametrize("batch", [1, 50, 160])
def test_batches_change_no_byte(scenes, batch):
    def mined(size):
        def batches():
            pixels = scenes.pixels.values
            for start in range(0, len(pixels), size):
                part = pixels[start : start + size]
                # a kernel may round by the number of images, and that is the model's affair
                given = {"a": torch.cat([features(0)(image[None])[0] for image in part])}
                given["b"] = torch.cat([features(1, 4, 4)(image[None])[0] for image in part])
                yield Images(part, {name: [maps] for name, maps in given.items()})

        return mine(lambda first: batches(), [Member("a", ("x",)), Member("b", ("y",))], k=3, seed=0).matches["a", "b"]

    one, other = mined(batch), mined(32)
    assert one.correlation.tobytes() == other.correlation.tobytes()
    assert one.halves.tobytes() == other.halves.tobytes()
    assert [r.tobytes() for r in one.nulls["shuffled"]] == [r.tobytes() for r in other.nulls["shuffled"]]


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_what_was_cut_off_goes_on_to_the_same_bytes(scenes, tmp_path, cut):
    """Killed while a block is drawn; what is drawn behind it then is the first block, for its sizes, and the rest."""
    pixels, drawn = scenes.pixels.values, []
    a = Member("a", ("x",), features(0), features(9))
    b = Member("b", ("y",), features(1, 4, 4), features(8, 4, 4))

    def images(first, until=5):
        for start in range(first, 160, 32):
            if start == 32 * until:
                raise KeyboardInterrupt
            drawn.append(start)
            part = pixels[start : start + 32]
            yield Images(part, {}, part[:, 0, 0].astype(np.float32))

    whole, kept = mine(images, [a, b], k=3, seed=0), {"scratch": tmp_path, "save_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        mine(lambda first: images(first, cut), [a, b], k=3, seed=0, **kept)
    drawn.clear()
    again = mine(images, [a, b], k=3, seed=0, **kept)
    assert drawn == [0, *range(32 * cut, 160, 32)]
    one, other = whole.matches["a", "b"], again.matches["a", "b"]
    for name in ("correlation", "halves", "assigned"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    for kind in one.nulls:
        assert [r.tobytes() for r in one.nulls[kind]] == [r.tobytes() for r in other.nulls[kind]]
    for name in ("means", "constant", "mean", "deviation"):
        assert all(getattr(whole, name)[m].tobytes() == getattr(again, name)[m].tobytes() for m in "ab")
    assert all(x.tobytes() == y.tobytes() for x, y in zip(whole.within, again.within, strict=True))
    assert whole.embedding.tobytes() == again.embedding.tobytes() == pixels[:, 0, 0].astype(np.float32).tobytes()
    assert whole.images == again.images == 160


def test_damaged_sums_are_said_and_passed_over(scenes, tmp_path, capsys):
    a, b = Member("a", ("x",), features(0)), Member("b", ("y",), features(1))
    (tmp_path / "sums-0.safetensors").write_bytes(b"cut")
    found = mine(lambda first: [Images(scenes.pixels.values[:64], {})], [a, b], seed=0, scratch=tmp_path)
    assert found.images == 64
    assert "is damaged" in capsys.readouterr().err


def test_a_generator_comes_with_its_images_and_maps():
    generator = tiny_generator(4, (8, 6, 4))
    source = Drawn("gan", generator, list(range(64)))
    pixels = source.draw(np.arange(3)).pixels
    np.testing.assert_array_equal(source.draw(np.array([2])).pixels[0], pixels[2])
    other = Member("other", ("x",), features(0), features(9))
    told = []
    found = rosetta(
        source,
        [*source.own, other],
        shown=1,
        examples=2,
        progress=lambda done, total: told.append((done, total)),
        **SETTINGS,
    )
    assert told[0] == (0, source.total)
    assert told[-1] == (source.total, source.total)
    assert found.model.values.tolist() == ["gan", "other"]
    assert set(found.layer_of.values.tolist()) == {*generator.layers, "x"}
    assert "name_labels" not in found


def test_what_a_judge_sees_in_drawn_images_names_units(scenes):
    """Stored scenes stand for what a generator draws, and their own labels for what a judge sees."""
    names = scenes.value_name.values.astype(str)
    attributes = scenes.attribute.values.tolist()

    def parse(pixels):
        some = slice(len(pixels))
        variables = {"value": (("image", "attribute"), scenes.label.values[some])}
        variables |= {"mask": (("image", "y", "x"), scenes.mask.values[some])}
        return xr.Dataset(variables | {"value_name": (("attribute", "value"), names)}, {"attribute": attributes})

    known = {name: tuple(filter(None, row)) for name, row in zip(attributes, names.tolist(), strict=True)}
    judge = SimpleNamespace(attributes=known, parse=parse)
    source = Drawn("gan", tiny_generator(4, (8, 6, 4)), range(64), judge)
    assert [member.name for member in source.own] == ["gan", LABELS]
    (maps,) = source.draw(np.arange(5)).maps[LABELS]
    assert maps.shape == (5, len(source.values), 64, 64)
    place = source.values.index(("background", "grass"))
    grass = scenes.label.sel(attribute="background").values[:5] == list(names[-1]).index("grass")
    expected = (scenes.mask.values[:5] == 0) & grass[:, None, None]
    np.testing.assert_array_equal(maps[:, place].numpy(), expected)


def test_means_and_deviations_are_those_of_the_equation(scenes):
    def far(pixels):
        return [features(0)(pixels)[0] + 300, features(1, 4, 4)(pixels)[0]]

    images = Images(scenes.pixels.values[:100], {})
    found = mine(lambda first: [images], [Member("a", ("x", "y"), far), Member("b", ("z",), features(2))], seed=0)
    columns = [layer.double().movedim(1, 0).flatten(1) for layer in far(images.pixels)]
    np.testing.assert_allclose(found.mean["a"], torch.cat([each.mean(1) for each in columns]), rtol=1e-5)
    np.testing.assert_allclose(found.deviation["a"], torch.cat([each.std(1) for each in columns]), rtol=1e-4)


def test_rotations_are_rotations():
    one, other = rotations([5, 9], (0, 1))
    for matrix in (one, other):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0)
    assert not torch.equal(rotations([5], (0, 2))[0], one)


def test_bad_input_is_named(scenes):
    source = Stored(scenes, 160, 0)
    a, b = Member("a", ("x",), features(0)), Member("b", ("y",), features(1))
    with pytest.raises(DataError, match="there are 40 images, expected at least 50"):
        Stored(scenes.isel(image=slice(40)), 100, 0)
    with pytest.raises(ParamError, match="two models at least"):
        rosetta(source, [a, *source.own], **SETTINGS)

    def broken(pixels):
        maps = features(1)(pixels)[0]
        maps[3, 2, 0, 0] = float("inf")
        return [maps]

    with pytest.raises(DataError, match="channel 2 of layer 'y' of b has values that are not finite"):
        rosetta(source, [a, Member("b", ("y",), broken), *source.own], **SETTINGS)
    with pytest.raises(DataError, match="there are 20 images"):
        mine(lambda first: [Images(scenes.pixels.values[:20], {})], [a, b], seed=0)


def near(one, other):
    """But for rounding: parts make maps smaller to other sizes at once."""
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("room", [1600, 2400, 6000])
def test_tables_in_parts_give_the_same_pairs(scenes, room, tmp_path, capsys):
    def two_layers(seed):
        return lambda pixels: [*features(seed)(pixels), *features(seed + 50, 4, 4)(pixels)]

    def images(first, until=10**6):
        for start in range(first, 160, 32):
            drawn.append(start)
            if len(drawn) > until:
                raise KeyboardInterrupt
            yield Images(scenes.pixels.values[start : start + 32], {})

    drawn: list[int] = []
    a = Member("a", ("x", "y"), two_layers(0), two_layers(9))
    b, c = (Member(name, ("z",), features(seed, 4, 4), features(seed + 7, 4, 4)) for name, seed in (("b", 1), ("c", 2)))
    whole = mine(images, [a, b, c], k=3, seed=0)
    parts = mine(images, [a, b, c], k=3, seed=0, memory=room)
    assert "pass 2 of" in capsys.readouterr().err
    drawn.clear()
    kept = {"scratch": tmp_path, "save_seconds": 0, "memory": room}
    with pytest.raises(KeyboardInterrupt):
        mine(lambda first: images(first, until=8), [a, b, c], k=3, seed=0, **kept)  # in the second part
    drawn.clear()
    again = mine(images, [a, b, c], k=3, seed=0, **kept)
    assert drawn[:4] == [0, 0, 96, 128], "a block for the sizes of each part, and what was not done"
    other = mine(images, [a, b, c], k=3, seed=1, **kept)
    assert "is of other models, another seed or other parts" in capsys.readouterr().err
    assert (
        other.matches["a", "b"].nulls["rotated"][0].tobytes() != whole.matches["a", "b"].nulls["rotated"][0].tobytes()
    )
    assert all(match.correlation is None and match.assigned is None for match in again.matches.values())
    for found in (parts, again):
        for pair, match in whole.matches.items():
            other = found.matches[pair]
            for one, two in zip(match.pairs, other.pairs, strict=True):
                near(one, two)
            near(match.halves, other.halves)
            near(match.threshold, other.threshold)
            for kind in match.nulls:
                for one, two in zip(match.nulls[kind], other.nulls[kind], strict=True):
                    near(one, two)
        for one, two in zip(whole.within, found.within, strict=True):
            near(one, two)
        for name in "abc":
            near(whole.mean[name], found.mean[name])
            np.testing.assert_array_equal(whole.constant[name], found.constant[name])
    assert whole.matches["a", "b"].assigned is not None
    assert all(match.correlation is not None for match in whole.matches.values())


def test_tables_that_do_not_fit_are_refused_before_they_are_made(scenes, monkeypatch):
    monkeypatch.setattr("optogram.methods.rosetta.mining.os.sysconf", lambda name: 64)
    members = [Member("a", ("x",), features(0)), Member("b", ("y",), features(1))]
    with pytest.raises(DataError, match=r"(?s)tables of all pairs.*\(units: a 6, b 6\)\. Name fewer layers"):
        mine(lambda first: [Images(scenes.pixels.values[:64], {})], members, seed=0)


def test_a_model_that_is_constant_shares_nothing(scenes):
    dull = Member("dull", ("y",), lambda pixels: [torch.ones(len(pixels), 4, 4, 4)])
    source = Stored(scenes, 160, 0)
    found = rosetta(source, [Member("a", ("x",), features(0)), dull, *source.own], **SETTINGS)
    assert found.constant.values.tolist() == [False] * 6 + [True] * 4
    assert found.sizes["pair"] == found.sizes["concept"] == 0
    assert np.isnan(found.threshold.values).all()
    assert headline(found).value == 0


def test_images_without_labels_have_no_member_of_labels(scenes):
    bare = scenes[["pixels"]]
    source = Stored(xr.Dataset({"pixels": bare.pixels}), 160, 0)
    assert not source.own
    assert Stored(scenes, 160, 0).own[0].name == LABELS
