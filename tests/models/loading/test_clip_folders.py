"""Model folders: what is saved is what is loaded, byte for byte; what does not fit is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from optogram.errors import DataError, ModelError, OptogramError, ParamError, ShapeError
from optogram.models.loading.clip_folders import (
    Preprocess,
    Tokenizer,
    build_clip,
    encode_images,
    encode_texts,
    first_merges,
    load_clip,
    save_clip,
)

ARCHITECTURE = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 814, "width": 24, "heads": 3, "layers": 1},
}
TEXTS = ["a photo of a red circle", "two stars on snow", "naïve Ünïcode ☃"]


@pytest.fixture(scope="module")
def clip():
    built = build_clip(ARCHITECTURE, seed=3)
    built.model.eval().requires_grad_(False)
    return built


@pytest.fixture
def folder(clip, tmp_path):
    save_clip(clip, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def test_round_trip_in_half_precision(clip, folder, pixels):
    loaded = load_clip(folder, "cpu")
    assert not loaded.model.training
    assert all(w.dtype == torch.float32 and not w.requires_grad for w in loaded.model.parameters())
    assert loaded.config == clip.config
    assert loaded.preprocess == clip.preprocess
    for name, weight in clip.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight.half().float()), name
    assert torch.allclose(encode_images(clip, pixels), encode_images(loaded, pixels), atol=2e-3)
    assert torch.allclose(encode_texts(clip, TEXTS), encode_texts(loaded, TEXTS), atol=2e-3)


def test_saving_what_was_loaded_gives_the_same_bytes(folder, tmp_path):
    save_clip(load_clip(folder, "cpu"), tmp_path / "again")
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["config.json", "merges.txt.gz", "model.safetensors"]
    assert sorted(file.name for file in (tmp_path / "again").iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_single_precision_is_exact(clip, tmp_path, pixels):
    save_clip(clip, tmp_path / "full", dtype=torch.float32)
    assert torch.equal(encode_images(load_clip(tmp_path / "full", "cpu"), pixels), encode_images(clip, pixels))


def test_embeddings_are_unit_and_do_not_depend_on_the_batch(clip, pixels):
    images, texts = encode_images(clip, pixels), encode_texts(clip, TEXTS)
    assert images.shape == (5, 24)
    assert texts.shape == (3, 24)
    assert torch.allclose(images.norm(dim=1), torch.ones(5), atol=1e-5)
    assert torch.allclose(texts.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(images, encode_images(clip, pixels, batch=2), atol=1e-5)
    assert torch.allclose(texts, encode_texts(clip, TEXTS, batch=1), atol=1e-5)


def test_building_is_seeded_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (build_clip(ARCHITECTURE, seed=seed).model.visual.proj for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_is_overwritten_and_no_part_is_left(clip, folder):
    with pytest.raises(ModelError, match="exists already"):
        save_clip(clip, folder)
    assert [file.name for file in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "merges.txt.gz"])
def test_a_missing_or_damaged_file_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_clip(folder)
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(OptogramError, match=str(folder)):
        load_clip(folder)


def test_a_checkpoint_of_other_shapes_is_refused_by_tensor(folder):
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["embed_dim"] = 16
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"text_projection .* expected shape \(24, 16\), found \(24, 24\)"):
        load_clip(folder)


def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["visual.proj"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"visual.proj .* found absent"):
        load_clip(folder)


def test_an_architecture_that_open_clip_refuses_is_a_model_error():
    with pytest.raises(ModelError, match="does not take this architecture"):
        build_clip(ARCHITECTURE | {"depth": 3}, seed=0)


def test_tokenizer_is_clips_own_where_the_merges_are_all_there():
    whole, own = Tokenizer(first_merges(48894), 77), SimpleTokenizer(context_length=77)
    assert whole.vocab_size == 49408
    assert torch.equal(whole(TEXTS), own(TEXTS))


@pytest.mark.parametrize("count", [0, 1, 300])
def test_short_tokenizer_writes_every_text_and_reads_it_back(count):
    tokenize = Tokenizer(first_merges(count), 77)
    assert tokenize.vocab_size == 514 + count
    assert first_merges(count) == first_merges(count)
    for text, row in zip(TEXTS, tokenize(TEXTS), strict=True):
        ids = row[: int(row.argmax()) + 1].tolist()
        assert tokenize._bpe.decode(ids[1:-1]).strip() == text.lower()
        assert ids[0] == tokenize.vocab_size - 2
        assert ids[-1] == tokenize.vocab_size - 1


def test_a_text_too_long_is_named_not_cut(clip):
    long = "a photo of two very small purple checkered triangles on a wall at midnight"
    with pytest.raises(DataError, match=f"{long}.*at most 24"):
        encode_texts(clip, ["a star", long])


def test_too_many_merges_are_refused():
    with pytest.raises(ParamError, match="vocab_size"):
        first_merges(60_000)


def test_preprocess_normalises_and_keeps_images_of_its_size(pixels):
    preprocess = Preprocess(32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    expected = (pixels / 255.0 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1]
    assert np.allclose(preprocess(pixels).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert preprocess.fit(pixels) is pixels


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("size", [(64, 48), (31, 90), (20, 20)])
def test_preprocess_takes_pictures_of_any_size_and_mode(mode, size):
    picture = Image.new("RGB", size, (200, 30, 30))
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    for resize in ("shortest", "squash"):
        out = Preprocess(32, resize=resize)([picture, picture])
        assert out.shape == (2, 3, 32, 32)
        assert out.dtype == torch.float32
        assert torch.allclose(out.amax((2, 3)), out.amin((2, 3)), atol=0.05)  # one flat colour stays flat


def test_preprocess_crops_the_centre_of_the_shorter_side():
    wide = np.zeros((1, 32, 96, 3), np.uint8)
    wide[:, :, 32:64] = 255
    assert (Preprocess(32).fit(wide) == 255).mean() > 0.9
    assert 0.2 < (Preprocess(32, resize="squash").fit(wide) > 128).mean() < 0.5


@pytest.mark.parametrize("bad", [np.zeros((2, 3, 32, 32), np.uint8), np.zeros((2, 32, 32, 3), np.float32)])
@pytest.mark.misfits
def test_preprocess_refuses_other_arrays(bad):
    with pytest.raises(ShapeError, match="uint8 pixels"):
        Preprocess(32)(bad)


def test_load_takes_a_path_as_text(folder):
    assert load_clip(str(folder), "cpu").config == load_clip(Path(folder), "cpu").config
