"""Heatmaps: each beside a literal transcription of its source, and on a ViT wired so that the answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from random_models import sharp_tower

from optogram.decompose.contributions import contributions
from optogram.decompose.towers import ClassTokenTower
from optogram.errors import ModelError, ParamError, ShapeError
from optogram.methods.attribution import heatmaps as h

LAYERS, HEADS, GRID = 3, 4, (4, 3)


@pytest.fixture(scope="module")
def model():
    return sharp_tower(LAYERS, HEADS, 2.0, 20)


@pytest.fixture(scope="module")
def images():
    return torch.randn(5, 3, 32, 24, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def targets():
    return F.normalize(torch.randn(5, 20, generator=torch.Generator().manual_seed(5)), dim=1)


def close(found, expected):
    return np.allclose(found, np.asarray(expected), rtol=1e-4, atol=1e-5 * np.abs(np.asarray(expected)).max())


def attention_maps(model, image, target):
    """Every layer's attention (head, query, token) and its gradient, one image and one head at a time, in float64."""
    model = model.double()
    try:
        x = model._embeds(image[None].double())[0]
        maps = []
        for block in model.transformer.resblocks:
            y = block.ln_1(x)
            q, k, v = (y @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(x.shape[1], dim=1)
            size, outs = x.shape[1] // HEADS, []
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                attention = torch.softmax(q[:, part] @ k[:, part].T / size**0.5, dim=1)
                attention.retain_grad()
                maps.append(attention)
                outs.append(attention @ v[:, part])
            x = x + block.ls_1(block.attn.out_proj(torch.cat(outs, 1)))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        embedding = model.ln_post(x[0]) @ model.proj
        (embedding @ target.double() / embedding.norm() / target.double().norm()).backward()
        stack = [torch.stack([m.detach() for m in maps[i : i + HEADS]]) for i in range(0, len(maps), HEADS)]
        grads = [torch.stack([m.grad for m in maps[i : i + HEADS]]) for i in range(0, len(maps), HEADS)]
        return stack, grads
    finally:
        model.zero_grad(set_to_none=True)
        model.float()


def literal_rollout(attentions, _):
    """`generate_rollout` and `compute_rollout_attention` of Chefer et al.'s repository."""
    matrices = [a.mean(0) + torch.eye(a.shape[1], dtype=a.dtype) for a in attentions]
    matrices = [m / m.sum(-1, keepdim=True) for m in matrices]
    joint = matrices[0]
    for matrix in matrices[1:]:
        joint = matrix @ joint
    return joint[0, 1:]


def literal_grad_cam(attentions, gradients):
    """`generate_cam_attn` of the same."""
    cam = attentions[-1][:, 0, 1:].reshape(HEADS, *GRID)
    grad = gradients[-1][:, 0, 1:].reshape(HEADS, *GRID).mean(dim=[1, 2], keepdim=True)
    return (cam * grad).mean(0).clamp(min=0)


def literal_chefer(attentions, gradients):
    """`interpret` for CLIP images in the repository of Chefer et al., ICCV 2021."""
    relevance = torch.eye(attentions[0].shape[1], dtype=attentions[0].dtype)
    for attention, gradient in zip(attentions, gradients, strict=True):
        cam = (gradient * attention).clamp(min=0).mean(dim=0)
        relevance = relevance + cam @ relevance
    return relevance[0, 1:]


def shared_out(x, weight, bias, relevance):
    """Relevance of a linear layer's inputs: each output's is shared by the inputs that contributed with its sign."""
    found = torch.zeros_like(x)
    for token in range(len(x)):
        for output in range(len(weight)):
            contributed = x[token] * weight[output]
            positive = contributed.sum() + bias[output] > 0
            chosen = contributed.clamp(min=0) if positive else contributed.clamp(max=0)
            if chosen.sum() != 0:
                found[token] += relevance[token, output] * chosen / chosen.sum()
    return found


def normed_out(x, norm, relevance):
    """Of a LayerNorm's inputs: its outputs are sums over its inputs, whose scale is a constant."""
    scale = 1 / (x.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    through = norm.weight * (torch.eye(x.shape[1]) - 1 / x.shape[1]).to(x)  # input by output
    contributed = x[:, :, None] * through * scale[:, :, None]
    return (contributed * (relevance / norm(x))[:, None, :]).sum(2)


@torch.no_grad()
def literal_lrp(model, image, target):
    """Relevance of the patches (LRP), and of the last layer's attention in the class token's row (partial LRP).

    In terms of relevance itself, from the last layer to the first; sums share it in proportion.
    """
    model = model.double()
    try:
        patches = model.conv1(image[None].double())[0].flatten(1).T
        x = torch.cat([model.class_embedding[None], patches]) + model.positional_embedding
        embedded, x, kept = x, model.ln_pre(x), []
        size = x.shape[1] // HEADS
        for block in model.transformer.resblocks:
            y = block.ln_1(x)
            q, k, v = (y @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(x.shape[1], dim=1)
            parts = [slice(head * size, (head + 1) * size) for head in range(HEADS)]
            attention = [torch.softmax(q[:, part] @ k[:, part].T / size**0.5, dim=1) for part in parts]
            mixed = torch.cat([a @ v[:, part] for a, part in zip(attention, parts, strict=True)], 1)
            attended = block.ls_1(block.attn.out_proj(mixed))
            middle = x + attended
            hidden = block.mlp.c_fc(block.ln_2(middle))
            written = block.ls_2(block.mlp(block.ln_2(middle)))
            kept.append((block, x, y, v, attention, parts, mixed, attended, middle, hidden, written))
            x = middle + written
        final = model.ln_post(x[:1])
        relevance = torch.zeros_like(x)
        relevance[:1] = normed_out(x[:1], model.ln_post, final * (model.proj @ target.double()))
        row = None
        for block, x, y, v, attention, parts, mixed, attended, middle, hidden, written in reversed(kept):
            to_written = relevance * written / (middle + written)
            gelu = block.mlp.gelu(hidden)
            to_gelu = shared_out(gelu, block.mlp.c_proj.weight, block.mlp.c_proj.bias, to_written)
            to_norm = shared_out(block.ln_2(middle), block.mlp.c_fc.weight, block.mlp.c_fc.bias, to_gelu)
            relevance = relevance * middle / (middle + written) + normed_out(middle, block.ln_2, to_norm)
            to_attended = relevance * attended / middle
            to_mixed = shared_out(mixed, block.attn.out_proj.weight, block.attn.out_proj.bias, to_attended)
            to_v, rows = torch.zeros_like(v), []
            for a, part in zip(attention, parts, strict=True):
                # query, token, dimension
                each = a[:, :, None] * v[None, :, part] * (to_mixed / mixed)[:, None, part]
                to_v[:, part] = each.sum(0)
                rows.append(each.sum(2)[0, 1:].clamp(min=0))
            row = torch.stack(rows).mean(0) if row is None else row
            width = v.shape[1]
            to_y = shared_out(y, block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :], to_v)
            relevance = relevance * x / middle + normed_out(x, block.ln_1, to_y)
        relevance = normed_out(embedded, model.ln_pre, relevance)
        return {"lrp": (relevance[1:] * patches / embedded[1:]).sum(1), "partial_lrp": row}
    finally:
        model.float()


def test_lrp_matches_the_literal_form(model, images, targets):
    for method in ("lrp", "partial_lrp"):
        found = h.heatmaps(method, model.double(), images[:2].double(), targets[:2])
        assert found.dtype == np.float32
        for index in range(2):
            expected = literal_lrp(model, images[index], targets[index])[method]
            assert close(found[index], expected.reshape(GRID)), (method, index)


@pytest.mark.parametrize(
    ("method", "literal"),
    [
        ("raw_attention", lambda attentions, _: attentions[-1].mean(0)[0, 1:]),
        ("rollout", literal_rollout),
        ("grad_cam", literal_grad_cam),
        ("chefer", literal_chefer),
    ],
)
@pytest.mark.parametrize("batch", [16, 2])
def test_matches_the_literal_form(model, images, targets, method, literal, batch):
    found = h.heatmaps(method, model, images, targets, batch=batch)
    assert found.shape == (5, *GRID)
    assert found.dtype == np.float32
    for index in range(len(images)):
        expected = literal(*attention_maps(model, images[index], targets[index]))
        assert close(found[index], expected.reshape(GRID)), index


def test_decomposition_matches_the_literal_form(model, images, targets):
    classes = torch.randn(7, 20, generator=torch.Generator().manual_seed(6))
    token = contributions(model, images).token.values
    plain = np.einsum("npe,ne->np", token[:, 1:], targets.numpy()).reshape(5, *GRID)
    assert close(h.decomposition(model, images, targets, batch=2), plain)
    averaged = [np.einsum("npe,e->np", token[:, 1:], c).reshape(5, *GRID) for c in classes.numpy()]
    expected = plain - np.mean(averaged, 0)
    assert close(h.heatmaps("decomposition", model, images, targets, classes=classes), expected)
    stored = contributions(model, images).chunk(image=2).token
    assert close(h.token_heatmaps(stored, targets.numpy(), classes=classes.numpy(), grid=GRID), expected)


def test_explicit_forward_is_the_model(model, images):
    with torch.no_grad():
        expected = model(images).numpy()
    for since in (0, LAYERS - 1, LAYERS):
        shapes = []
        found = h._explicit(ClassTokenTower(model), images, lambda a: shapes.append(a.shape), since=since)  # noqa: B023
        assert close(found.detach().numpy(), expected)
        assert shapes == [(5, HEADS, 13, 13)] * LAYERS


@pytest.mark.parametrize("method", h.METHODS)
def test_leaves_the_model_as_it_was_whatever_the_mode(model, images, targets, method):
    expected = h.heatmaps(method, model, images, targets)
    model.train().requires_grad_(False)
    try:
        with torch.inference_mode():
            assert close(h.heatmaps(method, model, images.clone(), targets.clone()), expected)
        assert all(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.eval().requires_grad_(True)
    h.heatmaps(method, model, images, targets)
    assert all(parameter.grad is None for parameter in model.parameters())


def wired(brightness):
    """A one-layer ViT on a grid of 4 x 4: the class token looks for bright patches and writes what they are along 0.

    Width 6: dimension 0 is a patch's brightness, 1 marks the class token, the last two keep every token's LayerNorm
    alike, so that brightness passes through it almost unchanged.
    """
    tower = VisionTransformer(8, 2, 6, 1, 1, 1.0, no_ln_pre=True, output_dim=2).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
        for norm in (tower.ln_post, tower.transformer.resblocks[0].ln_1):
            norm.weight.fill_(1)
        tower.conv1.weight[0] = 1 / 12
        tower.positional_embedding[:, 4], tower.positional_embedding[:, 5] = 10, -10
        tower.class_embedding[1] = 10
        attention = tower.transformer.resblocks[0].attn
        attention.in_proj_weight[0, 1] = 5  # query: is the class token
        attention.in_proj_weight[6, 0] = 5  # key: brightness
        attention.in_proj_weight[12, 0] = 5  # value: brightness
        attention.out_proj.weight[0, 0] = 1
        tower.proj[0, 0], tower.proj[1, 1] = 1, 1
    images = torch.zeros(len(brightness), 3, 8, 8)
    for image, (row, column) in zip(images, brightness, strict=True):
        image[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 5
    return tower, images


@pytest.mark.parametrize("method", h.METHODS)
def test_peaks_at_the_planted_patch(method):
    spots = [(0, 0), (1, 2), (3, 1), (2, 3)]
    tower, images = wired(spots)
    found = h.heatmaps(method, tower, images, torch.tensor([[1.0, 0.0]]).expand(4, -1))
    for heatmap, spot in zip(found, spots, strict=True):
        assert np.unravel_index(heatmap.argmax(), heatmap.shape) == spot
        assert heatmap[spot] > 1.5 * np.delete(heatmap.ravel(), heatmap.argmax()).max()


def test_attention_pooled_models():
    tower = TimmModel("vit_base_patch16_siglip_224", 768, 224, pool="map", proj="none")
    tower.trunk.blocks = tower.trunk.blocks[:1]
    images, targets = torch.randn(1, 3, 224, 224), torch.randn(1, 768)
    assert h.decomposition(tower, images, targets).shape == (1, 14, 14)
    assert h.raw_attention(tower, images).sum() == pytest.approx(1, abs=1e-5)
    for method in ("chefer", "lrp", "partial_lrp"):
        with pytest.raises(ModelError, match=f"{method} is defined for class-token ViTs"):
            h.heatmaps(method, tower, images, targets)


def test_refusals(model, images, targets):
    with pytest.raises(ParamError, match=r"heatmap method = 'chefr'.*Did you mean 'chefer'"):
        h.heatmaps("chefr", model, images, targets)
    for method in ("decomposition", "grad_cam", "chefer", "lrp", "partial_lrp"):
        with pytest.raises(ShapeError, match=r"targets have shape \(4, 20\), expected \(5, embed\)"):
            h.heatmaps(method, model, images, targets[:4])
        with pytest.raises(ShapeError, match="targets have 19 dimensions"):
            h.heatmaps(method, model, images, targets[:, :19])
    token = contributions(model, images).token
    with pytest.raises(ShapeError, match="token holds 13 tokens"):
        h.token_heatmaps(token, targets)
    with pytest.raises(ShapeError, match="computed with every token"):
        h.token_heatmaps(token.isel(token=[0]), targets)
