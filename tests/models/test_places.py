"""Maps lie as their places in the image say, whatever the layout; what is no map is refused."""

import pytest
import timm
import torch
import torchvision
from timm.layers.drop import DropPath
from timm.models.convit import ConVit
from timm.models.hiera import Hiera
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.twins import Twins
from timm.models.volo import VOLO
from torch import nn

from optogram.errors import ModelError
from optogram.models.layers import activations, blocks

FOUR = (8, 8, 16, 16)


def swin(**options):
    return SwinTransformer(56, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=7, num_classes=3, **options)


def vit(name="vit_tiny_patch16_224", **options):
    return timm.create_model(name, img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, **options)


FAMILIES = {
    "twins": (lambda: Twins(64, embed_dims=FOUR, num_heads=(1, 1, 2, 2), depths=(1, 1, 2, 2), wss=(2, 2, 2, 2)), 64, 2),
    "pvt": (lambda: PyramidVisionTransformerV2(depths=(1, 1, 1, 2), embed_dims=FOUR, num_heads=(1, 1, 2, 2)), 64, 2),
    "swin": (swin, 56, 7),
    "hiera": (lambda: Hiera((128, 128), embed_dim=8, num_heads=1, stages=(1, 1, 2, 1)), 128, 4),
    "registers": (lambda: vit(reg_tokens=4), 32, 4),
    "no class token": (lambda: vit(class_token=False, global_pool="avg"), 32, 4),
    "distilled": (lambda: vit("deit_tiny_distilled_patch16_224"), 32, 4),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_block_is_the_last_and_its_map_is_timm_s_own(family):
    make, size, side = FAMILIES[family]
    torch.manual_seed(0)
    model, images = make().eval(), torch.randn(2, 3, size, size)
    names = blocks(model, size=size)
    with torch.no_grad():
        found = list(activations(model, images, names).values())
        expected = model.forward_intermediates(images, intermediates_only=True, norm=False)
    assert found[-1].shape[2:] == (side, side)
    torch.testing.assert_close(found[-1], expected[-1], atol=1e-5, rtol=1e-4)
    near = [any(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a in found) for b in expected]
    assert all(near)


def test_blocks_of_torchvision_s_swin_are_its_stages():
    model = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [1, 2], [7, 7], num_classes=3).eval()
    names = blocks(model, size=56)
    assert names == ["features.1", "features.3"]
    images = torch.randn(2, 3, 56, 56)
    found = activations(model, images, names)["features.3"]
    assert torch.equal(found, model.features(images).permute(0, 3, 1, 2))


def test_a_class_token_that_joins_late_leaves_every_block_of_a_vit():
    model = ConVit(32, 8, embed_dim=4, depth=3, num_heads=2, local_up_to_layer=2, num_classes=3).eval()
    names = blocks(model, size=32)
    assert names == ["patch_embed.proj", "blocks.0", "blocks.1", "blocks.2"]
    found = activations(model, torch.randn(2, 3, 32, 32), names)
    assert {each.shape[2:] for each in found.values()} == {(4, 4)}


def test_a_head_of_tokens_is_no_stage():
    ones, widths = (1, 1, 1, 1), (8, 16, 16, 16)
    model = VOLO(ones, 64, embed_dims=widths, num_heads=ones, mlp_ratio=2, stem_hidden_dim=8, num_classes=3).eval()
    assert blocks(model, size=64) == ["network.0", "post_network.1"]


@pytest.mark.parametrize(
    ("name", "stage"),
    [("pit_ti_224", "transformers"), ("mvitv2_tiny", "patch_embed"), ("coat_tiny", r"parallel_blocks\.5")],
)
def test_stages_that_give_several_tensors_are_refused_by_name(name, stage):
    model = timm.create_model(name, num_classes=3).eval()
    with pytest.raises(ModelError, match=rf"^{stage} of \w+ gives no single tensor but several"):
        blocks(model)


class Through(nn.Module):
    """A layer `taken`, an identity that sees what `see` makes of 7 channels of 7 x 7 patches."""

    def __init__(self, see):
        super().__init__()
        self.patches, self.see, self.taken = nn.Conv2d(3, 7, 4, 4), see, nn.Identity()
        self.token, self.norm = nn.Parameter(torch.ones(1, 1, 7)), nn.LayerNorm(7)

    def forward(self, images):
        self.made = self.patches(images)
        return self.taken(self.see(self, self.made))


def tokens(x):
    return x.flatten(2).mT


def unfolded(x):
    """As MobileViT does: the places of like position in a patch of 7 x 1 are an image of their own."""
    return x.unflatten(2, (1, 7)).permute(0, 3, 4, 2, 1).flatten(0, 1)


def back(x):
    return x.unflatten(0, (-1, 7)).permute(0, 4, 3, 1, 2).flatten(2, 3)


LAID_OUT = {
    "channels first": lambda _, x: x,
    "channels last": lambda _, x: x.permute(0, 2, 3, 1),
    "upside down and back": lambda _, x: x.flip(2).permute(0, 2, 3, 1).roll(3, 1).roll(-3, 1),
    "tokens": lambda _, x: tokens(x),
    "tokens second": lambda _, x: x.flatten(2),
    "class token last": lambda self, x: torch.cat([tokens(x), self.token.expand(len(x), 1, 7)], 1),
    "in another order": lambda _, x: tokens(x)[:, torch.randperm(49, generator=torch.Generator().manual_seed(0))],
    "windows and back": lambda _, x: x.unflatten(2, (7, 1)).unflatten(4, (7, 1)).transpose(3, 4).reshape(x.shape),
    "patches to the batch and back": lambda _, x: back(unfolded(x) * 2) / 2,
    "an added gate": lambda _, x: x + x.mean((2, 3), keepdim=True).sigmoid() * 0,
}


@pytest.mark.parametrize("layout", LAID_OUT)
def test_equal_sides_do_not_hide_the_layout(layout):
    model = Through(LAID_OUT[layout]).eval()
    found = activations(model, torch.randn(2, 3, 28, 28), ["taken"])["taken"]
    torch.testing.assert_close(found, model.made)


REFUSED = {
    "attention": lambda _, x: (tokens(x) @ x.flatten(2)).softmax(2)[:, None].expand(-1, 3, -1, -1),
    "heads": lambda _, x: tokens(x).unflatten(2, (7, 1)).transpose(1, 2).expand(-1, -1, -1, 49),
    "windows": lambda _, x: torch.cat([x[..., :4], x[..., 3:]]).flatten(2).mT,
    "half of the tokens": lambda _, x: tokens(x)[:, :24],
    "one token": lambda _, x: tokens(x).mean(1, keepdim=True),
    "mixed tokens": lambda _, x: x.flatten(2) @ torch.ones(49, 49),
    "patches as a batch": lambda _, x: unfolded(x),
    "sorted tokens": lambda _, x: tokens(x).sort(1).values,
    "a sequence for a batch": lambda _, x: tokens(x).transpose(0, 1),
    "five dimensions": lambda _, x: x[:, :, None],
    "a pair": lambda _, x: (x, x),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_what_is_no_map_is_refused(layout):
    model = Through(REFUSED[layout]).eval()
    with pytest.raises(ModelError, match=r"layer 'taken' gives .*`blocks` lists layers that"):
        activations(model, torch.randn(2, 3, 28, 28), ["taken"])


def test_windows_inside_a_stage_are_refused_by_name():
    model = swin().eval()
    with pytest.raises(ModelError, match=r"layer 'layers.0.blocks.0.attn' gives \(8, 49, 8\) for 2 images"):
        activations(model, torch.randn(2, 3, 56, 56), ["layers.0.blocks.0.attn"])


def test_a_part_in_training_mode_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), DropPath(0.5)).eval()
    model[1].train()
    with pytest.raises(ModelError, match=r"Sequential is in training mode \(its 1\): call model\.eval"):
        activations(model, torch.randn(2, 3, 8, 8), ["0"])
