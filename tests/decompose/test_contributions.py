"""The decomposition: exact sums on every supported architecture, the literal equations, refusals, no traces left."""

import copy
import importlib
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from random_models import demo_clip, named_clip, pictures, scramble
from torch.utils._python_dispatch import TorchDispatchMode

import optogram.decompose
from optogram.decompose import contributions, heads, token_scores
from optogram.errors import DataError, ModelError, ParamError, ShapeError

TOLERANCE = 1e-5
VARIABLES = {"z", "basis", "scale", "mean", "bias", "gain", "offset", "mlp", "token", "embedding"}


def relative(found, expected):
    return np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected))


def embed(model, images):
    with torch.no_grad():
        return model.encode_image(images).numpy()


def assert_sums(model, images):
    ds = contributions(model, images)
    expected = embed(model, images)
    by_head = heads(ds).sum(("layer", "head")).values
    assert relative(by_head + ds.mlp.sum("block"), expected) < TOLERANCE
    assert relative(ds.token.sum("token"), by_head) < TOLERANCE
    assert relative(ds.embedding, expected) < TOLERANCE
    return ds


def literal(visual, image):
    """Thesis eq. 2.5, 2.6, A.1-A.4 as written, float64: c (layer, head, token, embed), MLP terms (block, embed)."""
    visual = visual.double()
    try:
        with torch.no_grad():
            x = visual._embeds(image[None].double())[0]
            tokens, width = x.shape
            residual_terms, c = [x[0]], []
            for block in visual.transformer.resblocks:
                attention, y = block.attn, block.ln_1(x)
                size = width // attention.num_heads
                q, k, v = (y @ attention.in_proj_weight.T + attention.in_proj_bias).split(width, dim=1)
                layer, out = [], torch.zeros_like(x) + attention.out_proj.bias
                for h in range(attention.num_heads):
                    part = slice(h * size, (h + 1) * size)
                    alpha = torch.softmax(q[:, part] @ k[:, part].T / size**0.5, dim=1)
                    written = v[:, part] @ attention.out_proj.weight[:, part].T
                    out = out + alpha @ written
                    share = attention.out_proj.bias / (attention.num_heads * tokens)
                    layer.append(block.ls_1(alpha[0][:, None] * written + share))
                c.append(torch.stack(layer))
                x = x + block.ls_1(out)
                step = block.ls_2(block.mlp(block.ln_2(x)))
                residual_terms.append(step[0])
                x = x + step
            c = torch.stack(c)
            norm, final = visual.ln_post, x[0]
            sigma = torch.sqrt(final.var(correction=0) + norm.eps)
            shift = (norm.bias - final.mean() * norm.weight / sigma) / c[..., 0].numel()
            c = (c * norm.weight / sigma + shift) @ visual.proj
            return c.numpy(), (torch.stack(residual_terms) * norm.weight / sigma @ visual.proj).numpy()
    finally:
        visual.float()


def test_demo_sums(demo, images):
    ds = assert_sums(demo, images)
    assert set(ds.variables) - {"layer", "head", "block"} == VARIABLES
    assert all(variable.dtype == np.float32 for name, variable in ds.variables.items() if name in VARIABLES)
    assert ds.z.dims == ("image", "layer", "head", "head_dim")
    assert dict(ds.sizes) == {
        "image": 3, "layer": 5, "head": 8, "head_dim": 16, "embed": 128, "block": 6, "token": 65,
    }  # fmt: skip
    assert ds.layer.values.tolist() == [0, 1, 2, 3, 4]


def test_matches_the_equations(images):
    model = demo_clip(layers=3, ls_init_value=0.7)
    ds = contributions(model, images)
    expanded = heads(ds).values
    directions = torch.randn(4, 128, generator=torch.Generator().manual_seed(2))
    scores = token_scores(model, images, directions)
    for index, image in enumerate(images):
        c, mlp = literal(model.visual, image)
        assert relative(expanded[index], c.sum(2)) < TOLERANCE
        assert relative(ds.token[index], c.sum((0, 1))) < TOLERANCE
        assert relative(ds.mlp[index], mlp) < TOLERANCE
        assert relative(scores[index], c @ directions.double().numpy().T) < TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "ViT-B-32",
        "ViT-B-32-quickgelu",
        "ViT-B-16",
        "ViT-B-16-SigLIP",
        pytest.param("ViT-L-14", marks=pytest.mark.slow),
    ],
)
def test_named_architectures_sum(name):
    assert_sums(named_clip(name), pictures(2, 224))


@settings(max_examples=12, deadline=None)
@given(
    layers=st.integers(1, 3),
    count=st.integers(1, 4),
    head_width=st.sampled_from([4, 12]),
    patch=st.sampled_from([(8, 8), (16, 8)]),
    layer_scale=st.sampled_from([None, 0.3]),
    no_ln_pre=st.booleans(),
)
def test_any_small_vit_sums(layers, count, head_width, patch, layer_scale, no_ln_pre):
    model = demo_clip(
        layers=layers, width=count * head_width, head_width=head_width, patch_size=patch, image_size=(32, 16),
        ls_init_value=layer_scale, no_ln_pre=no_ln_pre,
    )  # fmt: skip
    assert_sums(model, torch.randn(2, 3, 32, 16))


def test_siglip_has_one_layer_and_a_silent_query():
    tower = TimmModel("vit_base_patch16_siglip_224", 768, 224, pool="map", proj="none")
    tower.trunk.blocks = tower.trunk.blocks[:1]
    tower = scramble(tower)
    images = pictures(1, 224)
    ds = contributions(tower, images)
    with torch.no_grad():
        expected = tower(images).numpy()
    assert relative(heads(ds).sum(("layer", "head")) + ds.mlp.sum("block"), expected) < TOLERANCE
    assert dict(ds.z.sizes) == {"image": 1, "layer": 1, "head": 12, "head_dim": 64}
    assert ds.sizes["token"] == 197
    assert not ds.token[:, 0].any()
    assert not ds.mlp[:, 0].any()
    assert float(ds.scale[0]) == 1
    assert not any(ds[name].any() for name in ("mean", "gain", "offset"))
    directions = torch.randn(2, 768)
    scores = token_scores(tower, images, directions, heads=[7])
    assert scores.sizes["token"] == 197
    assert not scores[..., 0, :].any()
    assert relative(scores.sum("token")[:, 0, 0], heads(ds)[:, 0, 7].values @ directions.numpy().T) < TOLERANCE


def test_batches_and_tokens_change_nothing(demo):
    images = pictures(5)
    whole = contributions(demo, images)
    split = contributions(demo, images, batch=2)
    for name in VARIABLES:
        assert relative(split[name], whole[name]) < 1e-6, name
    without = contributions(demo, images, tokens=False)
    assert set(without.variables) == set(whole.variables) - {"token"}
    assert relative(without.z, whole.z) < 1e-6
    assert token_scores(demo, images, torch.eye(128)[:2], batch=2).sizes["image"] == 5


def test_tower_alone_and_half_precision(demo, images):
    assert contributions(demo.visual, images).identical(contributions(demo, images))
    half = copy.deepcopy(demo)
    half.visual.to(torch.bfloat16)
    ds = contributions(half, images)
    assert ds.z.dtype == np.float32
    assert relative(heads(ds).sum(("layer", "head")) + ds.mlp.sum("block"), embed(demo, images)) < 0.03


def test_token_scores_sum_to_heads(demo, images):
    directions = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    scores = token_scores(demo, images, directions, layers=[4, 1], heads=[2, 7, 0])
    assert scores.dims == ("image", "layer", "head", "token", "text")
    expected = heads(contributions(demo, images)).sel(layer=[4, 1], head=[2, 7, 0]).values @ directions.numpy().T
    assert relative(scores.sum("token"), expected) < TOLERANCE
    assert scores.layer.values.tolist() == [4, 1]


def test_leaves_the_model_as_it_was(images):
    model = demo_clip(patch_dropout=0.5)
    expected = embed(model, images)
    model.train()
    model.visual.ln_post.eval()
    model.visual.proj.requires_grad_(False)
    flags = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    values = [parameter.detach().clone() for parameter in model.parameters()]

    def unchanged():
        return (
            [module.training for module in model.modules()] == flags
            and [parameter.requires_grad for parameter in model.parameters()] == wanted
            and all(torch.equal(a, b) for a, b in zip(model.parameters(), values, strict=True))
            and all(parameter.grad is None for parameter in model.parameters())
            and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        )

    assert relative(contributions(model, images).embedding, expected) < TOLERANCE
    assert unchanged()
    block = model.visual.transformer.resblocks[2].mlp
    block.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        contributions(model, images)
    del block.forward
    assert unchanged()


def test_never_builds_attention_over_all_queries(demo, images):
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.extend(tuple(o.shape) for o in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(o))
            return out

    with Watch():
        contributions(demo, images)
    tokens, width, total = 65, 128, 8
    assert seen
    assert not [shape for shape in seen if shape[-2:] == (tokens, tokens)]
    assert max(np.prod(shape) for shape in seen) < len(images) * tokens * total * width


def vision(**options):
    return demo_clip(layers=2, **options)


def transformer(**options):
    return open_clip.transformer.VisionTransformer(32, 16, 16, 2, 2, 2.0, output_dim=16, **options)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ModifiedResNet((1, 1, 1, 1), 32, 4, image_size=64, width=8), "ModifiedResNet"),
        (lambda: transformer(attentional_pool=True, attn_pooler_heads=2), "attentional pooler"),
        (lambda: vision(pool_type="avg"), "pooling 'avg'"),
        (lambda: vision(final_ln_after_pool=True), "final_ln_after_pool"),
        (lambda: vision(scale_attn_inner=True), "CustomResidualAttentionBlock"),
        (lambda: TimmModel("vit_tiny_patch16_224", 32, 224, pool="token"), "without a latent attention pool"),
        (lambda: TimmModel("vit_base_patch16_siglip_224", 32, 224, pool="map"), "projection after"),
        (lambda: torch.nn.Linear(2, 2), "Linear"),
    ],
)
def test_refuses_other_architectures(build, named):
    with pytest.raises(ModelError, match=r"not supported\. Supported: open_clip ViTs") as caught:
        contributions(build(), pictures(1))
    assert named in str(caught.value)


def test_refuses_a_missing_final_norm_or_projection(images):
    model = demo_clip(layers=1)
    model.visual.ln_post = torch.nn.Identity()
    with pytest.raises(ModelError, match="Identity in place of a LayerNorm"):
        contributions(model, images)
    model = demo_clip(layers=1)
    model.visual.proj = None
    with pytest.raises(ModelError, match="no projection"):
        contributions(model, images)


def test_plain_layernorm_without_gain_or_bias(images):
    model = demo_clip(layers=2)
    model.visual.ln_post = torch.nn.LayerNorm(128, elementwise_affine=False)
    assert_sums(model, images)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 64, 64), (2, 1, 64, 64), (0, 3, 64, 64)])
@pytest.mark.misfits
def test_refuses_images_of_another_shape(demo, shape):
    with pytest.raises(ShapeError, match=r"this model takes \(image, 3, 64, 64\)"):
        contributions(demo, torch.zeros(shape))


@pytest.mark.misfits
def test_refuses_raw_pixels(demo):
    with pytest.raises(DataError, match=r"uint8, expected preprocessed floats"):
        contributions(demo, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_names_the_first_broken_image(demo):
    images = pictures(4)
    images[2, 0, 5, 5] = float("nan")
    with pytest.raises(DataError, match="image 2 has a NaN"):
        contributions(demo, images, batch=2)
    images[2] = 1e30
    with pytest.raises(ModelError, match=r"for image 2, the first of 1 out of 4 images; its pixels are finite"):
        contributions(demo_overflowing(), images, batch=2)


def demo_overflowing():
    model = demo_clip(layers=1, no_ln_pre=True)
    with torch.no_grad():
        model.visual.conv1.weight.mul_(1e10)
    return model


def test_refuses_wrong_directions_and_indices(demo, images):
    with pytest.raises(ShapeError, match=r"\(2, 64\), but this model embeds into \(text, 128\)"):
        token_scores(demo, images, torch.zeros(2, 64))
    with pytest.raises(ParamError, match=r"layers = \[5\], but this model has layers 0 to 4"):
        token_scores(demo, images, torch.zeros(2, 128), layers=[5])
    with pytest.raises(ParamError, match="heads = "):
        token_scores(demo, images, torch.zeros(2, 128), heads=[])


def test_exports_are_lazy_and_survive_submodule_imports():
    script = "import sys, optogram.decompose; assert not {'torch', 'xarray', 'open_clip'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    importlib.reload(optogram.decompose)
    importlib.import_module("optogram.decompose.contributions")
    # the submodule of the same name must not hide the function, whichever was imported first
    assert optogram.decompose.contributions is contributions
    assert callable(optogram.decompose.heads)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = optogram.decompose.nothing
