"""The stages that a run on scenes does not have: photographs, a user's texts, a pretrained model."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from micro import SETTINGS, run_stage
from PIL import Image
from safetensors.torch import save_file

from examples import dcgan
from optogram.errors import DataError, ModelError, ParamError
from optogram.models.generative.generators import load_generator
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.clip_folders import load_clip
from optogram.models.units import load_units
from optogram.params.profiles import profile_text
from optogram.params.root import load_params
from optogram.store.digests import folder_digest
from optogram.store.read import read
from stages import load_clip as load_clip_stage
from stages import photos, text_file

ROOT = Path(__file__).parents[2]


def picture(folder, name, size=(20, 16), mode="RGB", seed=0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


@pytest.fixture
def album(here):
    """Two classes, with every kind of file that people have in a folder."""
    for k in range(12):
        picture(here, f"album/red fox/{k}.jpg", seed=k)
        picture(here, f"album/owl/{k}.png", seed=100 + k)
    picture(here, "album/owl/grey.jpg", mode="L")
    picture(here, "album/owl/print.jpg", mode="CMYK")
    picture(here, "album/owl/dot.png", size=(1, 1))
    whole = picture(here, "album/owl/cut.jpg", size=(64, 64)).read_bytes()
    (here / "album/owl/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (here / "album/red fox/text.jpg").write_text("not an image")
    return here / "album"


def set_params(*settings, profile="photos"):
    Path("params.yaml").write_text(profile_text(profile, list(settings), ROOT / "profiles"))


def run_photos(source, split="eval", out="artifacts/images/eval"):
    assert load_params().photos.path == str(source)  # the stage takes it from there: a shell reads its command
    photos.main(["--split", split, "--out", out])
    return read(Path(out))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_photos_lists_bad_files_and_keeps_the_rest(album, packed):
    source = album
    if packed:
        source = album.parent / "album.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(album.rglob("*.*")):
                archive.write(path, path.relative_to(album))
    set_params(f"photos.path={source}", "photos.size=16")
    seen, bad = set(), set()
    for split in ("train", "reference", "eval"):
        found = run_photos(source, split, f"artifacts/images/{split}")
        assert found.pixels.dtype == np.uint8
        assert found.pixels.shape[1:] == (16, 16, 3)
        assert found.attrs["class_attribute"] == "class"
        assert not seen & set(found.image.values), "splits do not overlap"
        seen |= set(found.image.values)
        bad |= {Path(name).name for name, _ in json.loads(found.attrs["bad_files"])}
    assert len(seen) == 26
    assert bad == {"cut.jpg", "dot.png", "text.jpg"}


def test_photos_refuses_bad_files_when_told_to(album):
    set_params(f"photos.path={album}", "photos.on_bad=refuse")
    with pytest.raises(DataError, match=r"cut\.jpg|text\.jpg|dot\.png"):
        run_photos(album, "train")
    assert not Path("artifacts").exists()


def test_the_first_stage_says_how_many_photographs_are_needed(here):
    for name in ("owl", "red fox"):
        for k in range(5):
            picture(here, f"album/{name}/{k}.jpg", seed=k)
    set_params("photos.path=album")
    with pytest.raises(
        DataError, match=r"needs 2 good images or more in split eval, but 2 of 2 .*'owl' \(1\).*\n.*least 8"
    ):
        run_photos("album")


def test_photos_same_bytes_twice(album):
    set_params(f"photos.path={album}", "photos.size=16", "photos.shard=4")
    run_photos(album, out="a")
    run_photos(album, out="b")
    assert folder_digest(Path("a")) == folder_digest(Path("b"))


@pytest.mark.parametrize("files", [0, 1])
def test_photos_of_nothing_or_of_one_image_is_a_clear_error(here, files):
    (here / "album").mkdir()
    if files:
        picture(here, "album/owl/1.jpg")
    set_params("photos.path=album")
    with pytest.raises(DataError, match="album"):
        run_photos("album")
    assert not Path("artifacts").exists()


@pytest.fixture
def scenes(workspace, monkeypatch):
    """The micro workspace with images, as the current folder."""
    monkeypatch.chdir(workspace("texts"))


@pytest.fixture
def lines(scenes, tmp_path, monkeypatch):
    """Makes a text pool of lines in a file whose name a shell would run."""
    images = str(Path("artifacts/images/reference").resolve())
    monkeypatch.chdir(tmp_path)

    def make(text):
        Path("$(touch ran) `touch ran`.txt").write_text(text)
        set_params(*SETTINGS, "texts.files.mine=$(touch ran) `touch ran`.txt", profile="smoke")
        text_file.main(["--pool", "mine", "--images", images, "--out", "out"])
        return read(Path("out"))

    return make


@pytest.mark.parametrize(
    ("text", "message"),
    [("a red thing\n\na blue thing\n", "blank"), ("one\ntwo\none\n", "one"), ("", r"ran`\.txt")],
)
def test_text_file_refuses_blank_and_duplicate_lines(lines, text, message):
    with pytest.raises(DataError, match=message):
        lines(text)
    assert not Path("out").exists()


def test_text_file_makes_a_pool_that_names_what_it_can(lines):
    pool = lines("a red thing\nsomething odd\n")
    assert pool.text.values.tolist() == ["a red thing", "something odd"]
    assert pool.attribute.values.tolist() == ["colour", ""]
    assert list(pool.attrs["inputs"]) == ["file", "images"]


def load(spec, checkpoint, out="artifacts/models/given"):
    set_params(
        f"load_clip.models={{given: {{spec: '{spec}', checkpoint: {checkpoint}}}}}", "clips=[smoke]", profile="smoke"
    )
    load_clip_stage.main(["--model", "given", "--out", out])


def test_load_clip_takes_a_local_checkpoint(here):
    import open_clip

    model = open_clip.create_model("ViT-B-32")
    save_file(model.state_dict(), "weights.safetensors")
    load("open_clip:ViT-B-32", "weights.safetensors")
    clip = load_clip(Path("artifacts/models/given"))
    with torch.inference_mode():
        image = torch.zeros(1, 3, 224, 224)
        torch.testing.assert_close(clip.model.encode_image(image), model.eval().encode_image(image))


def test_load_clip_names_the_tensor_that_does_not_fit(here):
    save_file({"visual.conv1.weight": torch.zeros(3, 3)}, "weights.safetensors")
    with pytest.raises(ModelError, match=r"visual\.|missing|lacks"):
        load("open_clip:ViT-B-32", "weights.safetensors")
    assert not Path("artifacts/models/given").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip:ViT-B-23", "Did you mean"),
        ("openclip:ViT-B-32", "Did you mean"),
        ("open_clip:ViT-B-32/openai", "checkpoint"),
    ],
)
def test_load_clip_explains_unknown_names_and_no_network(here, spec, message):
    with pytest.raises(ModelError, match=message):
        load(spec, "null")


def load_as_generator(checkpoint):
    given = f"{{spec: 'callable:examples.dcgan:generator', checkpoint: {checkpoint}}}"
    set_params(*SETTINGS, f"load_generator.models={{given: {given}}}", profile="smoke")
    run_stage("load_generator", {"model": "given"})


def test_load_generator_takes_a_local_checkpoint_and_two_runs_give_the_same_bytes(here):
    model = dcgan.generator().eval()
    save_file(model.state_dict(), "weights.safetensors")
    load_as_generator("weights.safetensors")
    found = load_generator("artifacts/generators/given", device="cpu")
    latents = found.latents([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(found.images(latents), model(latents))
    digest = folder_digest(Path("artifacts/generators/given"))
    with pytest.raises(ModelError, match="exists already"):
        load_as_generator("weights.safetensors")
    shutil.rmtree("artifacts/generators/given")
    load_as_generator("weights.safetensors")
    assert folder_digest(Path("artifacts/generators/given")) == digest


def test_load_generator_names_the_tensor_that_does_not_fit(here):
    save_file({"main.0.weight": torch.zeros(3, 3)}, "weights.safetensors")
    with pytest.raises(ModelError, match=r"main\.0\.weight has shape \(3, 3\), expected \(100, 512, 4, 4\)"):
        load_as_generator("weights.safetensors")
    assert not Path("artifacts/generators/given").exists()


def load_as_classifier(spec, checkpoint, classes):
    given = f"{{spec: '{spec}', checkpoint: {checkpoint}, classes: {classes}}}"
    Path("params.yaml").write_text(
        profile_text("smoke", [*SETTINGS, f"load_classifier.models={{given: {given}}}"], ROOT / "profiles")
    )
    run_stage("load_classifier", {"model": "given"})


@pytest.fixture
def resnet(workspace, monkeypatch, tmp_path):
    """A checkpoint of six classes, in a workspace with images, as the current folder."""
    shutil.copytree(workspace("texts"), tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    model = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=6).eval()
    save_file(model.state_dict(), "weights.safetensors")
    return model


def test_load_classifier_takes_a_local_checkpoint_and_the_images_classes(resnet):
    load_as_classifier("torchvision:shufflenet_v2_x0_5", "weights.safetensors", "null")
    found = load_classifier_folder(Path("artifacts/models/given"), "cpu")
    assert (found.attribute, found.classes[:2], found.size) == ("shape", ("circle", "square"), (224, 224))
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(found.model(image), resnet(image))
    run_stage("activations", {"model": "given", "split": "eval"}, model="artifacts/models/given")
    assert read(Path("artifacts/activations/given/eval")).sizes["class"] == 6


def test_load_classifier_takes_a_model_whose_logits_have_no_names(resnet):
    torch.manual_seed(0)
    model = timm.create_model("test_vit").eval()
    save_file(model.state_dict(), "vit.safetensors")
    load_as_classifier("timm:test_vit", "vit.safetensors", "[]")
    assert load_classifier_folder(Path("artifacts/models/given"), "cpu").classes == ()
    units = load_units(Path("artifacts/models/given"), ["blocks.1.mlp.act"], side=64, device="cpu")
    (maps,) = units.maps(np.zeros((2, 64, 64, 3), np.uint8))
    assert maps.shape[:2] == (2, model.blocks[1].mlp.fc1.out_features)


def test_load_classifier_names_other_classes_and_refuses_too_few(resnet):
    with pytest.raises(ModelError, match=r"has 6 logits, but 2 classes are named \(a, b"):
        load_as_classifier("torchvision:shufflenet_v2_x0_5", "weights.safetensors", "[a, b]")
    assert not Path("artifacts/models/given").exists()
    load_as_classifier("torchvision:shufflenet_v2_x0_5", "weights.safetensors", "[a, b, c, d, e, f]")
    assert load_classifier_folder(Path("artifacts/models/given"), "cpu").classes == tuple("abcdef")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["textspan.size=9", "textspan.sizes=[1]"], "9"),
        (["textspan.rank=64"], "64"),
        (["textspan.layers=7"], "textspan.layers = 7"),
    ],
)
def test_textspan_size_rank_and_layers_beyond_the_model(workspace, monkeypatch, tmp_path, settings, message):
    from micro import INSTANCES

    monkeypatch.chdir(workspace("textspan"))
    before = Path("params.yaml").read_text()
    # of a loaded CLIP params do not know the shape: the stage itself refuses
    loaded = ["clips=[given]", "load_clip.models={given: {spec: x}}", "visual_scores.clip=given"]
    Path("params.yaml").write_text(profile_text("smoke", [*SETTINGS, *loaded, *settings], ROOT / "profiles"))
    try:
        with pytest.raises(ParamError, match=message):
            run_stage("textspan", INSTANCES["textspan"][0], out=tmp_path / "out")
    finally:
        Path("params.yaml").write_text(before)
    assert not (tmp_path / "out").exists()


def test_a_small_album_goes_all_the_way_to_its_contributions(album):
    """Fewer photographs than a batch, fewer steps than the warmup."""
    source = f"photos.path={album}"
    small = "train_clip.models.photos={width: 32, head_width: 8, embed: 32, text_width: 32, layers: 2, epochs: 1}"
    set_params(source, "photos.size=16", small, "textspan.size=8", "textspan.layers=2", "second_order.layers=[0]")
    for split in ("train", "reference", "eval"):
        run_photos(album, split, f"artifacts/images/{split}")
    for pool in ("descriptions", "words", "class", "random"):
        run_stage("texts", {"pool": pool})
    run_stage("train_clip", {"model": "photos"})
    for pool in ("descriptions", "words", "class", "random"):
        run_stage("embed_texts", {"model": "photos", "pool": pool})
    run_stage("embed_classes", {"model": "photos"})
    run_stage("contributions", {"model": "photos", "split": "eval"})
    run_stage("train_classifier", {"model": "photos_resnet"})
    assert load_classifier_folder(Path("artifacts/models/photos_resnet")).classes == ("owl", "red fox")
    cache = read(Path("artifacts/contributions/photos/eval"))
    assert np.isfinite(cache.embedding.values).all()


def test_a_changed_album_is_not_resumed_on_the_old_one(album):
    set_params(f"photos.path={album}", "photos.size=16")
    before = run_photos(album, out="a").attrs["inputs"]
    picture(album, "owl/new.png", seed=999)
    assert run_photos(album, out="b").attrs["inputs"] != before
