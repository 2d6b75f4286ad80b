"""Training a classifier: the same bytes twice, the same bytes after a resume, and it learns."""

import math
from dataclasses import fields, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from optogram.data.scenes import ATTRIBUTES, Scenes
from optogram.errors import DataError, ModelError, ParamError
from optogram.models.loading.architectures import build_architecture, for_classes
from optogram.models.training.classifier import train_classifier
from optogram.models.training.loop import Recipe

RESNET = {"spec": "timm:resnet10t", "arguments": {"channels": [8, 8, 8, 16], "stem_width": 8}}
VIT = {
    "spec": "timm:vit_tiny_patch16_224",
    "arguments": {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "global_pool": "avg"},
}
RECIPE = Recipe(epochs=2, batch=32, learning_rate=2e-3, weight_decay=0.1, warmup=2, seed=5)
NUMBERS = {field.name for field in fields(Recipe)}


def flat(classes=6):
    """A factory that a spec of this file names: all that its only layer can tell is the mean of each colour."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


@pytest.fixture(scope="module")
def images():
    return Scenes("train", 160, 0, size=32).read(0, 160)


def weights(classifier):
    return b"".join(w.numpy().tobytes() for w in classifier.model.state_dict().values())


def train(images, **changed):
    """Changed are the recipe's numbers or the function's other arguments."""
    recipe = replace(RECIPE, **{name: value for name, value in changed.items() if name in NUMBERS})
    others = {name: value for name, value in changed.items() if name not in NUMBERS}
    return train_classifier(images, recipe, **(RESNET | {"device": "cpu"} | others))


class Killed(Exception):
    pass


@pytest.mark.parametrize("architecture", [RESNET, VIT], ids=["resnet", "vit"])
def test_two_runs_give_the_same_bytes_and_leave_torch_as_it_was(images, architecture):
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    first, second = (train(images, **architecture) for _ in range(2))
    assert weights(first) == weights(second)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.are_deterministic_algorithms_enabled() == before[1]
    assert weights(train(images, **architecture, seed=6)) != weights(first)
    assert not first.model.training
    assert not any(w.requires_grad for w in first.model.parameters())


@pytest.mark.parametrize("changed", [{"learning_rate": 1e-3}, {"flips": True}, {"attribute": "position"}, VIT])
def test_a_checkpoint_of_another_recipe_is_refused(images, tmp_path, changed):
    train(images, epochs=1, scratch=tmp_path)
    with pytest.raises(ModelError, match="other parameters"):
        train(images, **({"epochs": 1} | changed), scratch=tmp_path)


def test_it_learns_what_is_easiest_to_see():
    """Backgrounds, on images that it has not seen; and progress counts the images."""
    told = []
    images, held = (Scenes(split, count, 0, size=32).read(0, count) for split, count in (("train", 512), ("eval", 256)))
    found = train(images, attribute="background", epochs=5, progress=lambda *said: told.append(said))
    assert found.classes == ATTRIBUTES["background"]
    assert (found.attribute, found.size) == ("background", (32, 32))
    with torch.no_grad():
        guess = found.model(found.preprocess(held["pixels"].values)).argmax(1).numpy()
    assert (guess == held["label"].values[:, -1]).mean() > 0.6  # chance 1/6
    done, total, loss = zip(*told, strict=True)
    assert list(done) == [32 * k for k in range(81)]
    assert set(total) == {2560}
    assert math.isnan(loss[0])
    assert np.mean(loss[-10:]) < np.mean(loss[1:6]) - 0.3


def test_the_class_attribute_is_the_default_and_images_without_a_label_are_left_out(images):
    photos = images.copy(deep=True)
    assert train(photos, epochs=1).classes == ATTRIBUTES["shape"]
    photos["label"][:40, 0] = -1
    photos["pixels"][:40] = 255
    assert weights(train(photos, epochs=1)) == weights(train(photos.isel(image=slice(40, None)), epochs=1))


def test_places_of_a_vit_start_from_waves_and_the_class_token_as_it_was(images):
    recipe = VIT | {"epochs": 1, "learning_rate": 1e-9}
    place = train(images, **recipe).model.pos_embed[0]
    drawn = build_architecture(VIT["spec"], for_classes(VIT["spec"], VIT["arguments"], 6), seed=5).pos_embed[0]
    assert torch.allclose(place[0], drawn[0], atol=1e-6)
    for row in range(4):
        for column in range(4):
            angles = [2 * math.pi * at / 2**power for at in (row, column) for power in (2, 10 / 3, 14 / 3, 6)]
            waves = [0.7 * wave(angle) for wave in (math.sin, math.cos) for angle in angles]
            assert torch.allclose(place[1 + 4 * row + column], torch.tensor(waves), atol=1e-5)


class Watched(nn.Module):
    """Keeps what it is shown."""

    seen: ClassVar[list[torch.Tensor]] = []

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 6)

    def forward(self, x):
        self.seen.append(x.detach())
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("flips", [False, True])
def test_flips_mirror_half_of_the_images_anew_each_epoch(images, flips):
    """Every image is light on its left and has a shade of its own."""
    marked = images.copy(deep=True)
    marked["pixels"][:] = np.arange(160, dtype=np.uint8)[:, None, None, None]
    marked["pixels"][:, :, :16] = 255
    Watched.seen.clear()
    train(marked, spec=f"callable:{__name__}:Watched", arguments={}, flips=flips)
    shown = torch.cat(Watched.seen[1:])  # first it is tried on two
    left, right = shown[:, 0, 0, 0], shown[:, 0, 0, -1]
    assert (left > right).float().mean() == pytest.approx(0.5 if flips else 1, abs=0.12 if flips else 0)
    mirrored = [
        dict(zip(torch.minimum(left, right)[part].tolist(), (left < right)[part].tolist(), strict=True))
        for part in (slice(160), slice(160, None))
    ]
    assert mirrored[0].keys() == mirrored[1].keys()
    assert (mirrored[0] != mirrored[1]) == flips


def test_a_loss_that_is_not_finite_says_what_to_do(images):
    with pytest.raises(ModelError, match="Lower learning_rate"):
        train(images, learning_rate=0.99, weight_decay=1e38, epochs=3)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"batch": 161}, "batch = 161"),
        ({"warmup": 99}, "warmup = 99"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"attribute": "shap"}, r"attribute = 'shap', but the images have shape, .*Did you mean 'shape'"),
    ],
)
def test_bad_hyperparameters_are_named(images, changed, named):
    with pytest.raises(ParamError, match=named):
        train(images, **changed)


def test_images_without_labels_and_classes_without_images_are_refused(images):
    with pytest.raises(DataError, match="no variable 'label'"):
        train(images.drop_vars("label"))
    shape = images["label"].values[:, 0]
    with pytest.raises(DataError, match=r"each shape needs images, .*square: 0"):
        train(images.isel(image=shape != 1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (VIT | {"arguments": VIT["arguments"] | {"img_size": 64}}, r"does not take images of 32 x 32: .*img_size"),
        ({"spec": f"callable:{__name__}:flat", "arguments": {"classes": 5}}, r"gives \(2, 5\) for 2 images; expected"),
        ({"arguments": {"num_classes": 7}}, r"gives \(2, 7\) .*Give num_classes: 6"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused_before_training(images, changed, message):
    with pytest.raises(ModelError, match=message):
        train(images, **changed)
