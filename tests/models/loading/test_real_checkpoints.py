"""Checkpoints that others have trained, loaded by their specs: they do what is stated of them."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from optogram.data.image_files import decode, find_images
from optogram.errors import ModelError
from optogram.models.layers import activations, blocks
from optogram.models.linear_head import penultimate
from optogram.models.loading.classifiers import load_classifier
from optogram.models.loading.specs import load_model

SHARED = Path(os.environ.get("OPTOGRAM_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
VIT = SHARED / "vit_small_patch14_dinov2_finetuned.safetensors"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")


@pytest.mark.slow
@torch.no_grad()
def test_an_efficientnet_knows_photographs_of_imagenet():
    """Stated: top-1 85.5 %, top-5 97.0 % of 200, of which one may fall otherwise where kernels round otherwise.

    Each file's name begins with the place of its class's logit. There is one photograph a class, so that these are
    not splits of `Photos`.
    """
    checkpoint = SHARED / "imagenet_efficientnet_lite0.safetensors"
    found = load_classifier("timm:tf_efficientnet_lite0", checkpoint=checkpoint, device="cpu")
    assert (found.size, found.mean, found.std) == ((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    source = find_images(SHARED / "imagenet200.zip")
    with source.reading() as read:
        pixels = np.stack([decode(read(file), 224, min_side=8, pixel_limit=10**6) for file in source.files])
    truth = torch.tensor([int(Path(file.id).name.split("_")[0]) for file in source.files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    guesses = torch.cat([found.model(found.normalise(part)).topk(5).indices for part in images.split(25)])
    hits = guesses == truth[:, None]
    assert len(hits) == 200
    assert hits[:, 0].sum() >= 171 - 1
    assert hits.any(1).sum() >= 194 - 1


@torch.no_grad()
def test_a_vit_without_classes_gives_activations_in_which_like_things_are_alike():
    """Of a patch, the nearest one in another photograph has the same label more often than patches drawn at random."""
    found = load_classifier("callable:examples.dinov2:small", checkpoint=VIT, device="cpu")
    with zipfile.ZipFile(SHARED / "coco100.zip") as archive:
        names = sorted(name[7:-4] for name in archive.namelist() if name.startswith("images/"))[:12]
        photographs, masks = (
            [Image.open(io.BytesIO(archive.read(f"{folder}/{name}.{kind}"))) for name in names]
            for folder, kind in (("images", "jpg"), ("masks", "png"))
        )
    images = found.preprocess(photographs)
    maps = activations(found.model, images, ["blocks.0", "blocks.8"])
    assert {name: tuple(each.shape) for name, each in maps.items()} == dict.fromkeys(maps, (12, 384, 16, 16))
    # the label at the centre of each patch of 14 x 14
    label = np.stack([np.asarray(mask.resize((224, 224), Image.Resampling.NEAREST))[7::14, 7::14] for mask in masks])
    label = torch.from_numpy(label.astype(np.int64)).flatten(1)
    hits = {}
    for name, each in maps.items():
        tokens = torch.nn.functional.normalize(each - each.mean((0, 2, 3), keepdim=True), dim=1).flatten(2).mT
        same, chance = [], []
        for at in range(len(tokens)):
            others = [other for other in range(len(tokens)) if other != at]
            beside = label[others].flatten()
            known = (label[at] > 0) & torch.isin(label[at], beside)
            nearest = (tokens[at] @ tokens[others].flatten(0, 1).T).argmax(1)
            same.append((beside[nearest] == label[at])[known])
            chance += [(beside == value).float().mean() for value in label[at][known]]
        hits[name] = float(torch.cat(same).float().mean()), float(torch.stack(chance).mean())
    assert hits["blocks.8"][0] > 3 * hits["blocks.8"][1]
    assert hits["blocks.8"][0] > 1.5 * hits["blocks.0"][0], "the first block knows colours and edges only"


@torch.no_grad()
def test_a_model_without_classes_has_no_features_before_its_logits():
    found = load_classifier("callable:examples.dinov2:small", checkpoint=VIT, device="cpu")
    assert blocks(found.model, size=28) == ["patch_embed.proj", *(f"blocks.{k}" for k in range(12))]
    assert found.classes == ()
    with pytest.raises(ModelError, match=r"VisionTransformer are not what an nn\.Linear returns"):
        penultimate(found.model, torch.zeros(1, 3, 28, 28))


@pytest.mark.slow
@torch.no_grad()
def test_timm_s_own_spec_takes_the_same_file_at_its_own_size():
    model, preprocess = load_model("timm:vit_small_patch14_dinov2", checkpoint=VIT, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 518, 518, 3), np.uint8)
    images = preprocess(pixels)
    assert images.shape == (1, 3, 518, 518)
    (found,) = activations(model, images, ["blocks.10"]).values()
    assert found.shape == (1, 384, 37, 37)
    other = load_classifier("callable:examples.dinov2:small", checkpoint=VIT, device="cpu")
    torch.testing.assert_close(
        activations(other.model, images, ["blocks.10"])["blocks.10"], found, atol=1e-3, rtol=1e-3
    )
