"""Second-order effects: eq. 3.3 and B.2-B.5 term by term, what the terms mean, blocks, refusals, no traces left."""

import copy
import importlib

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.timm_model import TimmModel
from random_models import demo_clip, pictures, scramble
from second_order_literal import effects as literal_effects
from second_order_literal import run

from optogram.decompose import contributions, directions, effect_norms, effect_projections, effects, heads, second_order
from optogram.errors import DataError, ModelError, ParamError, ShapeError

TOLERANCE = 1e-5


def relative(found, expected):
    return np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected))


def small(quick=False, seed=0, **options):
    """Nine patches, so that the literal form takes a second; with gelu, or OpenAI's quickgelu."""
    shape = {"layers": 4, "width": 32, "head_width": 8, "patch_size": 16, "image_size": 48, "mlp_ratio": 1.5}
    model = demo_clip(**(shape | options))
    model.visual.ln_post.eps = 0.03  # large enough to be missed
    for block in model.visual.transformer.resblocks:
        block.ln_1.eps = 0.05
        if quick:
            block.mlp.gelu = QuickGELU()
    return scramble(model, seed)


class QuickGELU(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def few():
    return pictures(3, 48)


@pytest.mark.parametrize("quick", [False, True], ids=["gelu", "quickgelu"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_matches_the_equations(quick, layer, few):
    model = small(quick, ls_init_value=0.7 if layer == 1 else None)
    neurons = [0, 5, 31, 47]
    expected = literal_effects(model, few, layer, neurons)
    ds = second_order(model, few, layer, neurons=neurons)
    assert relative(effects(ds), expected) < TOLERANCE
    assert relative(effect_norms(ds), np.linalg.norm(expected, axis=2)) < TOLERANCE
    # every single effect, not only the largest
    singly = np.linalg.norm(effects(ds) - expected, axis=2) / np.linalg.norm(expected, axis=2)
    assert singly.max() < TOLERANCE
    plain = literal_effects(model, few, layer, neurons, shifts=False)
    assert relative(effects(ds.assign(constant=0 * ds.constant)), plain) < TOLERANCE


def test_open_clip_s_own_quickgelu_is_the_one_above(few):
    import open_clip

    own = open_clip.transformer.QuickGELU()
    assert torch.equal(own(few), QuickGELU()(few))
    assert not torch.allclose(torch.nn.GELU()(few), own(few), atol=1e-3)


def test_names_dims_and_labels(model, few):
    ds = second_order(model, few, 1)
    assert ds.c.dims == ("image", "layer", "head", "neuron")
    assert ds.D.dims == ("layer", "head", "neuron", "embed")
    assert ds.constant.dims == ds.embedding.dims == ("image", "embed")
    assert dict(ds.sizes) == {"image": 3, "layer": 2, "head": 4, "neuron": 48, "embed": 128}
    assert ds.layer.values.tolist() == [2, 3]
    assert ds.attrs["mlp_layer"] == 1
    assert all(ds[name].dtype == np.float32 for name in ds.data_vars)
    with torch.no_grad():
        assert relative(ds.embedding, model.encode_image(few)) < TOLERANCE


def test_effects_are_what_frozen_attention_passes_on(model, few):
    """Attention and LayerNorm statistics frozen, taking a layer's neurons out changes the later heads by sum phi."""
    layer = 1
    visual, inputs, attention, activations, final = run(model, few)
    blocks, norm = visual.transformer.resblocks, visual.ln_post
    with torch.no_grad():
        written = activations[layer] @ blocks[layer].mlp.c_proj.weight.T
        changed = torch.zeros(3, 128, dtype=torch.float64)
        for later in range(layer + 1, 4):
            block, x = blocks[later], inputs[later]
            scale = torch.sqrt(x.var(-1, correction=0, keepdim=True) + block.ln_1.eps)
            value = written * block.ln_1.weight / scale @ block.attn.in_proj_weight[64:].T
            mixed = torch.einsum("iht,ithd->ihd", attention[later], value.unflatten(2, (4, 8))).flatten(1)
            sigma = torch.sqrt(final.var(-1, correction=0, keepdim=True) + norm.eps)
            changed += mixed @ block.attn.out_proj.weight.T * norm.weight / sigma @ visual.proj
    ds = second_order(model, few, layer)
    assert relative(effects(ds.assign(constant=0 * ds.constant)).sum("neuron"), changed) < TOLERANCE


def test_effects_and_what_comes_from_no_neuron_sum_to_the_later_heads(model, few):
    """All neurons' effects, with their shares of every LayerNorm shift, and the rest of what the heads read: exact."""
    visual, inputs, attention, activations, final = run(model, few)
    blocks, norm = visual.transformer.resblocks, visual.ln_post
    sigma = torch.sqrt(final.var(-1, correction=0, keepdim=True) + norm.eps)
    rest = torch.zeros(3, 128, dtype=torch.float64)
    with torch.no_grad():
        for later in range(1, 4):
            block, x = blocks[later], inputs[later]
            scale = torch.sqrt(x.var(-1, correction=0, keepdim=True) + block.ln_1.eps)
            neurons = sum(activations[layer] @ blocks[layer].mlp.c_proj.weight.T for layer in range(later))
            read = (x - neurons) * block.ln_1.weight / scale
            value = read @ block.attn.in_proj_weight[64:].T + block.attn.in_proj_bias[64:]
            mixed = torch.einsum("iht,ithd->ihd", attention[later], value.unflatten(2, (4, 8))).flatten(1)
            rest += block.attn.out_proj(mixed) * norm.weight / sigma @ visual.proj
    total = sum(effects(second_order(model, few, layer)).sum("neuron").values for layer in range(3))
    ds = contributions(model, few)
    # `heads` shares the final shift among all heads, the effects among all neurons: put it in whole
    shift = ds.offset.values - (ds["mean"] * ds.scale).values[:, None] * ds.gain.values
    later = heads(ds).sel(layer=[1, 2, 3]).sum(("layer", "head")).values - shift * 3 / 4 + shift
    assert relative(total + rest.numpy(), later) < TOLERANCE
    assert relative(total, later) > 0.1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), factor=st.floats(0.1, 3), neuron=st.integers(0, 47))
def test_D_is_linear_in_the_neuron_s_output_weights(seed, factor, neuron):
    model = small(seed=seed, layers=3)
    before = directions(model, 0)
    with torch.no_grad():
        model.visual.transformer.resblocks[0].mlp.c_proj.weight[:, neuron] *= factor
    after = directions(model, 0)
    others = [n for n in range(48) if n != neuron]
    assert relative(after.sel(neuron=neuron), factor * before.sel(neuron=neuron)) < TOLERANCE
    assert after.sel(neuron=others).identical(before.sel(neuron=others))


@settings(max_examples=10, deadline=None)
@given(
    rank=st.lists(st.integers(0, 47), min_size=1, max_size=6, unique=True),
    batch=st.integers(1, 5),
)
def test_blocks_of_neurons_and_images_change_nothing(model, rank, batch):
    images = pictures(4, 48)
    whole = second_order(model, images, 1)
    part = second_order(model, images, 1, neurons=rank, batch=batch)
    assert part.neuron.values.tolist() == rank
    for name in ("c", "D", "constant", "embedding"):
        expected = whole[name].sel(neuron=rank) if "neuron" in whole[name].dims else whole[name]
        assert relative(part[name], expected) < 1e-5, name


def test_directions_are_found_once(model, few):
    ds = second_order(model, few, 1, directions=False)
    assert "D" not in ds
    again = ds.assign(D=directions(model, 1))
    assert relative(effects(again), effects(second_order(model, few, 1))) < 1e-6
    with pytest.raises(ShapeError, match=r"lacks D\..*D comes from `directions`"):
        effects(ds)


def test_effects_expand_lazily(model, few):
    ds = second_order(model, few, 0)
    lazy = effects(ds)
    assert lazy.chunks is not None
    assert lazy.dims == ("image", "neuron", "embed")
    whole = lazy.values
    assert relative(lazy.sel(neuron=[7, 3]).isel(image=[2]), whole[[2]][:, [7, 3]]) < 1e-6
    assert relative(effects(ds.sel(neuron=[7, 3]).isel(image=[2])), whole[[2]][:, [7, 3]]) < 1e-6
    assert relative(effects(ds.chunk(image=1, neuron=5)), whole) < 1e-6
    assert relative(effects(ds.sel(layer=[3])) - ds.constant + effects(ds.sel(layer=[1, 2])), whole) < 1e-5


def test_norms_and_projections_are_those_of_the_effects(model, few, monkeypatch):
    ds = second_order(model, few, 0)
    whole = effects(ds).values.astype(np.float64)
    texts = torch.randn(5, 128, generator=torch.Generator().manual_seed(3)).numpy()
    own = xr.DataArray(np.random.default_rng(0).standard_normal((128, 48)), dims=("embed", "neuron"))
    for _ in range(2):
        assert relative(effect_norms(ds), np.linalg.norm(whole, axis=2)) < TOLERANCE
        assert relative(effect_norms(ds.chunk(image=1)), np.linalg.norm(whole, axis=2)) < TOLERANCE
        along = effect_projections(ds, texts)
        assert along.dims == ("image", "neuron", "text")
        assert relative(along, whole @ texts.T) < TOLERANCE
        assert relative(effect_projections(ds, own), np.einsum("bne,en->bn", whole, own.values)) < TOLERANCE
        # again in blocks of a neuron or so and of an image
        module = importlib.import_module("optogram.decompose.effects")
        monkeypatch.setattr(module, "DIRECTION_BYTES", 20_000)
        monkeypatch.setattr(module, "IMAGE_BYTES", 10)


def test_norms_of_nothing_are_nothing(model, few):
    ds = second_order(model, few, 0)
    nothing = effect_norms(ds.assign(c=0 * ds.c, constant=0 * ds.constant))
    assert not nothing.values.any()


def test_refuses_directions_of_another_space(model, few):
    ds = second_order(model, few, 2)
    with pytest.raises(ShapeError, match=r"shape \(2, 64\), but these effects are of 48 neurons in an embedding of 1"):
        effect_projections(ds, np.zeros((2, 64)))
    with pytest.raises(ShapeError, match=r"shape \(3, 128\)"):
        effect_projections(ds, xr.DataArray(np.zeros((3, 128)), dims=("neuron", "embed")))


def test_half_precision(model, few):
    half = copy.deepcopy(model)
    half.visual.to(torch.bfloat16)
    ds = second_order(half, few, 1)
    assert ds.c.dtype == ds.D.dtype == np.float32
    assert relative(ds.D, directions(model, 1)) < 0.03


def test_layernorms_without_gain_or_bias(few):
    model = small(layers=3)
    for block in model.visual.transformer.resblocks:
        block.ln_1 = torch.nn.LayerNorm(32, elementwise_affine=False)
    plain = second_order(model, few, 0)
    for block in model.visual.transformer.resblocks:
        block.ln_1 = torch.nn.LayerNorm(32)  # ones and zeros
    assert relative(effects(plain), effects(second_order(model, few, 0))) < 1e-6


def test_a_layer_without_later_attention_has_no_effect(model, few):
    for call in (lambda: second_order(model, few, 3), lambda: directions(model, 3)):
        with pytest.raises(ParamError, match=r"layer = 3 is the last one.*no second-order effect\. Choose .*0 to 2"):
            call()
    with pytest.raises(ParamError, match=r"have no second-order effect\.$"):
        second_order(small(layers=1), few, 0)
    for layer in (4, -1):
        with pytest.raises(ParamError, match=f"layer = {layer}, but this model has MLPs 0 to 3"):
            second_order(model, few, layer)


@pytest.mark.parametrize(("neurons", "what"), [([48], "neuron 48"), ([1, -1], "neuron -1"), ([], "no neuron")])
def test_refuses_neurons_that_are_not_there(model, few, neurons, what):
    with pytest.raises(ParamError, match=f"{what} was asked for, but layer 0 has neurons 0 to 47"):
        second_order(model, few, 0, neurons=neurons)


def test_refuses_siglip_and_other_blocks(few):
    siglip = TimmModel("vit_base_patch16_siglip_224", 768, 224, pool="map", proj="none")
    with pytest.raises(ModelError, match=r"attention pooling \(SigLIP\) is not supported.*Supported: open_clip ViTs"):
        second_order(siglip, pictures(1, 224), 0)
    with pytest.raises(ModelError, match="Linear is not supported"):
        second_order(torch.nn.Linear(2, 2), few, 0)
    model = small(layers=2)
    model.visual.transformer.resblocks[1].ln_1 = torch.nn.Identity()
    with pytest.raises(ModelError, match="layer 1 has Sequential after Identity, which is not supported"):
        second_order(model, few, 0)


def test_refuses_wrong_images(model):
    with pytest.raises(ShapeError, match=r"this model takes \(image, 3, 48, 48\)"):
        second_order(model, torch.zeros(2, 3, 64, 64), 0)
    images = pictures(4, 48)
    images[2, 0, 5, 5] = float("inf")
    with pytest.raises(DataError, match="image 2 has a NaN or infinite pixel"):
        second_order(model, images, 0, batch=2)


def test_names_the_neuron_with_a_nan(few):
    model = small(layers=3)
    with torch.no_grad():
        model.visual.transformer.resblocks[1].mlp.c_fc.bias[7] = float("nan")
    with pytest.raises(ModelError, match="neuron 7 of layer 1 has activation nan at token 0 of image 0"):
        second_order(model, few, 1)
    # of layer 0 the activations are fine, but the final LayerNorm sees what layer 1 wrote
    with pytest.raises(ModelError, match=r"infinite c at image 0, attention layer 1, head 0, neuron 5, while the"):
        second_order(model, few, 0, neurons=[5])
    with torch.no_grad():
        model.visual.transformer.resblocks[0].mlp.c_proj.weight[:, 9] = float("inf")
    with pytest.raises(ModelError, match=r"infinite D at attention layer 1, head 0, neuron 9"):
        directions(model, 0, neurons=[4, 9])


def test_leaves_the_model_as_it_was(few):
    model = small(patch_dropout=0.5)
    with torch.no_grad():
        expected = model.encode_image(few)
    model.train()
    model.visual.ln_post.eval()
    flags = [module.training for module in model.modules()]
    values = [parameter.detach().clone() for parameter in model.parameters()]

    def unchanged():
        return (
            [module.training for module in model.modules()] == flags
            and all(torch.equal(a, b) for a, b in zip(model.parameters(), values, strict=True))
            and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        )

    assert relative(second_order(model, few, 1).embedding, expected) < TOLERANCE
    assert unchanged()
    block = model.visual.transformer.resblocks[2].mlp.gelu
    block.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        second_order(model, few, 1)
    del block.forward
    assert unchanged()
