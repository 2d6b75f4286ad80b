"""Hooks and wrappers on modules whose work is done by hand are refused; those that do run are seen."""

import open_clip
import pytest
import torch
from torch import nn

from optogram.decompose.contributions import contributions
from optogram.decompose.interventions import first_order
from optogram.decompose.second_order import second_order
from optogram.errors import ModelError


@pytest.fixture
def model():
    torch.manual_seed(0)
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8}
    text = {"context_length": 4, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1}
    return open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text).eval()


IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BY_HAND = {
    "image tower": "",
    "its transformer": "transformer",
    "resblocks.0": "transformer.resblocks.0",
    "resblocks.1.attn": "transformer.resblocks.1.attn",
    "resblocks.1.attn.out_proj": "transformer.resblocks.1.attn.out_proj",
    "resblocks.0.ls_1": "transformer.resblocks.0.ls_1",
    "final LayerNorm": "ln_post",
    "patch dropout": "patch_dropout",
}


@pytest.mark.parametrize("named", BY_HAND)
@pytest.mark.parametrize("kind", ["forward hook", "forward pre-hook", "forward of its own"])
def test_work_that_would_be_passed_by_is_refused(model, named, kind):
    module = model.visual.get_submodule(BY_HAND[named])
    if kind == "forward hook":
        module.register_forward_hook(lambda *_: None)
    elif kind == "forward pre-hook":
        module.register_forward_pre_hook(lambda *_: None)
    else:
        module.forward = module.forward
    with pytest.raises(ModelError, match=rf"{named} \(\w+\) has a {kind}, which the decomposition would pass by"):
        contributions(model, IMAGES)


class Adapted(nn.Linear):
    def forward(self, input):
        return super().forward(input) + 1


def test_other_kinds_of_layers_are_refused(model):
    block = model.visual.transformer.resblocks[0]
    block.mlp.c_proj = Adapted(64, 16)
    with pytest.raises(ModelError, match=r"resblocks.0.mlp.c_proj \(Adapted\) has the forward of .*Adapted"):
        second_order(model, IMAGES, 0)
    assert contributions(model, IMAGES).embedding.shape == (2, 8)
    block.mlp.add_module("after", nn.Tanh())
    block.mlp.c_proj = nn.Linear(64, 16)
    with pytest.raises(ModelError, match=r"layer 0 has something after c_proj"):
        first_order(model, IMAGES, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_modules_are_refused_by_name(model):
    model.visual.patch_dropout = torch.jit.script(nn.Identity())
    with pytest.raises(ModelError, match=r"patch dropout \(RecursiveScriptModule\) has .*forward"):
        contributions(model, IMAGES)


def test_hooks_on_modules_that_run_are_seen(model):
    before = contributions(model, IMAGES).embedding.values
    model.visual.transformer.resblocks[0].mlp.register_forward_hook(lambda _, __, output: output * 2)
    found = contributions(model, IMAGES).embedding.values
    with torch.no_grad():
        assert torch.allclose(model.encode_image(IMAGES), torch.from_numpy(found), atol=1e-5)
    assert abs(found - before).max() > 1e-3


def test_a_global_hook_is_refused(model):
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(ModelError, match=r"a global forward hook is registered"):
            contributions(model, IMAGES)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "work", [contributions, lambda *each: first_order(*each, 0), lambda *each: second_order(*each, 0)]
)
def test_an_embedding_that_is_not_the_model_s_is_refused(model, work):
    own = model.encode_image
    model.encode_image = lambda images: own(images) * 1.01
    with pytest.raises(ModelError, match=r"its own embedding of the first image differs from the sum of its parts by"):
        work(model, IMAGES)


def test_autocast_around_does_not_reach_the_decomposition(model):
    before = contributions(model, IMAGES).embedding.values
    with torch.autocast("cpu", torch.bfloat16):
        assert (contributions(model, IMAGES).embedding.values == before).all()
