"""Training a CLIP: the same bytes twice, the same bytes after a resume, true matches as targets, and it learns."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.data.captions import prompts
from optogram.data.scenes import ATTRIBUTES, Scenes
from optogram.errors import DataError, ModelError, ParamError
from optogram.models.loading.clip_folders import build_clip, encode_images, encode_texts
from optogram.models.training.clip import _encode_text, _written_out_attention, fits, matching_loss, train_clip
from optogram.models.training.loop import Recipe

ARCHITECTURE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 40, "vocab_size": 1514, "width": 32, "heads": 2, "layers": 1},
}
RECIPE = Recipe(epochs=2, batch=32, learning_rate=2e-3, weight_decay=0.1, warmup=2, seed=5)
NUMBERS = {field.name for field in fields(Recipe)}


@pytest.fixture(scope="module")
def images():
    return Scenes("train", 160, 0, size=32).read(0, 160)


def weights(clip):
    return b"".join(w.numpy().tobytes() for w in clip.model.state_dict().values())


def train(images, **changed):
    """Changed are the recipe's numbers or the function's other arguments."""
    recipe = replace(RECIPE, **{name: value for name, value in changed.items() if name in NUMBERS})
    others = {name: value for name, value in changed.items() if name not in NUMBERS}
    return train_clip(images, recipe, architecture=ARCHITECTURE, device="cpu", **others)


class Killed(Exception):
    pass


def test_two_runs_give_the_same_bytes_and_leave_torch_as_it_was(images):
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    first, second = train(images), train(images)
    assert weights(first) == weights(second)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.are_deterministic_algorithms_enabled() == before[1]
    assert weights(train(images, seed=6)) != weights(first)
    assert not first.model.training
    assert not any(w.requires_grad for w in first.model.parameters())
    assert not any(layer._forward_pre_hooks for layer in first.model.modules())


def test_a_checkpoint_of_another_recipe_is_refused(images, tmp_path):
    train(images, scratch=tmp_path)
    with pytest.raises(ModelError, match="other parameters"):
        train(images, scratch=tmp_path, learning_rate=1e-3)


def test_progress_counts_images_and_the_loss_falls(images):
    told = []
    train(images, epochs=12, texts_per_image=4, progress=lambda *said: told.append(said))
    done, total, loss = zip(*told, strict=True)
    assert list(done) == [32 * k for k in range(61)]
    assert set(total) == {1920}
    assert math.isnan(loss[0])
    assert np.mean(loss[-10:]) < np.mean(loss[1:6]) - 0.3


@pytest.mark.slow
def test_it_learns_what_is_easiest_to_see():
    """Two thousand scenes are enough for backgrounds, told zero-shot, on images it has not seen."""
    clip = train(Scenes("train", 1024, 0, size=32).read(0, 1024), epochs=4, texts_per_image=4)
    held = Scenes("eval", 256, 1, size=32).read(0, 256)
    texts = torch.stack([encode_texts(clip, prompts("background", v)).mean(0) for v in ATTRIBUTES["background"]])
    guess = (encode_images(clip, held["pixels"].values) @ texts.T).argmax(1).numpy()
    assert (guess == held["label"].values[:, -1]).mean() > 0.6  # chance 1/6


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_fits_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    label, other = (rng.integers(-1, 3, (count, 4), dtype=np.int16) for count in (5, 7))
    said = rng.random((7, 4)) < 0.5
    truth = fits(torch.from_numpy(label), torch.from_numpy(other), torch.from_numpy(said))
    for i in range(5):
        for j in range(7):
            assert bool(truth[i, j]) == all(label[i, a] == other[j, a] for a in range(4) if said[j, a])


def test_matching_loss_is_clips_own_where_each_text_fits_one_image():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    ours = matching_loss(logits, torch.eye(6, dtype=torch.bool))
    entropy = torch.nn.functional.cross_entropy
    assert torch.allclose(ours, (entropy(logits, torch.arange(6)) + entropy(logits.T, torch.arange(6))) / 2)


def test_matching_loss_is_least_where_all_true_matches_share_the_probability():
    truth = torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    right = matching_loss(torch.where(truth, 20.0, -20.0), truth)
    assert right < matching_loss(torch.tensor([[20.0, -20, -20], [-20, -20, 20]]), truth)
    literal = -(torch.log(torch.tensor([0.5, 0.5])).sum() / 2 + 0 + 0) / 3 / 2 - torch.log(torch.tensor(0.5)) / 2
    assert torch.allclose(right, literal, atol=1e-5)


def test_shortened_texts_and_written_out_attention_change_nothing():
    clip = build_clip(ARCHITECTURE, seed=1)
    tokens = clip.tokenize(["a star", "three small red stars at the top on snow", "snow"])
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        text, image = clip.model.encode_text(tokens), clip.model.encode_image(pixels)
        with _written_out_attention(clip.model):
            assert torch.allclose(_encode_text(clip.model, tokens), text, atol=1e-5)
            assert torch.allclose(clip.model.encode_image(pixels), image, atol=1e-5)


def test_written_out_attention_is_undone_by_an_exception():
    model = build_clip(ARCHITECTURE, seed=1).model
    with pytest.raises(Killed), _written_out_attention(model):
        raise Killed
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_photos_with_one_attribute_and_unknown_labels_train(images):
    photos = images.isel(attribute=[0]).copy(deep=True)
    photos["label"][:5] = -1
    photos["mentions"][:] = True
    photos["mentions"][:5] = False
    assert np.isfinite(encode_images(train(photos, epochs=1), photos["pixels"].values[:4]).numpy()).all()


def test_a_loss_that_is_not_finite_says_what_to_do(images):
    broken = images.copy(deep=True)
    with pytest.raises(ModelError, match="Lower learning_rate"):
        train(broken, learning_rate=0.99, weight_decay=1e38, epochs=3)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"batch": 161}, "batch = 161"),
        ({"warmup": 99}, "warmup = 99"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"texts_per_image": 9}, "texts_per_image = 9"),
    ],
)
def test_bad_hyperparameters_are_named(images, changed, named):
    with pytest.raises(ParamError, match=named):
        train(images, **changed)


def test_images_without_captions_are_refused(images):
    with pytest.raises(DataError, match="caption"):
        train(images.drop_vars("caption"))
