"""A neuron wired through one later head to a text direction: its effect, its rank-1 form and the text are recovered."""

import numpy as np
import pytest
import torch
import xarray as xr
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from optogram.decompose import effect_norms, effect_projections, effects, second_order
from optogram.methods import ablate_effects, largest_effects, rank_one, replace_effects
from optogram.methods.neurons.descriptions import describe_neurons

NEURON, LAYER, LATER, HEAD, SLOT = 11, 1, 3, 2, 5
CHANNEL, WRITTEN = 7, 20  # where the neuron writes in the residual stream, and where the head does
TEXT = 3
IMAGES, WIDTH, EMBED = 60, 32, 24


@pytest.fixture(scope="module")
def planted():
    """The model, 60 images of which 12 have the mark that fires the neuron, and 6 texts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = CLIPVisionCfg(layers=4, width=WIDTH, head_width=8, patch_size=8, image_size=24, mlp_ratio=1)
        text = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)
        model = CLIP(EMBED, vision, text).eval()
    generator = torch.Generator().manual_seed(1)
    texts = torch.nn.functional.normalize(torch.randn(6, EMBED, generator=generator), dim=1)
    visual = model.visual
    blocks = visual.transformer.resblocks
    with torch.no_grad():
        # the patch embedding puts the mark, a red patch, into channel 0 of the residual stream
        visual.conv1.weight.mul_(0.3)
        visual.conv1.weight[0] = 0
        visual.conv1.weight[0, 0] = 1 / 64
        visual.class_embedding[0] = 0
        visual.positional_embedding[:, 0] = 0
        # only this neuron writes into its channel, and only one value of one later head reads it
        mlp = blocks[LAYER].mlp
        mlp.c_fc.weight[NEURON] = 0
        mlp.c_fc.weight[NEURON, 0] = 4
        mlp.c_fc.bias[NEURON] = -8
        mlp.c_proj.weight[:, NEURON] = 0
        mlp.c_proj.weight[CHANNEL, NEURON] = 2
        for index, block in enumerate(blocks):
            value = block.attn.in_proj_weight[2 * WIDTH :]
            value[:, CHANNEL] = 0
            if index == LATER:
                value[8 * HEAD + SLOT] = 0
                value[8 * HEAD + SLOT, CHANNEL] = 1.5
                block.attn.out_proj.weight[:, 8 * HEAD + SLOT] = 0
                block.attn.out_proj.weight[WRITTEN, 8 * HEAD + SLOT] = 3
        visual.ln_post.weight.add_(0.3 * torch.randn(WIDTH, generator=generator))
        visual.proj[WRITTEN] = texts[TEXT] / visual.ln_post.weight[WRITTEN]
    images = 0.3 * torch.randn(IMAGES, 3, 24, 24, generator=generator)
    marked = torch.randperm(IMAGES, generator=generator)[:12].sort().values
    for place, image in enumerate(marked):
        y, x = divmod(place % 9, 3)
        images[image, 0, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 1 + 0.1 * place
    return model, images, marked.numpy(), texts.numpy()


@pytest.fixture(scope="module")
def ds(planted):
    return second_order(planted[0], planted[1], LAYER)


def test_the_effect_goes_through_the_wired_head_to_the_text(planted, ds):
    direction = ds.D.sel(neuron=NEURON)
    expected = np.zeros((2, 4, EMBED))
    expected[LATER - LAYER - 1, HEAD] = 2 * 1.5 * 3 * planted[3][TEXT]
    assert np.abs(direction - expected).max() < 1e-5
    # no other neuron goes only there: the rest is random
    alone = np.sqrt((ds.D**2).sum("embed"))
    share = alone.sel(layer=LATER, head=HEAD) / alone.sum(("layer", "head"))
    assert share.idxmax("neuron") == NEURON
    assert share.drop_sel(neuron=NEURON).max() < 0.7


def test_the_marked_images_have_the_largest_effects(planted, ds):
    norms = effect_norms(ds).sel(neuron=NEURON)
    marked = np.isin(np.arange(IMAGES), planted[2])
    assert norms.values[marked].min() > 3 * norms.values[~marked].max()
    large = largest_effects(effect_norms(ds), 12).sel(neuron=NEURON)
    assert np.flatnonzero(large).tolist() == planted[2].tolist()


def test_the_rank_one_form_is_the_text(planted, ds):
    form = rank_one(ds, 12).sel(neuron=NEURON)
    assert sorted(form.top.values) == planted[2].tolist()
    assert form.r.values @ planted[3][TEXT] > 0.9999
    assert float(form.explained) > 0.9999
    scores = effect_projections(ds, planted[3]).sel(neuron=NEURON).isel(image=planted[2])
    assert (scores.argmax("text") == TEXT).all()
    phi = effects(ds).sel(neuron=NEURON)
    x = (phi - form.b) @ form.r.drop_vars("neuron")
    assert float(np.abs(phi - form.b - x * form.r).max()) < 1e-3 * float(np.abs(phi).max())


def test_ablating_the_neuron_takes_the_text_out_of_the_marked_images(planted, ds):
    marked, text = planted[2], planted[3][TEXT]
    one = ds.sel(neuron=[NEURON])
    change = ablate_effects(one) - ds.embedding.values
    assert (change[marked] @ text < 0).all()
    # the rest is the neuron's share of the LayerNorms' shifts
    assert np.abs(change - np.outer(change @ text, text)).max() < 3e-3 * np.abs(change).max()
    where = largest_effects(effect_norms(one), 12)
    assert np.allclose(ablate_effects(one, where=~where)[marked], ds.embedding.values[marked], atol=1e-6)
    kept = replace_effects(one, rank_one(one, 12)) - ds.embedding.values
    assert np.abs(kept).max() < 3e-3 * np.abs(change).max()


def test_its_texts_and_its_images_name_the_mark(planted, ds):
    """All of it together, as the stage `neurons` has it: labels tell the mark, a text is the planted direction."""
    _, _, marked, texts = planted
    names = ["a mark", *(f"text {k}" for k in range(1, 40))]
    random = np.random.default_rng(5).standard_normal((len(names) - 1, EMBED)).astype(np.float32)
    vectors = np.concatenate([texts[[TEXT]], random / np.linalg.norm(random, axis=1, keepdims=True)])
    pool = xr.Dataset(
        {
            "embedding": (("text", "embed"), vectors.astype(np.float32)),
            "attribute": ("text", ["mark"] + [""] * (len(names) - 1)),
            "value": ("text", ["yes"] + [""] * (len(names) - 1)),
        },
        coords={"text": names},
    )
    is_marked = np.isin(np.arange(IMAGES), marked).astype(np.int16)
    labels = xr.DataArray(is_marked[:, None], dims=("image", "attribute"), coords={"attribute": ["mark"]})
    values = xr.DataArray([["no", "yes"]], dims=("attribute", "value"))
    found = describe_neurons(
        ds.assign_coords(image=[f"i{k}" for k in range(IMAGES)]),
        {"planted": pool},
        labels,
        values,
        largest=12,
        percentile=80,
        sizes=[1, 3],
        sparsity=3,
        texts=3,
        grouped=8,
        separation=0.3,
        seed=0,
        permutations=100,
    ).sel(neuron=NEURON)
    assert str(found.text.isel(pool=0, step=0).item()) == "a mark"
    assert float(found.weight.isel(pool=0, step=0)) > 0.9
    assert set(found.top_image.values.tolist()) == {f"i{k}" for k in marked}
    assert (found.image_attribute.item(), found.image_value.item()) == ("mark", "yes")
    through = np.abs(found.through)
    assert through.sel(layer=LATER, head=HEAD) > 0.999 * through.sum()
    active = effect_norms(ds).sel(neuron=NEURON).values > found.threshold.item()
    assert np.flatnonzero(active).tolist() == marked.tolist()
