"""Scores of visualisations against a loop over pictures, and what they must be of pictures whose truth is planted."""

import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr
from planted_pictures import (
    BACKGROUNDS,
    COLOURS,
    SIDE,
    classifier,
    judges,
    noise,
    paint,
    pictures,
    real_pictures,
    scenes,
    targets,
)
from torch import nn

from optogram.errors import DataError, ModelError, OptogramError, ParamError, ShapeError
from optogram.methods.visualisation.evaluators import Judges, through
from optogram.methods.visualisation.reference_scores import headline as reference_headline
from optogram.methods.visualisation.reference_scores import reference_scores
from optogram.methods.visualisation.scores import embedding_map, headline, visual_scores
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import encode_images
from optogram.store.read import read
from optogram.store.write import Provenance, write_dataset

INNER = ("1:0", "red concept 0")


def control(name):
    """The reddest there are."""
    assert name in INNER
    return np.stack([paint(0, i % 2, i) for i in range(20)])


def scored(methods=None, status=None, *, by=None, biased=0.5, **options):
    """Real pictures of the class, on both backgrounds, beside noise, unless told otherwise."""
    if methods is None:
        copies = np.concatenate([real_pictures(0), real_pictures(1)], 1)
        methods = {"copies": copies, "noise": noise(5, 6)}
    return visual_scores(
        targets(),
        pictures(methods, status),
        by or judges(),
        options.pop("real", scenes(20)),
        scenes(20, biased, seed=1),
        **{"controls": control, "images": 60, "shown": 30, **options},
    )


def literal_features(model, pixels):
    """Image by image, without the helpers: (logits, penultimate features)."""
    parts = list(model.children())
    found = []
    for image in pixels:
        x = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
        for part in parts[:-1]:
            x = part(x)
        found.append((parts[-1](x)[0].numpy(), x[0].numpy()))
    return tuple(np.stack(each).astype(float) for each in zip(*found, strict=True))


def literal_frechet(a, b):
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    common = np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()  # the trace of a root; s and t are singular
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s + t) - 2 * common


def test_a_picture_that_the_model_is_not_finite_on_harms_no_other():
    by, copies = judges(), np.concatenate([real_pictures(0), real_pictures(1)], 1)
    copies[0, 0] = 0

    def broken(_, inputs):
        flat = inputs[0].std((1, 2, 3), keepdim=True) == 0
        return (torch.where(flat, float("nan"), inputs[0]),)

    by.classifier.model.register_forward_pre_hook(broken)
    found = scored({"copies": copies, "noise": noise(5, 6)}, by=by)
    assert str(found.predicted.sel({"method": "copies"}).values[0, 0]) == ""
    assert (found.predicted.sel({"method": "copies"}).values[0, 1:] == "red").all()
    assert float(found.accuracy.sel({"method": "copies"})) == 1
    whole = scored({"copies": real_pictures(0)[:, :1], "noise": noise(5, 6)[:, :1]})
    one = found.confidence.sel({"method": "copies"})
    assert np.isnan(one.values[0, 0])
    assert np.isfinite(one.values[0, 1:]).all()
    for name in ("accuracy", "fid_own", "fid_second", "zero_shot_1", "auc_mean", "mad_mean", "cue_shown"):
        missing = np.isnan(whole[name].values)
        assert (np.isnan(found[name].values) == missing).all(), name


def test_every_number_is_that_of_a_loop_over_pictures():
    by, real = judges(), scenes(20)
    methods = {"copies": real_pictures(1), "noise": noise(5, 3), "dim": (real_pictures(0) // 3).astype(np.uint8)}
    found = scored(methods, by=by, real=real)
    everything = real["pixels"].values  # 60 are drawn, so all of them
    models = {"own": by.classifier.model, "second": by.second.model}
    features = {name: literal_features(model, everything)[1] for name, model in models.items()}
    asked = zip(by.zeroshot.attribute.values.tolist(), by.zeroshot.value.values.tolist(), strict=True)
    rows = dict(zip(asked, by.zeroshot.classifier.values, strict=True))
    for method, pixels in methods.items():
        right, by_clip, of_class = [], [], []
        here = found.sel({"method": method})
        for target, wanted in enumerate(("red", "blue", "green", None, None)):
            for seed in range(3):
                image = pixels[target, seed]
                logits = literal_features(by.classifier.model, image[None])[0][0]
                embedding = encode_images(by.clip, image[None]).numpy()[0]
                one = here.isel(target=target, seed=seed)
                assert str(one.predicted.values) == COLOURS[logits.argmax()]
                sees = {}
                for attribute, values in (("background", BACKGROUNDS), ("colour", COLOURS)):
                    sees[attribute] = max(values, key=lambda v, a=attribute, e=embedding: float(rows[a, v] @ e))
                    assert str(one.seen.sel(attribute=attribute).values) == sees[attribute]
                assert str(one.clip_predicted.values) == sees["colour"]
                if wanted is None:
                    assert np.isnan(one.confidence)
                    continue
                odds = np.exp(logits - logits.max())
                assert float(one.confidence) == pytest.approx(odds[COLOURS.index(wanted)] / odds.sum(), rel=1e-4)
                right.append(COLOURS[logits.argmax()] == wanted)
                by_clip.append(sees["colour"] == wanted)
                of_class.append(image)
        assert float(here.accuracy) == pytest.approx(np.mean(right))
        assert float(here.zero_shot_1) == pytest.approx(np.mean(by_clip))
        for name, model in models.items():
            expected = literal_frechet(literal_features(model, of_class)[1], features[name])
            assert float(here[f"fid_{name}"]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        for target, weights in ((3, {0: 1.0}), (4, {0: 0.8, 2: -0.6})):
            activation = {}
            for kind, some in (("synthetic", pixels[target]), ("control", control("1:0"))):
                pooled = literal_features(by.classifier.model, some)[1]  # this model pools right after its layer 1
                activation[kind] = sum(weight * pooled[:, channel] for channel, weight in weights.items())
            a, b = activation["synthetic"], activation["control"]
            pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
            assert float(here.auc[target]) == pytest.approx(np.mean(pairs))
            assert float(here.mad[target]) == pytest.approx((a.mean() - b.mean()) / b.std(), rel=1e-4)
        assert np.isnan(here.auc[:3]).all()
        assert float(here.auc_mean) == float(here.auc[3])  # of neurons, not of concepts
        assert float(here.mad_mean) == float(here.mad[3])


def test_real_pictures_score_as_real_ones_and_noise_does_not():
    found = scored()
    assert found.method.values.tolist() == ["real", "copies", "noise"]
    real, copies, of_noise = (found.sel({"method": name}) for name in found.method.values)
    for one in (real, copies):
        assert float(one.accuracy) == float(one.zero_shot_1) == 1
    assert (copies.predicted[:3] == xr.DataArray(["red", "blue", "green"], dims="target")).all()
    assert float(copies.confidence[:3].min()) > 0.9
    few = found.attrs["few_own"]
    assert float(real.fid_own) < 2 * few
    assert float(copies.fid_own) < 3 * few
    assert float(of_noise.fid_own) > 30 * few
    assert float(of_noise.accuracy) < 0.7
    assert found.attrs["samples"] == 60
    assert np.isnan(found.zero_shot_5).all()  # CLIP has rows for three colours only
    # one real image of each class and seed, nothing for inner neurons
    assert real.predicted.values[:, 0].tolist() == ["red", "blue", "green", "", ""]
    assert real.seen.values[3:].tolist() == [[["", ""]] * 6] * 2


def test_the_artifact_is_written_and_read(tmp_path):
    found = scored()
    write_dataset(tmp_path / "scores", found, Provenance("visual_scores", "t", {}))
    again = read(tmp_path / "scores")
    for name, each in found.variables.items():
        assert again[name].dims == each.dims
        np.testing.assert_array_equal(again[name].values, each.values)
        assert again[name].attrs == each.attrs
    assert dict(again["fid_own"].sizes) == {"method": 3}
    assert found.attrs.items() <= again.attrs.items()


def test_the_headline_is_beside_the_best_rival_and_real_images():
    methods = {"vital": real_pictures(0), "copies": real_pictures(1), "noise": noise(5, 3)}
    undefined = {("noise", name): "not defined: x" for name in targets()["target"].values}
    found = scored(methods, undefined)
    assert headline(found).columns() == {
        "measure": "VITAL's pictures that CLIP names right",
        "value": 1.0,
        "of": 9,
        "versus": "by the best rival, copies",
        "versus_value": 1.0,
        "yardstick": 1.0,
    }
    alone = headline(scored({"vital": noise(5, 3)}, by=Judges(classifier())))
    assert alone.measure == "VITAL's pictures that the model names right"
    assert alone.columns().keys() == {"measure", "value", "of", "versus", "yardstick"}
    assert alone.value < alone.yardstick == 1


def test_undefined_pictures_count_nowhere_and_diverged_ones_do():
    names = targets()["target"].values.tolist()
    spoilt = {"whole": real_pictures(0), "part": real_pictures(0), "none": real_pictures(0)}
    spoilt["part"][1], spoilt["part"][3], spoilt["none"][:] = 0, 0, 0
    why = {("part", name): "not defined: classes only" for name in ("blue", "1:0")}
    why |= {("none", name): "not defined: needs batch norm" for name in names} | {
        ("whole", "red"): "diverged at step 3"
    }
    found = scored(spoilt, why)
    part, none, whole = (found.sel({"method": name}) for name in ("part", "none", "whole"))
    assert float(part.accuracy) == float(whole.accuracy) == 1
    assert part.predicted.values[1].tolist() == [""] * 3
    assert np.isnan(part.confidence.values[1]).all()
    assert all(np.isnan(part[name]) for name in ("auc_mean", "mad_mean"))
    assert float(part.auc[4]) == float(whole.auc[4]) > 0
    two = scored({"part": real_pictures(0)[:, :2]})  # a picture that diverged is one of those that count
    assert float(whole.fid_own) != float(part.fid_own) != float(two.sel({"method": "part"}).fid_own)
    for name in ("accuracy", "zero_shot_1", "zero_shot_5", "fid_own", "fid_second", "cue_shown"):
        assert np.isnan(none[name])
    assert set(none.predicted.values.ravel()) == set(none.seen.values.ravel()) == {""}
    assert (found.map_kind == "none").sum() == 0
    assert (found.map_kind == "part").sum() == 6
    assert (found.map_kind == "whole").sum() == 9
    none_at_all = {(method, name): "not defined: y" for method in spoilt for name in names}
    with pytest.raises(DataError, match="no visualisation to score: the first says"):
        scored(spoilt, none_at_all)


def test_the_order_of_targets_does_not_matter():
    whole, some = pictures({"vital": real_pictures(1)}), [4, 1, 0]
    given = {"judges": judges(), "real": scenes(20), "train": scenes(20), "controls": control}
    one = visual_scores(targets(), whole, **given)
    other = visual_scores(targets(), whole.isel(target=some), **given)
    assert other.target.values.tolist() == ["red concept 0", "blue", "red"]
    for name in ("auc", "predicted", "confidence", "seen"):
        ours, theirs = other[name].isel(method=1), one[name].isel(method=1, target=some)
        (xr.testing.assert_allclose if ours.dtype.kind == "f" else xr.testing.assert_identical)(ours, theirs)
    assert other["class"].values.tolist() == ["blue", "red"]
    assert set(other.map_class.values) == {"blue", "red"}  # real images too


def test_a_cue_of_the_training_images_and_who_shows_it():
    """Nearly all red training pictures are on light; one method draws light backgrounds, the other dark ones."""
    methods = {"light": real_pictures(1), "dark": real_pictures(0)}
    found = scored(methods, biased=1.0)
    assert found.cue.values.tolist() == ["background: light", "", ""]
    assert found.cue_shown.values.tolist() == [0.5, 1, 0]
    assert found.attrs["cue_chance"] == 0.5
    assert "skipped_cue" not in found.attrs
    plain = scored(methods, biased=0.5)
    assert plain.cue.values.tolist() == [""] * 3
    assert np.isnan(plain.cue_shown).all()
    assert plain.attrs["skipped_cue"] == "no class has a cue in the training images"
    assert "cue_chance" not in plain.attrs


def test_what_is_not_given_is_left_out_with_a_reason():
    found = scored(by=Judges(classifier()), biased=1.0)
    assert found.attrs | {"few_own": 0} == {
        "samples": 60,
        "few_own": 0,
        "skipped_zero_shot": "no CLIP was given",
        "skipped_fid_second": "no second classifier was given",
        "skipped_cue": "no CLIP was given",
    }
    assert found.cue.values.tolist() == ["background: light", "", ""]
    for name in ("zero_shot_1", "zero_shot_5", "fid_second", "cue_shown"):
        assert np.isnan(found[name]).all()
    assert set(found.seen.values.ravel()) == set(found.clip_predicted.values.ravel()) == {""}
    assert found.accuracy.values[:2].tolist() == [1, 1]


def test_a_clip_that_lacks_a_class():
    by = judges()
    found = scored(
        by=dataclasses.replace(by, zeroshot=by.zeroshot.isel({"class": by.zeroshot.value.values != "green"}))
    )
    assert found.attrs["skipped_zero_shot"] == "the CLIP's zero-shot rows of colour lack green"
    assert np.isnan(found.zero_shot_1).all()
    assert set(found.seen.sel({"method": "copies", "attribute": "background"}).values.ravel()) == {*BACKGROUNDS}


def test_the_top_five_of_more_than_five_values():
    """Rows for colours that no picture has; the true one is first among 8 in copies, and anywhere in noise."""
    by = judges()
    rng = np.random.default_rng(1)
    more = by.zeroshot.isel({"class": [0] * 5}).assign(
        classifier=(("class", "embed"), rng.standard_normal((5, 24)).astype(np.float32)),
        attribute=("class", ["colour"] * 5),
        value=("class", [f"colour {i}" for i in range(5)]),
    )
    wide = xr.concat([more, by.zeroshot], "class")
    found = scored({"noise": noise(5, 6)}, by=dataclasses.replace(by, zeroshot=wide)).sel({"method": "noise"})
    asked = wide.isel({"class": wide.attribute.values == "colour"})
    hits: dict[int, list[bool]] = {1: [], 5: []}
    for target, name in enumerate(("red", "blue", "green")):
        for image in noise(5, 6)[target]:
            embedding = encode_images(by.clip, image[None]).numpy()[0]
            order = asked.value.values[np.argsort(-(asked.classifier.values @ embedding))].tolist()
            for k in hits:
                hits[k].append(name in order[:k])
    assert float(found.zero_shot_1) == pytest.approx(np.mean(hits[1]))
    assert float(found.zero_shot_5) == pytest.approx(np.mean(hits[5]))
    assert np.mean(hits[5]) > np.mean(hits[1])


def test_zero_shot_of_real_images_is_of_those_classified_rightly():
    """Blue pictures are called red by half a classifier: they are right no more, and CLIP is not asked about them."""
    blind = classifier()
    blind.model[4].weight[2] = 0
    by = judges(classifier=blind)
    by.zeroshot["classifier"].values[by.zeroshot.value.values == "blue"] *= -1
    found = scored(by=by).sel({"method": ["real", "copies"]})
    assert found.accuracy.values == pytest.approx([2 / 3, 2 / 3])
    assert found.zero_shot_1.values == pytest.approx([1, 2 / 3])


def test_planted_activations_of_inner_neurons():
    strong = np.zeros((5, 3, SIDE, SIDE, 3), np.uint8)
    strong[..., 0] = 255
    methods = {"strong": strong, "weak": np.zeros_like(strong), "same": np.tile(control("1:0")[:4], (5, 1, 1, 1, 1))}
    found = scored({name: each[:, :3] for name, each in methods.items()})
    for name, expected in (("strong", 1), ("weak", 0)):
        assert found.sel({"method": name}).auc.values[3:].tolist() == [expected] * 2
        assert (found.sel({"method": name}).mad[3:] > 0).values.tolist() == [bool(expected)] * 2
    assert 0 < float(found.sel({"method": "same"}).auc_mean) < 1
    silent = scored(controls=lambda _: np.zeros((5, SIDE, SIDE, 3), np.uint8))
    assert silent.auc.values[1, 3] == 1
    assert np.isnan(
        [silent.mad.values[1, 3], silent.mad_mean.values[1]]
    ).all()  # control images all alike: no deviation
    nothing = scored(controls=lambda _: np.zeros((0, SIDE, SIDE, 3), np.uint8))
    assert np.isnan(nothing.auc).all()


def test_the_map_shows_all_class_pictures_among_some_real_ones():
    found = scored({"copies": real_pictures(0), "noise": noise(5, 3)}, shown=21)
    kinds, counts = np.unique(found.map_kind, return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) == {"real": 21, "copies": 9, "noise": 9}
    assert np.unique(found.map_class, return_counts=True)[1].tolist() == [13, 13, 13]
    again = scored({"copies": real_pictures(0), "noise": noise(5, 3)}, shown=21)
    for axis in ("map_x", "map_y"):
        np.testing.assert_array_equal(found[axis], again[axis])
    # a copy's neighbour is a real picture of its class
    place = np.stack([found.map_x, found.map_y], 1)
    real, copies = (found.map_kind.values == kind for kind in ("real", "copies"))
    apart = np.square(place[copies][:, None] - place[real]).sum(2)
    assert (found.map_class.values[real][apart.argmin(1)] == found.map_class.values[copies]).all()


def test_maps_keep_clusters_apart_and_few_points_as_they_are():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 20)
    features = (10 * np.eye(3, 8)[truth] + rng.standard_normal((60, 8))).astype(np.float32)
    place = embedding_map(features, seed=0)
    assert (place.dtype, place.shape) == (np.float32, (60, 2))
    apart = np.square(place[:, None] - place).sum(2) + np.diag(np.full(60, np.inf))
    assert (truth[apart.argmin(1)] == truth).all()
    np.testing.assert_array_equal(place, embedding_map(features, seed=0))
    # the principal components of a plane are the plane
    flat = rng.standard_normal((9, 2)) @ np.linalg.qr(rng.standard_normal((8, 2)))[0].T
    distances = [np.square(each[:, None] - each).sum(2) for each in (flat, embedding_map(flat, seed=0))]
    np.testing.assert_allclose(*distances, atol=1e-5)
    for alike in (np.ones((20, 4)), np.ones((3, 4)), np.ones((1, 1))):
        assert not embedding_map(alike, seed=0).any()
    assert np.isfinite(embedding_map(rng.standard_normal((20, 1)), seed=0)).all()


def test_real_images_are_drawn_evenly_and_by_seed():
    seen = []

    class Noting(Judges):
        def look(self, pixels, batch):
            seen.append(pixels)
            return super().look(pixels, batch)

    by, images = Noting(classifier()), scenes(20)
    drawn = [by.draw(images, [2, 0], 15, seed=seed, batch=4) for seed in (0, 0, 1)]
    assert drawn[0].truth.tolist() == [2] * 7 + [0] * 7
    assert drawn[0].place.tolist() == [*range(7)] * 2
    label = {
        pixels.tobytes(): int(colour) for pixels, colour in zip(images.pixels.values, images.label[:, 1], strict=True)
    }
    assert [label[each.tobytes()] for each in seen[0]] == drawn[0].truth.tolist()
    assert len({each.tobytes() for each in seen[0]}) == 14
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()
    # a class with fewer gives what it has
    short = images.isel(image=np.flatnonzero((images.label[:, 1] != 0) | (np.arange(60) < 30)))
    had = int((short.label[:, 1] == 0).sum())
    assert by.draw(short, [0, 1, 2], 60, seed=0, batch=64).truth.tolist() == [0] * had + [1] * 20 + [2] * 20


def test_pictures_of_the_model_s_size_are_not_preprocessed_and_others_are():
    def crop(pixels):
        return torch.full((len(pixels), 3, SIDE, SIDE), 0.25)

    cropping = dataclasses.replace(classifier(), preprocess=crop)
    (found,) = through(cropping, noise(3), 2, lambda images: (images,))
    np.testing.assert_allclose(found, noise(3).transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    (found,) = through(cropping, np.zeros((3, 9, 9, 3), np.uint8), 2, lambda images: (images,))
    assert (found.shape, set(found.ravel())) == ((3, 3, SIDE, SIDE), {0.25})
    coloured = Classifier(nn.Identity(), crop, (0.5, 0.5, 0.5), (0.1, 0.2, 0.5), None)
    (found,) = through(coloured, np.full((1, 5, 7, 3), 255, np.uint8), 2, lambda images: (images,))
    np.testing.assert_allclose(found[0, :, 0, 0], [5, 2.5, 1], rtol=1e-6)
    with pytest.raises(DataError, match="no image to show"):
        through(cropping, noise(0), 2, lambda images: (images,))


def test_reference_sets():
    good, bad = real_pictures(0)[:3], noise(3, 3)
    by, real = judges(), scenes(20)
    found = reference_scores({"5": good, "strangers 20": bad}, by, real, classes=[0, 2, 1], images=60)
    assert found.condition.values.tolist() == ["5", "strangers 20"]
    assert found["class"].values.tolist() == ["red", "blue", "green"]
    np.testing.assert_array_equal(found.pixels, np.stack([good[:, 0], bad[:, 0]]))
    beside = scored({"good": np.concatenate([good, good[:2]]), "bad": np.concatenate([bad, bad[:2]])}, by=by, real=real)
    for name in ("accuracy", "fid_own", "zero_shot_1", "zero_shot_5"):
        np.testing.assert_allclose(found[name], beside[name][1:], rtol=1e-6)
    assert found.attrs == {"samples": 60, "pictures": 9}
    alone = reference_scores({"5": good}, Judges(classifier()), real, classes=[0, 2, 1], images=60)
    assert alone.attrs == {"samples": 60, "pictures": 9, "skipped_zero_shot": "no CLIP was given"}
    assert np.isnan(alone.zero_shot_1).all()
    with pytest.raises(DataError, match="no condition"):
        reference_scores({}, by, real, classes=[0], images=60)
    with pytest.raises(ShapeError, match=r"condition '10': pixels have shape \(3, 2, 8, 8, 3\); expected \(3, seed"):
        reference_scores({"5": good, "10": good[:, :2]}, by, real, classes=[0, 2, 1], images=60)


def test_the_headline_of_reference_sets_is_of_the_most_references_and_the_most_strangers():
    conditions = ["5", "100", "20", "strangers 5", "strangers 20", "other split"]
    found = xr.Dataset({"fid_own": ("condition", np.arange(6.0))}, {"condition": conditions}, {"pictures": 18})
    assert reference_headline(found).columns() == {
        "measure": "FID of classes by 100 references",
        "value": 1,
        "of": 18,
        "versus": "with 20 strangers among them",
        "versus_value": 4,
        "yardstick": 5,
    }


def test_what_cannot_be_scored():
    clips = judges()
    unnamed, three = classifier(classes=()), {"vital": real_pictures(0)}
    cases: list[tuple[type[OptogramError], str, object]] = [
        (ModelError, "does not name its classes", lambda: Judges(unnamed)),
        (ParamError, "judges: no zero-shot rows", lambda: Judges(classifier(), clip=clips.clip)),
        (ParamError, "judges: no CLIP", lambda: Judges(classifier(), zeroshot=clips.zeroshot)),
        (
            ModelError,
            "a class is logit 2, but the classifier names only 2 classes",
            lambda: scored(three, by=Judges(classifier(("red", "green")))),
        ),
        (
            ModelError,
            "has 3 logits, but names 4 classes",
            lambda: scored(three, by=Judges(classifier((*COLOURS, "white")))),
        ),
        (ParamError, "each once, and none of them called real", lambda: scored({"real": real_pictures(0)})),
        (ParamError, "5 real images for 3 classes", lambda: scored(three, images=5)),
        (DataError, "class 'blue' has 1 real images", lambda: scored(three, real=without("blue"))),
        (
            ParamError,
            "labelled by background, hue",
            lambda: scored(three, real=scenes(20).assign_coords(attribute=["background", "hue"])),
        ),
        (
            ShapeError,
            "zero-shot rows have 23 dimensions, the CLIP's images 24",
            lambda: scored(three, by=dataclasses.replace(clips, zeroshot=clips.zeroshot.isel(embed=slice(23)))),
        ),
        (ParamError, "of target 'reds', which targets/ lacks. Did you mean 'red'", lambda: renamed("reds")),
        (ParamError, "no target is a class", lambda: only(slice(3, None))),
        (ModelError, "no layer '9'", lambda: changed(layer=("target", ["", "", "", "9", "9"]))),
        (
            ShapeError,
            "layer '1' has 6 channels, but the direction 8",
            lambda: changed(direction=(("target", "channel"), np.ones((5, 8), np.float32))),
        ),
    ]
    for error, message, do in cases:
        with pytest.raises(error, match=message):
            do()


def without(colour):
    """Real images with one of the colour left."""
    images = scenes(20)
    own = np.flatnonzero(images.label[:, 1].values == COLOURS.index(colour))
    return images.isel(image=np.setdiff1d(np.arange(60), own[1:]))


def renamed(name):
    made = pictures({"vital": real_pictures(0)})
    names = [name, *made.target.values[1:]]
    return visual_scores(
        targets(), made.assign_coords(target=names), judges(), scenes(20), scenes(20), controls=control
    )


def only(rows):
    made = pictures({"vital": real_pictures(0)}).isel(target=rows)
    return visual_scores(targets(), made, judges(), scenes(20), scenes(20), controls=control)


def changed(**variables):
    made = pictures({"vital": real_pictures(0)})
    return visual_scores(targets().assign(variables), made, judges(), scenes(20), scenes(20), controls=control)
