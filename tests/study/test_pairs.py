"""`optogram study make --counterfactuals`: what the form shows and hides, and which preferences are found."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from optogram.cli.main import app
from optogram.errors import DataError, ParamError
from optogram.store.write import Provenance, write_dataset
from optogram.study.answers import read_answers
from optogram.study.form import QUESTIONS, write_study
from optogram.study.pairs import EXAMPLES, METHODS, make_pairs
from optogram.study.preferences import preferences
from optogram.study.results import write_results

CHROMIUM = shutil.which("chromium")
CONDITIONS = ("counterfactual", "caption swapped", "pixels alone", "another class")
SHAPES = ("circle", "square", "triangle")
HOSTILE = '</script><script>alert("1")</script>'
FIRST, SECOND = METHODS


def images_of(classes=SHAPES, count=60, side=8):
    labels = np.arange(count) % len(classes)
    pixels = np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return xr.Dataset(
        {
            "label": (("image", "attribute"), np.stack([labels, labels[::-1]], 1).astype(np.int16)),
            "value_name": (("attribute", "value"), np.array([classes, ["red"] * len(classes)], dtype=object)),
            "pixels": (("image", "y", "x", "rgb"), pixels),
        },
        {"image": [f"eval/{k:06}" for k in range(count)], "attribute": ["shape", "colour"]},
        {"class_attribute": "shape", "title": "Scenes, split eval"},
    )


def changed_of(images, count=12, low=()):
    """Random pictures of the first images. low: (condition, image) where the target's probability is below .8."""
    names = images.image.values[:count]
    classes = images.value_name.values[0].tolist()
    source = images.label.values[:count, 0].astype(np.int64)
    after = np.full((len(CONDITIONS), count), 0.95)
    after[0, 1] = 0.8  # as high as is asked
    for condition, n in low:
        after[CONDITIONS.index(condition), n] = 0.79
    side = images.sizes["y"]
    pixels = np.random.default_rng(2).integers(0, 256, (len(CONDITIONS), count, side, side, 3), dtype=np.uint8)
    return xr.Dataset(
        {
            "original": (("image", "y", "x", "rgb"), images["pixels"].values[:count]),
            "pixels": (("condition", "image", "y", "x", "rgb"), pixels),
            "source": ("image", source),
            "target": ("image", (source + 1) % len(classes)),
            "class_name": ("class", np.array(classes, dtype=object)),
            "target_after": (("condition", "image"), after),
            "status": ("image", np.array(["done", *["stopped"] * (count - 1)], dtype=object)),
        },
        {"condition": list(CONDITIONS), "image": names},
        {"attribute": "shape", "kind": "classes"},
    )


def study_of(classes=SHAPES, count=12, low=(), **options):
    images = images_of(classes)
    return make_pairs(changed_of(images, count, low), images, studied="resnet", **options)


def payload(text):
    return json.loads(base64.b64decode(re.search(r'<script type="text/plain" id="data">(.*?)</script>', text)[1]))


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.fixture(scope="module")
def study():
    return study_of(participants=20, questions=8)


# What the form shows and hides


def test_nothing_in_the_form_says_whose_a_picture_is(study, tmp_path):
    write_study(tmp_path / "study.html", study)
    text = (tmp_path / "study.html").read_text()
    told = payload(text)
    uris = [told["images"].pop(opaque) for opaque in list(told["images"])]
    for word in (*CONDITIONS, "resnet", "eval/", "stopped"):
        assert word not in json.dumps(told).lower(), word
    for word in (*CONDITIONS[1:], "resnet", "eval/", "stopped"):  # A and B are both called counterfactuals
        assert word not in text.lower(), word
    assert set(told) == {"version", "participants", "words", "originals", "references", "images", "id"}
    for uri in uris:
        assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).info == {}
    assert not re.search(r"""(src|href|action)\s*=\s*["'](https?:|//)""", text)
    assert "default-src 'none'" in text


def test_pictures_are_those_of_the_artifacts(study):
    images, changed = images_of(), changed_of(images_of())
    seen = set()
    for item, pictures in study.form["participants"][0]["pairs"]:
        told = [study.key["images"][opaque] for opaque in pictures]
        assert {one["method"] for one in told} == set(METHODS)
        [target] = {one["target"] for one in told}
        name, source, shown = re.fullmatch(r"(\S+), (\w+) to (\w+)", target).groups()
        one = changed.sel(image=name)
        assert (SHAPES[one["source"].item()], SHAPES[one["target"].item()]) == (source, shown)
        assert study.form["words"][item] == shown
        for opaque, method in zip(pictures, [one["method"] for one in told], strict=True):
            pixels = one["pixels"].sel(condition=method).values
            np.testing.assert_array_equal(decoded(study.form["images"][opaque]), pixels)
        np.testing.assert_array_equal(decoded(study.form["images"][study.form["originals"][item]]), one["original"])
        examples = [decoded(study.form["images"][opaque]) for opaque in study.form["references"][item]]
        found = [np.flatnonzero((images["pixels"].values == each).all((1, 2, 3))) for each in examples]
        numbers = [int(each.item()) for each in found]
        assert len(set(numbers)) == EXAMPLES
        assert {SHAPES[images.label.values[n, 0]] for n in numbers} == {shown}
        assert min(numbers) >= 12, "no image that was changed"
        seen |= {opaque for opaque in (*pictures, study.form["originals"][item], *study.form["references"][item])}
    assert seen == set(study.form["images"])
    assert len(seen) == 8 * (3 + EXAMPLES)


def test_only_pairs_that_both_methods_reached_are_asked_about():
    low = [(FIRST, 0), (SECOND, 3), ("caption swapped", 5), ("another class", 6)]

    def shown(**options):
        return {int(p["target"][5:11]) for p in study_of(low=low, questions=99, **options).key["images"].values()}

    assert shown() == set(range(12)) - {0, 3}
    assert shown(methods=(FIRST, "caption swapped")) == set(range(12)) - {0, 5}
    assert len({p["target"] for p in study_of(low=low, questions=4).key["images"].values()}) == 4


def test_order_and_number_do_not_tell_the_method():
    study = study_of(participants=300)
    first, places = 0, Counter()
    for plan in study.form["participants"]:
        for place, (item, (a, _)) in enumerate(plan["pairs"]):
            first += study.key["images"][a]["method"] == FIRST
            places[item, place] += 1
    assert abs(first - 1500) < 5 * 3000**0.5 / 2
    assert all(abs(places[f"p{n}", k] - 30) < 5 * 30**0.5 for n in range(1, 11) for k in range(10))
    lower = 0
    for seed in range(20):
        images = study_of(participants=1, seed=seed).key["images"]
        number = {(p["target"], p["method"]): int(opaque[1:]) for opaque, p in images.items()}
        lower += sum(number[target, FIRST] < number[target, SECOND] for target, _ in number) / 2
    assert abs(lower - 100) < 5 * 200**0.5 / 2, "of 200 pairs"


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / folder).mkdir()
        write_study(tmp_path / folder / "study.html", study_of(participants=3, seed=seed))
    for name in ("study.html", "study.key.json"):
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b != c
    few, many = (study_of(participants=n).form["participants"] for n in (3, 5))
    assert many[:3] == few


def test_forms_that_cannot_be_made():
    images = images_of()
    changed = changed_of(images)
    with pytest.raises(ParamError, match=r"'pixel alone' is no condition of counterfactuals/resnet.*Did you mean 'pix"):
        study_of(methods=("counterfactual", "pixel alone"))
    with pytest.raises(ParamError, match=r"'maco' is no condition.* There are: counterfactual, caption swapped"):
        study_of(methods=("counterfactual", "maco"))
    for methods in (METHODS[:1], (FIRST, FIRST), CONDITIONS[:3]):
        with pytest.raises(ParamError, match=f"methods: {', '.join(methods)}; expected two different ones"):
            study_of(methods=methods)
    with pytest.raises(ParamError, match="questions = 0, expected 1 or more"):
        study_of(questions=0)
    low = [(FIRST, n) for n in range(6)] + [(SECOND, n) for n in range(6, 11)]
    with pytest.raises(DataError, match=r"of 12 images 1 reach a probability of 0\.8 .* by both 'counterf.*2 or more"):
        study_of(low=low)
    assert len(study_of(low=low[1:]).form["words"]) == 2
    with pytest.raises(DataError, match=r"resnet: there is nothing to ask about, .* skipped: Switched off"):
        make_pairs(xr.Dataset(attrs={"skipped": "Switched off"}), images, studied="resnet")
    with pytest.raises(
        DataError, match=r"split eval: 0 images of the shape 'circle' that were not changed, expected 4"
    ):
        make_pairs(changed, images.isel(image=images.label.values[:, 0] != 0))
    with pytest.raises(DataError, match=r"0 images of the shape 'ring'"):
        make_pairs(changed.assign(class_name=("class", np.array(["ring"] * 3, object))), images)


# What comes of the answers


def simulate(study, folder, people, prefers, seed=0):
    """prefers(draw, question) is the probability that the first method is preferred."""
    folder.mkdir(exist_ok=True)
    (folder / "study.key.json").write_text(json.dumps(study.key))
    images = study.key["images"]
    for number in range(1, people + 1):
        draw = np.random.default_rng([seed, number])
        pairs = {}
        for _, (a, b) in study.form["participants"][number - 1]["pairs"]:
            of = {images[a]["method"]: a, images[b]["method"]: b}
            for question in QUESTIONS:
                chosen = of[FIRST] if draw.random() < prefers(question) else of[SECOND]
                pairs.setdefault(chosen, []).append(question)
        answers = {"optogram_study": 1, "form": study.key["form"], "participant": number, "pairs": pairs}
        (folder / f"answers-{study.key['form']}-{number}.json").write_text(json.dumps(answers))
    return folder


def read(folder):
    return read_answers([folder], folder / "study.key.json")


def test_a_planted_preference_is_found(study, tmp_path):
    planted = {"realistic": 0.85, "close": 0.15, "class": 0.5, "better": 0.75}
    found = preferences(read(simulate(study, tmp_path, 20, planted.get)))
    assert (found.methods, found.participants, found.shown, len(found.targets)) == (METHODS, 20, 160, 8)
    by = {one.question: one for one in found.preferences}
    assert list(by) == list(QUESTIONS)
    for question, one in by.items():
        assert one.answered == 160
        assert one.share.low < planted[question] < one.share.high
        assert one.over.low < planted[question] < one.over.high
    for question in ("realistic", "close", "better"):
        assert by[question].p < 1e-4
        assert (by[question].over.low > 0.5) == (planted[question] > 0.5)
        assert by[question].over.low > 0.5 or by[question].over.high < 0.5
    assert by["class"].p > 0.05
    assert by["class"].over.low < 0.5 < by["class"].over.high
    np.testing.assert_allclose(found.by_target.mean(0), [by[q].share.value for q in QUESTIONS])


def test_random_answers_prefer_none(tmp_path):
    """Forty studies without a preference: tests at 5 % reject about as often, and intervals miss a half as rarely."""
    small = study_of(participants=12, questions=6)
    rejected = missed = 0
    for trial in range(40):
        found = preferences(read(simulate(small, tmp_path / str(trial), 12, lambda _: 0.5, seed=trial)), draws=200)
        rejected += sum(one.p < 0.05 for one in found.preferences)
        missed += sum(not one.over.low <= 0.5 <= one.over.high for one in found.preferences)
    assert rejected <= 16, "of 160: twice as many as there should be"
    assert missed <= 16


def test_answers_that_people_share_are_not_taken_for_many(study, tmp_path):
    """All see the same in a pair, and pairs differ: the binomial test is fooled, the interval over pairs is not."""
    folder = simulate(study, tmp_path, 20, lambda _: 0.5)
    targets = sorted({p["target"] for p in study.key["images"].values()})
    for path in folder.glob("answers-*.json"):
        answers = json.loads(path.read_text())
        answers["pairs"] = {
            opaque: ["realistic"]
            for opaque, picture in study.key["images"].items()
            if (picture["method"] == FIRST) == (targets.index(picture["target"]) < 5)
        }
        path.write_text(json.dumps(answers))
    found = preferences(read(folder)).preferences[0]
    assert (found.preferred, found.answered, found.agreement) == (100, 160, 1)
    assert found.p < 0.01
    assert found.over.low < 0.5 < found.over.high


def literal_wilson(k, n):
    """Wilson (1927): the shares p with |k/n - p| = z sqrt(p (1 - p) / n), roots of a quadratic."""
    z = stats.norm.ppf(0.975)
    a, b, c = 1 + z**2 / n, -(2 * k / n + z**2 / n), (k / n) ** 2
    return sorted(np.roots([a, b, c]).real)


def test_share_and_test_by_hand_and_what_was_left_out(study, tmp_path):
    """One person prefers the first method in 6 of 8 pairs, and leaves the other questions out."""
    folder = simulate(study, tmp_path, 1, lambda _: 1)
    [path] = folder.glob("answers-*.json")
    answers = json.loads(path.read_text())
    pairs = [sorted(pair, key=lambda i: study.key["images"][i]["method"]) for _, pair in plan_of(study)]
    answers["pairs"] = {pair[n >= 6]: ["realistic"] for n, pair in enumerate(pairs)}
    path.write_text(json.dumps(answers))
    found = preferences(read(folder))
    first, *rest = found.preferences
    assert (first.preferred, first.answered, first.share.value) == (6, 8, 0.75)
    np.testing.assert_allclose([first.share.low, first.share.high], literal_wilson(6, 8))
    np.testing.assert_allclose(first.p, 2 * (28 + 8 + 1) / 256)
    assert np.isnan(first.over.low), "one person says nothing of others"
    assert all(one.answered == 0 and one.p == 1 and np.isnan(one.share.value) for one in rest)
    assert np.isnan(found.by_target[:, 1:]).all()


def plan_of(study, number=1):
    return study.form["participants"][number - 1]["pairs"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a, pair: a["pairs"].update({pair[0]: ["nicer"]}), r"pairs\.i\d+\.0: Input should be 'realistic'"),
        (lambda a, pair: a["pairs"].update(i999=["class"]), r"pairs\.i999: participant 3 was not shown"),
        (
            lambda a, pair: a["pairs"].update({pair[0]: ["close"], pair[1]: ["close"]}),
            r"pairs\.i\d+: 'close' was answered twice of one pair",
        ),
        (lambda a, pair: a["pairs"].update({pair[0]: ["close"] * 2}), "pairs.*answered twice of one pair"),
    ],
)
def test_bad_answers_name_the_file_and_the_key(study, tmp_path, change, says):
    folder = simulate(study, tmp_path, 4, lambda _: 0.5)
    [path] = folder.glob("answers-*-3.json")
    answers = json.loads(path.read_text())
    change(answers, plan_of(study, 3)[0][1])
    path.write_text(json.dumps(answers))
    with pytest.raises(DataError, match=f"{re.escape(path.name)}: {says}"):
        read(folder)


# The pages and the commands


def test_class_names_are_escaped_in_both_pages(tmp_path):
    study = study_of((HOSTILE, "a&b", "snow_plough"), participants=3)
    write_study(tmp_path / "study.html", study)
    text = (tmp_path / "study.html").read_text()
    assert "<script>alert" not in text
    assert set(payload(text)["words"].values()) == {HOSTILE, "a&b", "snow plough"}
    answered = read(simulate(study, tmp_path / "answers", 3, lambda _: 0.9))
    write_results(tmp_path / "out.html", answered, [], preferences(answered))
    text = (tmp_path / "out.html").read_text()
    assert "<script>alert" not in text
    assert "Which counterfactuals people prefer" in text
    assert html.escape(HOSTILE, quote=False).split("(")[0] in text, "it is told, as text"


def test_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = images_of()
    written = {"images/eval": images, "counterfactuals/resnet": changed_of(images, low=[("caption swapped", 2)])}
    for name, dataset in written.items():
        write_dataset(tmp_path / "artifacts" / name, dataset, Provenance("stage", name))
    skipped = xr.Dataset(attrs={"skipped": "Switched off."})
    write_dataset(tmp_path / "artifacts/counterfactuals/none", skipped, Provenance("stage", "none"))
    call = CliRunner().invoke
    ask = ["study", "make", "resnet", "--counterfactuals", "--participants", "5", "--questions", "20"]
    made = call(app, [*ask, "--methods", "counterfactual, caption swapped"])
    assert made.exit_code == 0, made.output
    assert "11 pairs of 'counterfactual' and 'caption swapped'" in " ".join(made.output.split())
    made = call(app, [*ask, "--seed", "3", "--force"])
    assert made.exit_code == 0, made.output
    key = json.loads((tmp_path / "study.key.json").read_text())
    assert (key["methods"], key["studied"], key["seed"]) == (list(METHODS), "resnet", 3)
    assert all(key["inputs"])
    form = payload((tmp_path / "study.html").read_text())
    simulate(type("Study", (), {"key": key, "form": form}), tmp_path / "answers", 5, lambda _: 0.9)
    done = call(app, ["study", "analyse", "answers", "--key", "answers/study.key.json", "--html", "out.html"])
    assert done.exit_code == 0, done.output
    assert "more realistic" in done.output
    assert "12 pairs of 'counterfactual' and 'pixels alone'" in " ".join(done.output.split())
    assert "By pair" in (tmp_path / "out.html").read_text()
    gone = call(app, ["study", "make", "none", "--counterfactuals", "--out", "none.html"])
    assert isinstance(gone.exception, DataError)
    assert "counterfactuals/none: there is nothing to ask about" in str(gone.exception)


DRIVER = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
const at = (id) => document.getElementById(id);
let saved = null;
URL.createObjectURL = (blob) => { saved = blob; return "#saved"; };
addEventListener("load", async () => {
  at("participant").value = 3;
  at("consent").checked = true;
  at("next").click();
  const alts = [...document.querySelectorAll("#question img")].map((img) => img.alt);
  let turns = 0, left = "", kept = false;
  while (at("end").hidden && turns++ < 100) {
    const asked = [...document.querySelectorAll("#question:not([hidden]) .asked")];
    const press = (row, k) => asked[row].querySelectorAll("input")[k].click();
    if (turns === 2) { press(0, 1); at("next").click(); left = at("alert").textContent; }
    else asked.forEach((_, row) => { press(row, 0); press(row, (turns + row) % 2); });
    at("next").click();
    if (turns === 3) {
      at("back").click();
      const again = [...document.querySelectorAll("#question .asked")];
      kept = again.every((row, k) => row.querySelectorAll("input")[(3 + k) % 2].checked);
      at("next").click();
    }
  }
  at("save").click();
  document.title = JSON.stringify({ alts, left, turns, kept, errors, answers: await saved.text() });
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_form_is_answered_in_a_browser(study, tmp_path):
    """What a person would do, with a change of mind and a pair left out; the file that is saved is then read."""
    write_study(tmp_path / "study.html", study)
    text = (tmp_path / "study.html").read_text()
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
    examples = [f"Example {k}" for k in range(1, EXAMPLES + 1)]
    assert found["alts"] == [*examples, "The original", "Counterfactual A", "Counterfactual B"]
    assert found["left"].startswith("3 questions have no answer yet")
    assert found["turns"] == 8 + 1
    assert found["kept"]
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "3.json").write_text(found["answers"])
    [answers] = read_answers([tmp_path / "answers"], tmp_path / "study.key.json").answers
    expected = {}
    for turn, (_, pictures) in enumerate(plan_of(study, 3), 1):
        for row, question in enumerate(QUESTIONS):
            if turn != 2 or row == 0:
                expected.setdefault(pictures[1 if turn == 2 else (turn + row) % 2], set()).add(question)
    assert {opaque: set(questions) for opaque, questions in answers.pairs.items()} == expected
