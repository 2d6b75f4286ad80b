"""Settings that no run can work with are refused before one begins."""

import re
from pathlib import Path

import pytest

from optogram.errors import ParamError
from optogram.params.crosschecks import missing_files
from optogram.params.profiles import profile_params, profile_text, write_profile
from optogram.pipeline.doctor import findings

ROOT = Path(__file__).parent.parent.parent
GIVEN = "load_clip.models={given: {spec: x}}"
EVIL = [
    *(
        "x; touch ran",
        "$(touch ran)",
        "`touch ran`",
        "a b",
        "a'b",
        'a"b',
        "a\nb",
        "-x",
        "_x",
        "..",
        "../x",
        "a/b",
        "a.b",
    ),
    *(
        "",
        "a|b",
        "a>b",
        "a&b",
        "a*",
        "~",
        "${seed}",
        "a\\b",
        "a\u202eb",
        "a\u00a0b",
        "size",
        "nfiles",
        "x" * 81,
        "a=b",
        "#a",
    ),
]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize(
    "section",
    [
        "train_clip",
        "load_clip",
        "train_classifier",
        "load_classifier",
        "load_generator",
        "train_diffusion",
        "sample",
        "texts",
    ],
)
def test_a_name_that_a_shell_or_a_path_could_misread_is_refused(section, name):
    from optogram.params.root import Params, validated

    values = Params().model_dump()
    if section == "texts":
        values["texts"]["files"] = {name: "a.txt"}
    else:
        like = {"spec": "x"} if section.startswith("load") else next(iter(values[section]["models"].values()), {})
        values[section]["models"][name] = like
    with pytest.raises(ParamError, match="cannot be a name"):
        validated(values, "test")


@pytest.mark.parametrize("name", ["vit_l_14", "ViT-L-14", "größe", "2024", "写真", "x" * 80])
def test_plain_names_of_any_script_are_names(name):
    assert name in profile_params("demo", [f"texts.files.{name}=a.txt"]).texts.names


PRIOR = ("train_diffusion.models={prior: {split: train}}", "sample.models={prior: {}}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["textspan.size=17"], "textspan.size = 17, but train_clip.models.demo.head_width = 16; set it to at most 16"),
        (["textspan.rank=17"], "textspan.rank = 17, but train_clip.models.demo.head_width = 16"),
        (["textspan.rank=3"], "textspan.rank = 3 is below textspan.size = 16; raise rank, or lower size"),
        (["textspan.layers=5"], "textspan.layers = 5, but train_clip.models.demo.layers = 4"),
        (["second_order.layers=[0, 3]"], "second_order.layers names 3, but demo has layers 0 to 3"),
        (
            ["neurons.sizes=[4, 129]"],
            "neurons.sizes and neurons.sparsity = 129, but train_clip.models.demo.embed = 128",
        ),
        (["adversarial.sparsity=200"], "adversarial.sparsity = 200, but train_clip.models.demo.embed = 128"),
        (["train_clip.models.demo.head_width=48"], "width = 128 is no multiple of head_width = 48"),
        (["train_clip.models.demo.text_width=100"], "text_width = 100; expected a multiple of 32"),
        (["train_clip.models.demo.patch=7"], "patch = 7 does not divide the side of a scene, 64"),
        (["texts.words=8"], "texts.words = 8, but textspan.size and neurons.sizes pick up to 32 of them"),
        (["texts.pools=[]"], "texts.pools and texts.files are both empty"),
        (["texts.pools=[class]"], "adversarial.pool = 'descriptions', but texts has the pools ['class']"),
        (["targets.concepts=11"], "targets.concepts = 11 is above targets.concept_rank = 10"),
        (["targets.split.vit=nowhere"], "split 'nowhere' is used"),
        (["npca.split=nowhere"], "split 'nowhere' is used"),
        (["spurious_scores.split=nowhere"], "split 'nowhere' is used"),
        (["spurious_scores.layers={vitt: [blocks.3]}"], "spurious_scores.layers names 'vitt', but classifiers are "),
        (["second_order.splits=[eval, nowhere]"], "split 'nowhere' is used"),
        (["second_order.splits=[eval]"], "second_order.splits = ['eval'], but later stages read reference too"),
        (["contributions.splits=[reference, eval]"], "later stages read biased too; add it"),
        (
            ["rosetta.groups.drawn.layers={gann: [relu8]}"],
            "rosetta.groups.drawn.layers names 'gann', which is not among its members ['resnet', 'vit', 'gan']",
        ),
        (["clips=[demo, demo]"], "clips names 'demo' twice"),
        (["second_order.layers=[1, 1]"], "second_order.layers names 1 twice"),
        (["rosetta_inversion.eyes=nobody"], "rosetta_inversion.eyes = 'nobody', but there are ['demo', "),
        (
            ["rosetta_inversion.eyes=null", "rosetta_inversion.loss=perceptual"],
            "'perceptual' needs rosetta_inversion.eyes",
        ),
        (["visual_scores.clip=nobody"], "visual_scores.clip = 'nobody', but clips has ['demo']"),
        (["photos.path=https://x.org/a.zip"], "is an address, expected a file or folder on this disk"),
        (["texts.files.mine=s3:a.txt"], "begins as an address does. Write ./s3:a.txt"),
        (["classifiers=[a, b]"], "classifiers names 'b'"),
        (["train_gan.models={a: {split: nowhere}}"], "split 'nowhere' is used"),
        (
            ["generate.models={a: {}}"],
            "generate.models names 'a', but train_gan.models and load_generator.models have ['gan']",
        ),
        (
            [*PRIOR, "train_gan.models={prior: {}}", "generate.models={prior: {}}"],
            "'prior' is both in sample.models and in generate.models; names must differ",
        ),
        (
            ["drawn.models={a: {judge: judge, split: train}}"],
            "drawn.models names 'a', but sample.models and generate.models have ['prior', 'gan']",
        ),
        (
            [*PRIOR, "drawn.models={prior: {judge: b, split: train}}"],
            "drawn.models.prior.judge = 'b', but train_judge.models has ['judge']",
        ),
        (
            [*PRIOR, "drawn.models={prior: {judge: judge, clip: b, split: train}}"],
            "drawn.models.prior.clip = 'b', but train_clip.models and",
        ),
        (
            [*PRIOR, "drawn.models={prior: {judge: judge, split: train_biased}}"],
            "drawn.models.prior.split = 'train_biased', but prior is trained on 'train'; name the same",
        ),
        ([*PRIOR, "drawn.models={prior: {judge: judge, split: b}}"], "split 'b' is used"),
        (
            [*PRIOR, "fidelity.models={prior: {classifier: b, split: train}}"],
            "fidelity.models.prior.classifier = 'b', but train_classifier",
        ),
        (["train_judge.models.judge.steps=9"], "train_judge.models.judge.warmup = 100 is above its steps = 9"),
        (
            ["train_gan.models={a: {widths: [8, 4]}}"],
            "a.widths are 2, of images of 8, but the side of a scene is 64",
        ),
        (["train_diffusion.models={a: {split: train, clip: b}}"], "a.clip = 'b', but train_clip.models and load_clip"),
        (["train_diffusion.models={a: {split: nowhere}}"], "split 'nowhere' is used"),
        (
            ["train_diffusion.models={a: {split: train, codec: {channels: 13}}}"],
            "channels = 13, but patches of side 2 have 12",
        ),
        (
            ["train_diffusion.models={a: {split: train, codec: {factor: 24}}}"],
            "is 64, but train_diffusion.models.a needs a multiple of 96",
        ),
        (
            ["train_diffusion.models={a: {split: train, steps: 9}}"],
            "train_diffusion.models.a.warmup = 200 is above its steps = 9",
        ),
        (["train_gan.models={gan: {clip: b}}"], "train_gan.models.gan.clip = 'b', but train_clip.models and load_clip"),
        (
            ["rosetta.groups={a: {models: [resnet], diffusion: prior, times: [5, 5]}}"],
            "rosetta.groups.a.times = [5, 5] names a time twice",
        ),
        (
            ["rosetta.groups={a: {models: [resnet], diffusion: b}}"],
            "rosetta.groups.a.diffusion = 'b', but train_diffusion and load_diffusion have ['prior']",
        ),
        (
            ["disagreement.groups.biased.one=a"],
            "disagreement.groups.biased.one names 'a', but the models are ['demo', ",
        ),
        (
            ["disagreement.groups.biased.others=[demo]"],
            "disagreement.groups.biased.others names 'demo', but the classifiers are ['resnet', ",
        ),
        (["disagreement.groups.biased.judge=a"], "biased.judge names 'a', but the judges are ['judge']"),
        (["disagreement.groups.biased.diffusion=a"], "biased.diffusion names 'a', but the diffusions are ['prior']"),
        (["disagreement.groups.biased.clip=vit"], "biased.clip names 'vit', but the clips are ['demo']"),
        (["disagreement.groups.biased.split=a"], "biased.split names 'a', but the splits are ['train', "),
        (["disagreement.groups.biased.other=vit"], "biased: one, other and others name 'vit' twice"),
        (["disagreement.groups.biased.judge=null"], "biased.tied needs a cue, whose values it names, and a judge"),
        (["disagreement.groups.biased.tied={}"], "biased.cue = 'background', but tied is empty"),
        (["disagreement.groups.biased.caption=a picture"], "expected {} where the class stands"),
        (["neuron_pictures.groups.resnet.classifier=demo"], "names 'demo', but the classifiers are ['resnet', "),
        (["neuron_pictures.groups.resnet.judge=a"], "resnet.judge names 'a', but the judges are ['judge']"),
        (["neuron_pictures.groups.resnet.split=a"], "resnet.split names 'a', but the splits are ['train', "),
        (["sample.models={a: {}}"], "sample.models names 'a', but train_diffusion.models and load_diffusion.models"),
        (["train_gan.models={a: {steps: 9, warmup: 10}}"], "train_gan.models.a.warmup = 10 is above its steps = 9"),
        (
            ["train_gan.models={a: {}}", "load_generator.models={a: {spec: x}}"],
            "'a' is both in train_gan.models and in load_generator.models; names must differ",
        ),
    ],
)
def test_what_does_not_fit_together_is_named_with_the_fix(settings, message):
    with pytest.raises(ParamError, match=re.escape(message)):
        profile_params("demo", settings)


def test_every_problem_is_named_at_once():
    with pytest.raises(ParamError) as error:
        profile_params("demo", ["textspan.size=17", "textspan.layers=5"])
    assert [line.partition(" = ")[0] for line in str(error.value).splitlines()] == [
        "profile demo: textspan.size",
        "profile demo: textspan.layers",
    ]


def test_what_only_a_loaded_clip_can_tell_is_not_guessed():
    loaded = ["clips=[given]", GIVEN, "visual_scores.clip=given"]
    assert profile_params("demo", [*loaded, "textspan.size=60", "textspan.layers=24"]).textspan.size == 60
    assert profile_params("demo", ["textspan.size=8"]).textspan.curve == [1, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.zip", "there is no such file or folder in "),
        ("/gone.zip", "there is no such file or folder"),
        ("~/gone.zip", f"Write {Path.home()}/gone.zip"),
        ("~who/gone.zip", "Write its full path"),
        ("'here.zip'", "the quotes are taken for a part of its name. Write here.zip"),
        (" here.zip", "there is one without the spaces around it. Write here.zip"),
        ("a $$b.zip", "a dollar is typed once. Write a $b.zip"),
        ("x" * 300, "that can be reached: File name too long. Check its name and the permissions of the folders above"),
        (" " + "x" * 300, "there is no such file"),
        ("$$" + "x" * 300, "there is no such file"),
    ],
)
def test_a_file_that_is_not_there_is_said_before_the_run(here, path, message):
    Path("here.zip").write_text("")
    Path("a $b.zip").write_text("")
    params = profile_params("demo", [f"texts.files.mine={path}"])
    (line,) = missing_files(params)
    assert line.startswith(f"texts.files.mine = {path!r}, but there is no such file or folder")
    assert message in line
    with pytest.raises(ParamError, match=r"(?s)no such file or folder.*--force writes it all the same"):
        write_profile("demo", [f"texts.files.mine={path}"])
    assert write_profile("demo", [f"texts.files.mine={path}"], force=True)
    assert any(finding.state == "bad" and message in finding.found for finding in findings())


def test_checkpoints_and_photographs_are_looked_for_and_what_is_here_is_found(here):
    (here / "profiles").symlink_to(ROOT / "profiles")
    settings = ["photos.path=album", "load_classifier.models={a: {spec: x, checkpoint: a.pt}}"]
    settings += ["load_generator.models={a: {spec: x, checkpoint: b.pt}}"]
    assert len(list(missing_files(profile_params("photos", settings)))) == 3
    Path("album").mkdir()
    Path("a.pt").write_text("")
    Path("b.pt").write_text("")
    assert list(missing_files(profile_params("photos", settings))) == []
    assert profile_text("photos", settings)
