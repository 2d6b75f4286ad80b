"""What a denoiser is trained with: parts of a batch, optimisers by weight, and what it foresees of another model."""

from dataclasses import replace

import pytest
import torch
from tiny_diffusion import tiny_images, tiny_transformer
from torch import nn

from optogram.errors import ParamError
from optogram.models.generative.clip_features import clip_features
from optogram.models.training.denoisers import DiffusionOptions, TransformerOptions, build_denoiser, optimizers
from optogram.models.training.parts import Parts
from optogram.models.training.sight import Sight

CPU = torch.device("cpu")
SHAPE = TransformerOptions(width=16, depth=3, head=8)
OPTIONS = DiffusionOptions(steps=1, transformer=SHAPE, learning_rate=1e-3, matrices_rate=0.02)


def network():
    return build_denoiser(OPTIONS, (8, 8, 8), 16)


@pytest.mark.parametrize("size", [5, 8])
def test_gradients_of_parts_are_those_of_the_batch(size):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(size, 3)

    def losses(part):
        found = model(x[part])
        return {"square": found.square().mean(), "even": 0.5 * found.abs().mean()}

    literal = {"square": model(x).square().mean(), "even": 0.5 * model(x).abs().mean()}
    expected = torch.autograd.grad(sum(literal.values()), [*model.parameters()])
    found = Parts(CPU).backward(losses, size, [model])
    assert list(found) == ["square", "even"]
    for name, loss in found.items():
        torch.testing.assert_close(loss, literal[name].detach())
    for w, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(w.grad, gradient)


def test_one_thread_and_two_give_the_same_bytes():
    torch.manual_seed(0)
    model, x, found = nn.Linear(64, 64), torch.randn(33, 64), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        losses = Parts(CPU).backward(lambda part: {"loss": model(x[part]).square().mean()}, 33, [model])
        assert torch.get_num_threads() == threads, "the caller's number is kept"
        found.append((losses["loss"].numpy().tobytes(), model.weight.grad.numpy().tobytes()))
    torch.set_num_threads(before)
    assert found[0] == found[1]


def test_an_error_in_a_part_is_the_caller_s():
    with pytest.raises(ValueError, match="in a part"):
        Parts(CPU).backward(lambda part: (_ for _ in ()).throw(ValueError("in a part")), 4, [nn.Linear(1, 1)])


def test_matrices_of_blocks_have_muon_and_each_weight_one_optimiser():
    model, projector = network(), nn.Linear(16, 4)
    found = optimizers({"denoiser": model, "projector": projector}, OPTIONS)
    taken = {name: [w for group in one.param_groups for w in group["params"]] for name, one in found.items()}
    ids = [id(w) for weights in taken.values() for w in weights]
    assert sorted(ids) == sorted(id(w) for part in (model, projector) for w in part.parameters())
    matrices = {id(w) for name in ("muon0", "muon1") for w in taken[name]}
    blocks = model.transformer.transformer_blocks
    assert matrices == {id(part.weight) for part in blocks.modules() if isinstance(part, nn.Linear)}
    assert abs(len(taken["muon0"]) - len(taken["muon1"])) <= 1
    assert list(optimizers({"projector": projector}, OPTIONS)) == ["adamw"]


def test_a_transformer_starts_at_nothing_and_from_its_seed():
    first, again, other = network(), network(), build_denoiser(replace(OPTIONS, seed=1), (8, 8, 8), 16)
    states = torch.randn(2, 5, 16)
    assert not first(torch.randn(2, 8, 8, 8), torch.tensor([1.0, 900.0]), states).any()
    weights = [torch.cat([w.flatten() for w in one.parameters()]) for one in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("shape", "latents"),
    [
        (replace(SHAPE, patch=3), (8, 8, 8)),
        (replace(SHAPE, head=5), (8, 8, 8)),
        (SHAPE, (8, 8, 4)),
    ],
)
def test_a_transformer_that_does_not_fit_is_named(shape, latents):
    with pytest.raises(ParamError, match="expected square latents, sides that are multiples of the patch"):
        build_denoiser(replace(OPTIONS, transformer=shape), latents, 16)


def test_what_is_missed_is_one_less_the_cosine_of_each_token():
    diffusion, images = tiny_transformer(), tiny_images(6)
    model, pixels = diffusion.denoiser, images.pixels.values
    features = clip_features(diffusion.texts.clip)
    sight, seen = Sight(model, features, pixels, (8, 8), CPU, seed=3), []
    handle = model.transformer.transformer_blocks[0].register_forward_hook(lambda *of: seen.append(of[2]))
    rows, states = torch.tensor([4, 1]), diffusion.states(["a red star", "snow"])
    model(torch.randn(2, 8, 8, 8), torch.tensor([10.0, 500.0]), states)
    handle.remove()
    weight = torch.rand(2, 1, 8, 8)
    whole = features(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    maps = whole[len(whole) // 2]
    mean = maps.mean((0, 2, 3))
    expected = []
    for image, row in enumerate(rows.tolist()):
        for token in range(16):
            above, left = divmod(token, 4)
            target = maps[row, :, above, left] - mean
            projected = sight.projector(seen[0][image, token])
            cosine = (projected @ target) / (projected.norm() * target.norm())
            place = weight[image, 0, 2 * above : 2 * above + 2, 2 * left : 2 * left + 2].mean()
            expected.append(place * (1 - cosine))
    torch.testing.assert_close(sight.missed(rows, weight), torch.stack(expected).mean(), rtol=1e-2, atol=1e-3)
