"""Neurons wired to marks in the image and to texts in the embedding: each text's heatmap is where its mark is."""

import numpy as np
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from optogram.decompose import second_order, token_activations
from optogram.methods import neuron_heatmaps, rank_one
from optogram.metrics.segmentation import segmentation_scores

WIDTH, EMBED, SIDE = 32, 24, 4
LAYER, LATER, HEAD = 1, 3, 2
NEURONS, CHANNELS, WRITTEN = (11, 4), (7, 9), (20, 22)  # where each neuron and its head write in the residual stream


@pytest.fixture(scope="module")
def planted():
    """The model, images with a red and a green patch each, their places (image, mark), and a text for each."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = CLIPVisionCfg(layers=5, width=WIDTH, head_width=8, patch_size=8, image_size=8 * SIDE, mlp_ratio=1)
        text = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)
        model = CLIP(EMBED, vision, text).eval()
    generator = torch.Generator().manual_seed(1)
    texts = torch.linalg.qr(torch.randn(EMBED, 6, generator=generator))[0].T.contiguous()
    visual = model.visual
    blocks = visual.transformer.resblocks
    with torch.no_grad():
        visual.conv1.weight.mul_(0.3)
        visual.class_embedding[:2] = 0
        visual.positional_embedding[:, :2] = 0
        mlp = blocks[LAYER].mlp
        for mark, (neuron, channel, written) in enumerate(zip(NEURONS, CHANNELS, WRITTEN, strict=True)):
            # a patch's red (green) goes into channel 0 (1), which fires the neuron
            visual.conv1.weight[mark] = 0
            visual.conv1.weight[mark, mark] = 1 / 64
            mlp.c_fc.weight[neuron] = 0
            mlp.c_fc.weight[neuron, mark] = 4
            mlp.c_fc.bias[neuron] = -8
            # only this neuron writes into its channel, and only one value of one later head reads it
            mlp.c_proj.weight[:, neuron] = 0
            mlp.c_proj.weight[channel, neuron] = 2
            slot = 8 * HEAD + mark
            for index, block in enumerate(blocks):
                value = block.attn.in_proj_weight[2 * WIDTH :]
                value[:, channel] = 0
                if index == LATER:
                    value[slot] = 0
                    value[slot, channel] = 1.5
                    block.attn.out_proj.weight[:, slot] = 0
                    block.attn.out_proj.weight[written, slot] = 3
            visual.proj[written] = texts[mark]
    images = 0.1 * torch.randn(40, 3, 8 * SIDE, 8 * SIDE, generator=generator)
    places = torch.stack([torch.randperm(SIDE * SIDE, generator=generator)[:2] for _ in images])
    for image, patches in zip(images, places, strict=True):
        for mark, patch in enumerate(patches.tolist()):
            y, x = divmod(patch, SIDE)
            image[mark, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 1.5
    return model, images, places.numpy(), texts.numpy()


@pytest.fixture(scope="module")
def directions(planted):
    """r_n of all neurons of the planted layer and of the one after it."""
    return {layer: rank_one(second_order(planted[0], planted[1], layer), 20).r.values for layer in (LAYER, LAYER + 1)}


def test_the_neuron_fires_at_its_mark(planted):
    maps = token_activations(planted[0], planted[1], LAYER, neurons=NEURONS).values.reshape(40, 2, -1)
    for mark in (0, 1):
        assert (maps[:, mark].argmax(1) == planted[2][:, mark]).all()


@pytest.mark.parametrize("mark", [0, 1])
def test_each_text_s_heatmap_is_its_mark(planted, directions, mark):
    model, images, places, texts = planted
    targets = np.broadcast_to(texts[mark], (len(images), EMBED))
    found = neuron_heatmaps(model, images, targets, directions, count=1, batch=16)
    assert (found.reshape(40, -1).argmax(1) == places[:, mark]).all()
    # all other patches are below the thesis's threshold of 0.5
    assert ((found > 0.5).sum((1, 2)) == 1).all()


def test_texts_are_told_apart_within_one_call(planted, directions):
    model, images, places, texts = planted
    which = np.arange(40) % 2
    found = neuron_heatmaps(model, images, texts[which], directions, count=1, batch=7)
    assert (found.reshape(40, -1).argmax(1) == places[np.arange(40), which]).all()
    masks = np.zeros((40, SIDE * SIDE), bool)
    masks[np.arange(40), places[np.arange(40), which]] = True
    masks = masks.reshape(40, SIDE, SIDE).repeat(8, 1).repeat(8, 2)
    right, wrong = segmentation_scores(found, masks), segmentation_scores(found, masks[::-1])
    assert right["map_foreground"] > 0.8 > 0.4 > wrong["map_foreground"]
