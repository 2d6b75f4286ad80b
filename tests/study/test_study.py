"""`optogram study`: what the form shows and hides, who sees what, and what comes of the answers."""

import base64
import html
import io
import itertools
import json
import re
import shutil
import subprocess
import zlib
from collections import Counter

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from optogram.cli.main import app
from optogram.errors import ArtifactError, DataError, ParamError
from optogram.models.loading.clip_folders import build_clip, save_clip
from optogram.store.write import Provenance, write_dataset
from optogram.study.analysis import (
    analyse,
    bootstrap_means,
    clip_encoder,
    estimate,
    krippendorff_alpha,
    normalised,
    spelt_alike,
)
from optogram.study.answers import read_answers
from optogram.study.form import make_study, write_study
from optogram.study.results import write_results

CHROMIUM = shutil.which("chromium")
METHODS = ("vital", "fourier", "maco", "deepinversion", "pii")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
HOSTILE = '</script><script>alert("1")</script>'


def targets_of(classes=SHAPES, neurons=4, side=8, shown=3):
    """Classes, neurons (the last of which has one reference image fewer), and a concept that no form shows."""
    names = [*classes, *(f"layer4:{k}" for k in range(neurons)), "circle concept 0"]
    kinds = ["class"] * len(classes) + ["neuron"] * neurons + ["concept"]
    reference = np.array([[f"{name}-{k}" for k in range(5)] for name in names], dtype=object)
    if neurons:
        reference[-2, shown - 1 :] = ""
    pixels = np.random.default_rng(99).integers(0, 256, (len(names), shown, side, side, 3), dtype=np.uint8)
    return xr.Dataset(
        {
            "kind": ("target", kinds),
            "reference": (("target", "reference"), reference),
            "pixels": (("target", "shown", "y", "x", "rgb"), pixels),
        },
        {"target": names},
        {"digest": "d0"},
    )


def drawings_of(targets, methods, undefined=(), side=8, seeds=(0, 1, 2)):
    """Drawings of random pixels. undefined: pairs (method, kind) that are not defined."""
    names, kinds = targets.target.values.tolist(), targets.kind.values.tolist()
    shape = (len(names), len(methods), len(seeds))
    status = np.full(shape, "done", dtype=object)
    for (t, kind), (m, method) in itertools.product(enumerate(kinds), enumerate(methods)):
        if (method, kind) in undefined:
            status[t, m] = "not defined: it draws classes only"
    pixels = np.random.default_rng(len(methods)).integers(0, 256, (*shape, side, side, 3), dtype=np.uint8)
    return xr.Dataset(
        {
            "status": (("target", "method", "seed"), status),
            "pixels": (("target", "method", "seed", "y", "x", "rgb"), pixels),
        },
        {"target": names, "method": list(methods), "seed": list(seeds)},
    )


def study_of(classes=SHAPES, neurons=4, **options):
    targets = targets_of(classes, neurons)
    drawings = [
        drawings_of(targets, METHODS[:1]),
        drawings_of(targets, METHODS[1:], undefined={("deepinversion", "neuron")}),
    ]
    return make_study(targets, drawings, **options)


def page_of(study, folder, name="study.html"):
    write_study(folder / name, study)
    return (folder / name).read_text()


def payload(text):
    return json.loads(base64.b64decode(re.search(r'<script type="text/plain" id="data">(.*?)</script>', text)[1]))


@pytest.fixture(scope="module")
def study():
    return study_of(participants=12, questions=4)


# What the form shows and hides


def test_nothing_in_the_form_says_which_method_drew_a_picture(study, tmp_path):
    text = page_of(study, tmp_path)
    text += json.dumps(payload(text))
    uris = set(re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text))
    for uri in uris:
        text = text.replace(uri, "")
        chunks = chunks_of(base64.b64decode(uri))
        assert [name for name, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"], "no text, no time, no profile"
    for word in (*METHODS, "layer4", "resnet", "not defined", "diverged"):
        assert word not in text.lower(), word
    assert len(uris) == len(study.form["images"])


def chunks_of(png):
    """A literal reader of PNG: names and contents of its chunks."""
    at, found = 8, []
    while at < len(png):
        size = int.from_bytes(png[at : at + 4])
        name, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert zlib.crc32(name + body) == int.from_bytes(png[at + 8 + size : at + 12 + size])
        found.append((name, body))
        at += 12 + size
    return found


def test_order_and_number_of_a_picture_do_not_tell_its_method():
    """Over many participants each method stands at each place equally often; numbers are spread likewise."""
    study = study_of(participants=300, questions=6)
    at = {m: Counter() for m in METHODS}
    for plan in study.form["participants"]:
        for _, pictures in plan["word"]:
            for place, opaque in enumerate(pictures):
                at[study.key["images"][opaque]["method"]][place] += 1
    expected = 300 * 6 / 5
    assert all(abs(at[m][place] - expected) < 5 * expected**0.5 for m in METHODS for place in range(5))
    numbers = {m: [int(i[1:]) for i, p in study.key["images"].items() if p["method"] == m] for m in METHODS}
    means = [np.mean(each) for each in numbers.values()]
    assert max(means) - min(means) < len(study.form["images"]) / 3


def test_the_form_asks_nothing_of_any_network(study, tmp_path):
    text = page_of(study, tmp_path)
    assert not re.search(r"""(src|href|action)\s*=\s*["'](https?:|//)""", text)
    assert not re.search(r"url\((?!data:|#)|fetch\(|XMLHttpRequest|sendBeacon|WebSocket|@import", text)
    assert "default-src 'none'" in text
    assert "https://" not in text


def test_words_of_what_is_named_are_nowhere_if_there_are_enough_classes(tmp_path):
    classes = [f"word{k}x" for k in range(9)]
    study = study_of(classes, participants=3, questions=4)
    text = page_of(study, tmp_path)
    named = {study.key["images"][i]["target"] for shown in study.key["shown"] for i in shown["name"]}
    assert len(named) == 4
    assert not [word for word in classes if word in text], "the page's source gives no word away"
    told = json.dumps(payload(text))
    assert sorted(study.form["words"].values()) == sorted(word for word in classes if word in told)
    assert not [word for word in named if word in told]


def test_with_few_classes_all_are_named_first_and_rated_later(study):
    assert len({study.key["images"][i]["target"] for i in study.key["shown"][0]["name"]}) == 4
    both = study_of(participants=2, questions=10).key["shown"][0]
    assert (len(both["name"]), len(both["word"]), len(both["references"])) == (6, 6 * 5, 4 * 4)


def test_pictures_are_the_artifacts_own_pixels_with_the_same_seed_for_all_methods():
    targets = targets_of()
    drawings = [drawings_of(targets, METHODS[:2]), drawings_of(targets, METHODS[2:])]
    study = make_study(targets, drawings, participants=1)
    seeds = {}
    for opaque, picture in study.key["images"].items():
        [drawn] = [d for d in drawings if picture["method"] in d.method]
        at = {name: picture[name] for name in ("target", "method", "seed")}
        np.testing.assert_array_equal(decoded(study.form["images"][opaque]), drawn.pixels.sel(at).values)
        seeds.setdefault(picture["target"], set()).add(picture["seed"])
    assert all(len(each) == 1 for each in seeds.values())
    assert set.union(*seeds.values()) == {0, 1, 2}, "and by lot, not the first"


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_neurons_are_shown_with_the_references_that_there_are(study):
    counts = sorted(len(photos) for photos in study.form["references"].values())
    assert counts == [2, 3, 3, 3], "the last neuron has fewer"
    assert not set(itertools.chain(*study.form["references"].values())) & set(study.key["images"])
    methods = {study.key["images"][i]["method"] for i in study.key["shown"][0]["references"]}
    assert methods == set(METHODS) - {"deepinversion"}


def test_what_diverged_is_shown_and_what_is_not_defined_is_not():
    targets = targets_of(neurons=0)
    drawn = drawings_of(targets, ("vital", "maco"))
    drawn.status[:3, 0] = np.array([["diverged at step 12"], ["not defined: no batch norm"], ["not drawn"]], object)
    key = make_study(targets, [drawn], participants=4).key
    shown = {(p["target"], p["method"]): p["status"] for p in key["images"].values()}
    assert shown["circle", "vital"] == "diverged at step 12"
    assert not {("square", "vital"), ("triangle", "vital")} & set(shown)
    assert ("square", "maco") in shown


def test_class_names_are_escaped(tmp_path):
    study = study_of([HOSTILE, "a&b", "snow_plough"], participants=2)
    text = page_of(study, tmp_path)
    assert "<script>alert" not in text
    assert set(payload(text)["words"].values()) == {HOSTILE, "a&b", "snow plough"}


# Who sees what


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 16), st.integers(1, 8), st.integers(0, 99))
def test_naming_is_a_balanced_square(classes, methods, participants, questions, seed):
    targets = targets_of([f"c{k}" for k in range(classes)], neurons=0, side=2)
    drawn = drawings_of(targets, METHODS[:methods], side=2)
    key = make_study(targets, [drawn], participants=participants, questions=questions, seed=seed).key
    seen = [[(key["images"][i]["target"], key["images"][i]["method"]) for i in s["name"]] for s in key["shown"]]
    everything = Counter(itertools.chain(*seen))
    for one in seen:
        assert len({target for target, _ in one}) == len(one) == min(classes, questions), "each target once"
        even([Counter(m for _, m in one)[method] for method in METHODS[:methods]])
    for target in {t for t, _ in everything}:
        even([everything[target, method] for method in METHODS[:methods]])


def even(counts):
    assert max(counts) - min(counts) <= 1


def test_everyone_rates_the_same_pictures_in_an_order_of_their_own(study):
    for part in ("word", "references"):
        orders = [shown[part] for shown in study.key["shown"]]
        assert len({tuple(sorted(order)) for order in orders}) == 1
        assert len(set(map(tuple, orders))) == 12


def test_a_study_for_more_people_begins_with_the_same_people():
    few, many = (study_of(participants=n).form["participants"] for n in (3, 8))
    assert many[:3] == few


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_study(tmp_path / folder / "study.html", study_of(participants=3))
    for name in ("study.html", "study.key.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert study_of(participants=3, seed=1).form["id"] != study_of(participants=3).form["id"]


def test_forms_that_cannot_be_made():
    targets = targets_of()
    drawn = drawings_of(targets, ("vital", "maco"))
    with pytest.raises(ParamError, match="participants = 0, expected 1 or more"):
        make_study(targets, [drawn], participants=0)
    with pytest.raises(ParamError, match=r"methods: 'mako' is none.*Did you mean 'maco'"):
        make_study(targets, [drawn], methods=["mako"])
    with pytest.raises(DataError, match="'maco' is in two"):
        make_study(targets, [drawn, drawn.sel({"method": ["maco"]})])
    with pytest.raises(DataError, match=r"no drawing of target 'circle' \(1 are missing\)"):
        make_study(targets, [drawn.isel(target=slice(1, None))])
    with pytest.raises(DataError, match="no seed in common"):
        make_study(targets, [drawn, drawings_of(targets, ("pii",), seeds=(7,))])
    nothing = drawings_of(targets, ("pii",), undefined={("pii", "class"), ("pii", "neuron")})
    with pytest.raises(DataError, match="nothing to show: no class and no neuron of resnet"):
        make_study(targets, [nothing], studied="resnet")
    with pytest.raises(DataError, match="no drawings"):
        make_study(targets, [])


def test_a_form_or_key_that_is_there_is_not_written_over(study, tmp_path):
    with pytest.raises(ArtifactError, match=r"expected one that ends in \.html"):
        write_study(tmp_path / "study.txt", study)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_study(tmp_path / "no" / "study.html", study)
    (tmp_path / "study.key.json").write_text("old")
    with pytest.raises(ArtifactError, match=r"study\.key\.json exists already"):
        write_study(tmp_path / "study.html", study)
    assert [path.name for path in tmp_path.iterdir()] == ["study.key.json"], "no half of the two"
    key = write_study(tmp_path / "study.html", study, force=True)
    assert json.loads(key.read_text())["form"] == study.form["id"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.html", "study.key.json"]


# What comes of the answers


def simulate(study, folder, people, *, rate, say=lambda draw, method, target: target, seed=0):
    """Answers of `people` participants: rate(draw, method) gives a score before rounding, say(…) a word."""
    folder.mkdir(exist_ok=True)
    (folder / "study.key.json").write_text(json.dumps(study.key))
    images = study.key["images"]
    for number in range(1, people + 1):
        draw = np.random.default_rng([seed, number])
        bias = draw.normal(0, 0.4)
        answers = {"optogram_study": 1, "form": study.key["form"], "participant": number}
        answers["about"] = {"age": "25-34"} if number % 2 else {}
        shown = study.key["shown"][number - 1]
        for part in ("word", "references"):
            scores = {i: rate(draw, images[i]["method"]) + bias for i in shown[part]}
            answers[part] = {i: int(np.clip(round(score), 1, 5)) for i, score in scores.items()}
        answers["name"] = {i: say(draw, images[i]["method"], images[i]["target"]) for i in shown["name"]}
        (folder / f"answers-{study.key['form']}-{number}.json").write_text(json.dumps(answers))
    return folder


def read(folder):
    return read_answers([folder], folder / "study.key.json")


def alike(draw, method):
    return draw.normal(3, 1)


def test_a_planted_preference_is_found(tmp_path):
    """People prefer one method: its differences leave out zero; those of the others hold it, but for one in twenty."""
    study = study_of(participants=40, questions=6)

    def say(draw, method, target):
        return f"A {target.upper()}!" if draw.random() < (0.9 if method == "vital" else 0.2) else "blob"

    def rate(draw, method):
        return draw.normal(4.2 if method == "vital" else 2.4, 0.7)

    parts = {part.name: part for part in analyse(read(simulate(study, tmp_path, 40, rate=rate, say=say)))}
    assert list(parts) == ["name", "word", "references"]
    for part in parts.values():
        assert part.answered == part.shown
        assert part.participants == 40
        best = max(part.scores, key=lambda score: score.mean.value)
        assert best.method == "vital"
        assert best.mean.low <= best.mean.value <= best.mean.high
        apart = {(d.first, d.second): d.mean.low > 0 or d.mean.high < 0 for d in part.differences}
        assert all(found for pair, found in apart.items() if pair[0] == "vital"), part.name
        assert sum(found for pair, found in apart.items() if pair[0] != "vital") <= 1, part.name
        assert all(d.mean.value > 0 for d in part.differences if d.first == "vital")
    assert parts["word"].agreement > 0.3
    exact = {score.method: score.high.value for score in parts["name"].scores}
    assert exact["vital"] > 0.8 > 0.4 > exact["maco"]


def test_no_preference_is_none(study, tmp_path):
    for part in analyse(read(simulate(study, tmp_path, 12, rate=alike))):
        assert all(d.mean.low <= 0 <= d.mean.high for d in part.differences)
        assert not part.agreement > 0.2


@pytest.mark.parametrize(("targets", "spread"), [(8, 0.5), (6, 2), (3, 1)])
def test_intervals_cover_no_difference_as_often_as_they_should(targets, spread):
    """Studies without a preference, whose people and few pictures differ: 95 % intervals miss zero rarely."""
    covered, trials = 0, 200
    lot = np.random.default_rng(5)
    for trial in range(trials):
        of_targets = lot.normal(size=(1, targets, 2)) * spread
        cube = 3 + lot.normal(size=(15, 1, 1)) + of_targets + lot.normal(size=(15, targets, 2))
        found = estimate(cube, draws=400, seed=trial)
        covered += found.low < 0 < found.high
    assert covered >= 0.92 * trials


def test_easy_targets_favour_no_method():
    """A has two of three answers on the easy target, B on the hard one; they are equally good on each."""
    cube = np.full((3, 2, 2), np.nan)
    cube[[0, 1], 0, 0], cube[2, 1, 0] = 1, 0
    cube[0, 0, 1], cube[[1, 2], 1, 1] = 1, 0
    assert estimate(cube).value == 0
    assert estimate(cube[..., [0]]).value == 0.5 == estimate(cube[..., [1]]).value


def test_intervals_stay_on_the_scale():
    cube = np.array([[[5.0], [5.0]], [[5.0], [1.0]]])
    assert (estimate(cube, least=1, most=5).low, estimate(cube, least=1, most=5).high) == (1, 5)


def test_the_bootstrap_draws_people_and_targets(tmp_path):
    """The literal form: repeat the rows and columns that were drawn, and take the mean of what is there."""
    cube = np.random.default_rng(0).normal(size=(4, 3, 2))
    cube[0, 1], cube[2, :, 1] = np.nan, np.nan
    found = bootstrap_means(cube, draws=50, seed=3)
    lot = np.random.default_rng(3)
    people = lot.multinomial(4, [0.25] * 4, size=50)
    targets = lot.multinomial(3, [1 / 3] * 3, size=50)
    for k in range(50):
        again = cube[np.repeat(range(4), people[k])][:, np.repeat(range(3), targets[k])]
        means = []
        for target in range(3):
            there = [[v for v in again[:, target, method] if np.isfinite(v)] for method in range(2)]
            if all(there):
                means.append([sum(each) / len(each) for each in there])
        np.testing.assert_allclose(found[k], np.mean(means, axis=0) if means else [np.nan, np.nan])


def test_intervals_are_as_wide_as_people_and_targets_vary():
    """Where only targets differ, or only people, a mean varies as one of so many of them does."""
    by_target = np.broadcast_to(np.array([1.0, 2, 3, 4, 5])[None, :, None], (50, 5, 1))
    by_person = np.broadcast_to(np.linspace(1, 5, 50)[:, None, None], (50, 5, 1))
    wide, narrow = (bootstrap_means(cube, draws=2000, seed=0).std() for cube in (by_target, by_person))
    np.testing.assert_allclose(wide, np.std([1, 2, 3, 4, 5]) / 5**0.5, rtol=0.05)
    np.testing.assert_allclose(narrow, np.linspace(1, 5, 50).std() / 50**0.5, rtol=0.05)


def test_what_was_left_out_counts_as_such_and_pairs_need_both(study, tmp_path):
    folder = simulate(study, tmp_path, 6, rate=lambda draw, method: 5 if method == "vital" else 1)
    images = study.key["images"]
    for path in folder.glob("answers-*.json"):
        answers = json.loads(path.read_text())
        # the fives of vital are only kept where maco is left out: no pair of the two is left
        by_target = {images[i]["target"] for i in answers["word"]}
        lost = sorted(by_target)[:2]
        answers["word"] = {
            i: score
            for i, score in answers["word"].items()
            if images[i]["method"] != ("maco" if images[i]["target"] in lost else "vital")
        }
        answers["name"] = {i: " " for i in answers["name"]}
        path.write_text(json.dumps(answers))
    name, word, _ = analyse(read(folder))
    assert (name.shown, name.answered, name.participants) == (6 * 4, 0, 0)
    assert all(np.isnan(score.mean.value) for score in name.scores)
    assert word.shown - word.answered == 6 * 4
    pairs = {(d.first, d.second): d.mean for d in word.differences}
    assert np.isnan(pairs["vital", "maco"].value)
    assert pairs["vital", "pii"].value > 3


def test_one_person_has_no_interval(study, tmp_path):
    parts = analyse(read(simulate(study, tmp_path, 1, rate=alike)))
    for part in parts:
        assert all(np.isnan(score.mean.low) and np.isnan(score.mean.high) for score in part.scores)
        assert all(np.isfinite(score.mean.value) for score in part.scores if score.values)
    assert np.isnan(parts[1].agreement)


def literal_alpha(ratings):
    """Krippendorff (2011), from the coincidences of values: every ordered pair of ratings of a unit, one by one."""
    units = [[v for v in unit if np.isfinite(v)] for unit in ratings]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]
    within = sum((a - b) ** 2 / (len(u) - 1) for u in units for a, b in itertools.permutations(u, 2))
    among = sum((a - b) ** 2 for a, b in itertools.permutations(values, 2))
    n = len(values)
    return 1 - (within / n) / (among / (n * (n - 1)))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 6), st.floats(0, 0.7))
def test_agreement_is_krippendorff_s_alpha(seed, units, raters, missing):
    lot = np.random.default_rng(seed)
    ratings = lot.integers(1, 6, (units, raters)).astype(float)
    ratings[lot.random(ratings.shape) < missing] = np.nan
    paired = ratings[np.isfinite(ratings).sum(1) > 1]
    found = krippendorff_alpha(ratings)
    if len(set(paired[np.isfinite(paired)])) < 2:
        assert np.isnan(found)
    else:
        np.testing.assert_allclose(found, literal_alpha(ratings), atol=1e-12)


def test_agreement_of_the_published_example():
    """Krippendorff (2011), section C: four observers, twelve units; interval alpha is 0.849."""
    rows = ["123321412...", "1233224125.3", ".3332341251.".replace("41251", "42251"), "1233244125 1.".replace(" ", "")]
    ratings = np.array([[float("nan") if c == "." else float(c) for c in row] for row in rows]).T
    assert round(krippendorff_alpha(ratings), 3) == 0.849


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("A Circle!", "circle", True),
        ("the  snow-plough", "snow_plough", True),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER C}ircle", "circle", True),
        ("a", "a", True),
        ("circles", "circle", False),
        ("", "circle", False),
        ("?!", "circle", False),
        ("+", "+", True),
        ("?", "+", False),
    ],
)
def test_the_same_word(answer, truth, same):
    assert (normalised(answer) == normalised(truth)) == same
    assert (spelt_alike(answer, truth) == 1) == same


def test_similarity_is_graded():
    values = [spelt_alike(word, "triangle") for word in ("triangle", "triangles", "red triangle", "ring", "???")]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0


def test_an_encoder_scores_by_its_cosine_and_quantiles_are_of_the_answers(study, tmp_path):
    """Angles planted: an answer of k degrees from its class."""

    def encode(texts):
        angles = [np.radians(float(text.split()[0]) if text[0].isdigit() else 0) for text in texts]
        return np.array([[np.cos(a), np.sin(a)] for a in angles])

    folder = simulate(study, tmp_path, 12, rate=alike, say=lambda draw, method, target: str(METHODS.index(method) * 20))
    name = analyse(read(folder), encode=encode)[0]
    for score in name.scores:
        expected = np.cos(np.radians(20 * METHODS.index(score.method)))
        np.testing.assert_allclose([score.mean.value, *score.quantiles], expected)
    assert {score.method: len(score.values) for score in name.scores} == Counter(
        study.key["images"][i]["method"] for shown in study.key["shown"] for i in shown["name"]
    )


def test_a_clip_folder_as_encoder_reads_answers_of_any_length(tmp_path):
    text = {"context_length": 8, "heads": 2, "layers": 1, "vocab_size": 564, "width": 16}
    vision = {"head_width": 8, "image_size": 16, "layers": 1, "patch_size": 8, "width": 16}
    save_clip(build_clip({"embed_dim": 16, "text_cfg": text, "vision_cfg": vision}, seed=0), tmp_path / "clip")
    encode = clip_encoder(tmp_path / "clip")
    found = encode(["ring", "a ring of very many words indeed", "x" * 100, "?!"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cut, fits, other = encode(["ring ring ring ring ring", "ring ring ring", "ring"])
    np.testing.assert_array_equal(cut, fits)
    assert not np.allclose(cut, other)


# Answers that cannot be read


def edited(folder, change, number=3):
    [path] = folder.glob(f"answers-*-{number}.json")
    answers = json.loads(path.read_text())
    change(answers)
    path.write_text(json.dumps(answers))
    return path.name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.update(form="other"), "form: 'other', but .* is the key of form"),
        (lambda a: a.update(participant=13), "participant: 13, expected 1 to 12"),
        (lambda a: a.update(participant=True), "participant: Input should be a valid integer"),
        (lambda a: a.update(participant=1), r"participant 1 has answered in .*-1\.json already"),
        (lambda a: a.update(optogram_study=2), "optogram_study: Input should be 1"),
        (lambda a: a.update(more=1), "more: Extra inputs are not permitted"),
        (lambda a: a.pop("form"), "form: Field required"),
        (lambda a: a["word"].update({next(iter(a["word"])): 6}), r"word\.i\d+: .* less than or equal to 5 \(found 6\)"),
        (lambda a: a["word"].update({next(iter(a["word"])): 0}), r"word\.i\d+: .* greater than or equal to 1"),
        (lambda a: a["word"].update({next(iter(a["word"])): 2.5}), r"word\.i\d+: Input should be a valid integer"),
        (lambda a: a["word"].update(i999=3), r"word\.i999: participant 3 was not shown"),
        (lambda a: a["name"].update({next(iter(a["word"])): "x", "x": "y"}), r"name\..*: participant 3 was not shown"),
        (lambda a: a["name"].update({next(iter(a["name"])): "x" * 101}), r"name\.i\d+: .*at most 100"),
        (lambda a: a["name"].update({next(iter(a["name"])): None}), r"name\.i\d+: Input should be a valid string"),
        (lambda a: a.update(about={"age": "old"}), "about.age: 'old' is none of"),
        (lambda a: a.update(about=[]), "about: "),
    ],
)
def test_bad_answers_name_the_file_and_the_key(study, tmp_path, change, says):
    folder = simulate(study, tmp_path, 4, rate=alike)
    name = edited(folder, change)
    with pytest.raises(DataError, match=f"{re.escape(name)}: {says}"):
        read(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"a": NaN}'])
def test_what_is_no_answers_at_all(study, tmp_path, data):
    folder = simulate(study, tmp_path, 2, rate=alike)
    (folder / "stray.json").write_bytes(data)
    with pytest.raises(DataError, match=r"stray\.json: .*Expected answers"):
        read(folder)
    with pytest.raises(DataError, match=r"stray\.json: .*Expected the key of a study"):
        read_answers([folder], folder / "stray.json")


def test_files_that_are_not_there(study, tmp_path):
    folder = simulate(study, tmp_path, 1, rate=alike)
    with pytest.raises(DataError, match=r"gone\.json cannot be read: No such file"):
        read_answers([folder / "gone.json"], folder / "study.key.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"No answers in .*empty"):
        read_answers([tmp_path / "empty"], folder / "study.key.json")
    [one] = folder.glob("answers-*.json")
    assert len(read_answers([folder, one], folder / "study.key.json").answers) == 1, "named twice, read once"


# The page and the commands


def test_the_page_of_results_escapes_what_people_wrote(study, tmp_path):
    folder = simulate(study, tmp_path, 5, rate=alike, say=lambda *_: "<script>alert(1)</script>")
    answered = read(folder)
    parts = analyse(answered)
    write_results(tmp_path / "out.html", answered, parts)
    text = (tmp_path / "out.html").read_text()
    assert "<script>alert" not in text
    assert "script alert 1 script" in text
    specs = [json.loads(s) for s in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert len(specs) == 3
    bars = specs[1][0]["data"]
    np.testing.assert_allclose(np.sum([bar["x"] for bar in bars], axis=0), 1, atol=1e-4)
    with pytest.raises(ArtifactError, match="exists already"):
        write_results(tmp_path / "out.html", answered, parts)


def test_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    targets = targets_of()
    drawn = {"targets/resnet": targets, "vital/resnet": drawings_of(targets, METHODS[:1])}
    drawn["baselines/resnet"] = drawings_of(targets, METHODS[1:])
    for name, dataset in drawn.items():
        write_dataset(tmp_path / "artifacts" / name, dataset.drop_attrs(), Provenance("stage", name))
    call = CliRunner().invoke
    made = call(app, ["study", "make", "resnet", "--participants", "4", "--methods", "vital, maco"])
    assert made.exit_code == 0, made.output
    key = json.loads((tmp_path / "study.key.json").read_text())
    assert key["methods"] == ["vital", "maco"]
    assert all(key["inputs"])
    assert key["form"] in made.output
    again = call(app, ["study", "make", "resnet", "--participants", "4"])
    assert isinstance(again.exception, ArtifactError)
    form = payload((tmp_path / "study.html").read_text())
    assert form["id"] == key["form"]
    simulate(type("Study", (), {"key": key}), tmp_path / "answers", 4, rate=alike)
    done = call(app, ["study", "analyse", "answers", "--key", "answers/study.key.json", "--html", "out.html"])
    assert done.exit_code == 0, done.output
    assert "vital" in done.output
    assert "Krippendorff" in done.output
    assert (tmp_path / "out.html").stat().st_size > 1e6, "plotly is inside"
    assert isinstance(call(app, ["study", "analyse", "answers", "--html", "out.html"]).exception, ArtifactError)
    assert isinstance(call(app, ["study", "analyse", "none"]).exception, DataError)


DRIVER = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
const at = (id) => document.getElementById(id);
let saved = null;
URL.createObjectURL = (blob) => { saved = blob; return "#saved"; };
addEventListener("load", async () => {
  at("next").click();
  const refused = at("alert").textContent;
  at("participant").value = 3;
  at("consent").checked = true;
  at("next").click();
  let turns = 0, skipped = "";
  while (at("end").hidden && turns++ < 100) {
    const words = at("words");
    if (words) { words.value = "thing <b>" + turns; words.dispatchEvent(new Event("input")); }
    const cards = [...document.querySelectorAll("#question .card")];
    if (turns === 6) { at("next").click(); skipped = at("alert").textContent; }
    else cards.forEach((card, k) => card.querySelectorAll("input")[k % 5].click());
    at("next").click();
  }
  at("save").click();
  const kept = JSON.parse(localStorage.getItem(Object.keys(localStorage)[0]));
  const found = { refused, skipped, turns, errors, kept: kept.step, said: at("saved").textContent };
  document.title = JSON.stringify({ ...found, answers: await saved.text() });
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_form_is_answered_in_a_browser(study, tmp_path):
    """What a person would do, on a narrow screen; the file that is saved is then read and analysed."""
    text = page_of(study, tmp_path)
    (tmp_path / "driven.html").write_text(text.replace("<title>", DRIVER + "<title>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=5000", "--dump-dom"]
    try:
        asked = [CHROMIUM, *options, (tmp_path / "driven.html").as_uri()]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium took too long")
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    assert found["errors"] == []
    assert found["refused"] == "Your participant number is a whole number from 1 to 12."
    assert found["turns"] == 4 + 4 + 4 + 1
    assert found["kept"] == found["turns"]
    assert re.match(r"Images A, B, C, D and E have no rating yet", found["skipped"])
    assert f"answers-{study.key['form']}-3.json" in found["said"]
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "3.json").write_text(found["answers"])
    [answers] = read_answers([tmp_path / "answers"], tmp_path / "study.key.json").answers
    shown = study.key["shown"][2]
    assert answers.name == {i: f"thing <b>{k}" for k, i in enumerate(shown["name"], 1)}
    assert answers.word == {i: k % 5 + 1 for k, i in enumerate(shown["word"]) if not 5 <= k < 10}
    assert answers.references == {i: k % 4 + 1 for k, i in enumerate(shown["references"])}
