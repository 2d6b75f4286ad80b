"""Cross-attention of denoisers, recorded and injected: against eq. 16 read literally, planted places, exact identities.

Gradients are held to those without checkpoints, and processors to those that were there before.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers.models.attention_processor import Attention
from tiny_diffusion import tiny_diffusion, tiny_transformer
from torch.utils.checkpoint import checkpoint

from optogram.errors import DataError, ModelError, ParamError, ShapeError
from optogram.guidance.attention import Injection, Recorded, cross_attentions, record, word_maps
from optogram.guidance.words import alignment, phrase_tokens
from optogram.models.generative.codecs import Patches
from optogram.models.generative.generators import watching
from optogram.models.generative.sampling import denoise

PROMPTS = ["a red star on snow", "a blue ring at night, on grass"]
SWAPPED = ["a large red ring on snow", "a square, on grass"]
STEPS = 4


@pytest.fixture(scope="module")
def unet():
    return tiny_diffusion()


@pytest.fixture(scope="module")
def transformer():
    return tiny_transformer()


def given(diffusion, prompts=PROMPTS):
    """Noise, states and null states."""
    return diffusion.noise([1, 2]), diffusion.states(prompts), diffusion.states([""] * 2)


def recorded_of(diffusion, scale=2.5, **options):
    return record(diffusion, *given(diffusion), steps=STEPS, scale=scale, **options)


def aligned(diffusion, targets=SWAPPED):
    return torch.stack([alignment(diffusion.texts, a, b) for a, b in zip(PROMPTS, targets, strict=True)])


def processors(diffusion):
    return [module.processor for module in diffusion.denoiser.modules() if isinstance(module, Attention)]


@pytest.mark.parametrize("kind", ["unet", "transformer"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("per_step", [False, True])
def test_latents_are_those_without_recording_and_processors_return(kind, scale, per_step, request):
    diffusion = request.getfixturevalue(kind)
    z, states, null = given(diffusion)
    before = processors(diffusion)
    told = (one.expand(STEPS, -1, -1, -1) if per_step else one for one in (states, null))
    found = record(diffusion, z.requires_grad_(), *told, steps=STEPS, scale=scale)
    assert all(a is b for a, b in zip(before, processors(diffusion), strict=True))
    with torch.no_grad():
        plain = denoise(diffusion, z, states, null, steps=STEPS, scale=scale)
    torch.testing.assert_close(found.z, plain, rtol=0, atol=2e-5 * float(plain.abs().max()))
    assert torch.equal(found.latents[0], z)
    assert found.latents.shape == (STEPS + 1, 2, 8, 8, 8)
    assert not any(one.requires_grad for one in (found.latents, *found.maps.values()))


def test_each_step_takes_its_own_states_and_the_noisiest_are_left_out(unet):
    z, states, null = given(unet)
    nulls = torch.stack([null, null.flip(1), 2 * null])
    found = record(unet, z, states, nulls, steps=STEPS, scale=2.0, first=1)
    mixes, latents = unet.schedule.mixes(STEPS), z
    for step in range(3):
        now, then = mixes[step + 1], mixes[step + 2]
        with torch.no_grad():
            predicted = unet.predict(latents, now.time, states, nulls[step], 2.0)
        latents = unet.schedule.step(latents, predicted, now, then)
        torch.testing.assert_close(found.latents[step + 1], latents, rtol=1e-4, atol=1e-4)
    assert {len(one) for one in found.maps.values()} == {3}


def literal_maps(diffusion, z, time, states):
    """Eq. 16 head by head, from what each cross-attention layer is given in a pass of its own."""
    layers = cross_attentions(diffusion)
    parts = {f"{name}.{part}": getattr(layer, part) for name, layer in layers.items() for part in ("to_q", "to_k")}
    with watching(parts) as asked, torch.no_grad():
        diffusion.predict(z, time, states)
    found = {}
    for name, layer in layers.items():
        d = layer.inner_dim // layer.heads
        heads = []
        for head in range(layer.heads):
            q, k = (asked[f"{name}.{part}"][0][:, :, head * d : (head + 1) * d] for part in ("to_q", "to_k"))
            heads.append(torch.softmax(q @ k.transpose(1, 2) / d**0.5, -1))
        found[name] = torch.stack(heads, 1)
    return found


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_maps_are_the_softmax_of_queries_and_keys_of_the_half_with_a_text(kind, request):
    diffusion = request.getfixturevalue(kind)
    _, states, _ = given(diffusion)
    found, mixes = recorded_of(diffusion), diffusion.schedule.mixes(STEPS)
    for step in (0, 2):
        literal = literal_maps(diffusion, found.latents[step], mixes[step].time, states)
        assert {*literal} == {*found.maps}
        for name, maps in literal.items():
            torch.testing.assert_close(found.maps[name][step], maps, rtol=0, atol=1e-5)
            torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:3]))
    assert {*found.grids.values()} == {(4, 4)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cross_attention_norm": "layer_norm"},
        {"residual_connection": True, "rescale_output_factor": 2.0},
        {"qk_norm": "layer_norm"},
        {"scale_qk": False},
    ],
)
def test_a_layer_gives_what_diffusers_own_processor_gives(options, unet):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Attention(16, unet.texts.width, heads=4, dim_head=4, **options).eval().requires_grad_(False)
        hidden = torch.randn(2, 16, 16)
    mask = torch.zeros(4, 1, 64)  # a row an image of the pass, both halves
    mask[:, :, 40:] = -1e4

    class Denoiser(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn2, self.mask = layer, None

        def forward(self, z, times, states):
            return self.attn2(z.flatten(2).mT, encoder_hidden_states=states, attention_mask=self.mask).mT.reshape(
                z.shape
            )

    diffusion = replace(unet, denoiser=Denoiser(), codec=Patches(4, 16), shape=(16, 4, 4))
    z = hidden.mT.reshape(2, 16, 4, 4)
    for diffusion.denoiser.mask in (None, mask):
        found = record(diffusion, z, *given(unet)[1:], steps=2, scale=3.0)
        plain = denoise(diffusion, z, *given(unet)[1:], steps=2, scale=3.0)
        torch.testing.assert_close(found.z, plain, rtol=1e-4, atol=1e-4)
    assert float(found.maps["attn2"][..., 40:].max()) == 0


def spotted(unet, spots):
    """One layer of two heads that heeds token 3 at `spots` and everything alike elsewhere; it predicts zeros.

    Channel 0 of the latents is 1 at the spots; states are the unit vectors. A query is 4 x channel 0, a key is 1 for
    token 3 only.
    """
    layer = Attention(8, 16, heads=2, dim_head=1)
    with torch.no_grad():
        for part in (layer.to_q, layer.to_k, layer.to_v, layer.to_out[0]):
            part.weight.zero_()
        layer.to_out[0].bias.zero_()
        layer.to_q.weight[:, 0] = 4
        layer.to_k.weight[:, 3] = 1

    class Denoiser(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn2 = layer.requires_grad_(False)

        def forward(self, z, times, states):
            return self.attn2(z.flatten(2).mT, encoder_hidden_states=states).mT.reshape(z.shape)

    z = torch.zeros(len(spots), 8, 4, 6)
    for image, spot in enumerate(spots):
        z[(image, 0, *spot)] = 1
    return replace(unet, denoiser=Denoiser(), shape=(8, 4, 6)), z


def test_a_word_that_heeds_a_planted_place_is_found_there(unet):
    spots = [(1, 4), (3, 0)]
    diffusion, z = spotted(unet, spots)
    states = torch.eye(16).expand(2, -1, -1)
    found = record(diffusion, z, states, states.flip(1), steps=STEPS, scale=2.0)
    assert found.grids == {"attn2": (4, 6)}
    maps = word_maps(found, [[3], [3]])
    others = word_maps(found, [[2, 3], [5]])
    for image, spot in enumerate(spots):
        expected = torch.full((4, 6), 1 / 16)
        heights = [found.latents[(step, image, 0, *spot)].mul(4).exp() for step in range(2)]
        expected[spot] = sum(height / (height + 15) for height in heights) / 2
        torch.testing.assert_close(maps[image], expected, rtol=1e-4, atol=1e-6)
        assert float(expected[spot]) > 0.2
        assert int(maps[image].argmax()) == spot[0] * 6 + spot[1]
    assert int(others[0].argmax()) == 1 * 6 + 4, "the mean of two words of which one heeds the place"
    assert int(others[1].argmin()) == 3 * 6, "what is left to another word"


def planted_maps():
    """Layers of three sizes, random probabilities."""
    generator = torch.Generator().manual_seed(0)
    grids = {"a": (8, 8), "b": (4, 4), "c": (4, 4), "d": (2, 2)}
    heads = {"a": 1, "b": 2, "c": 3, "d": 4}
    maps = {
        name: torch.rand(5, 2, heads[name], rows * columns, 6, generator=generator).softmax(-1)
        for name, (rows, columns) in grids.items()
    }
    return Recorded(maps, grids, torch.zeros(6, 2, 8, 8, 8))


def test_word_maps_are_means_over_heads_layers_tokens_and_the_first_steps():
    recorded, tokens = planted_maps(), [[1, 2, 4], [5]]
    found = word_maps(recorded, tokens, side=4)
    for image, places in enumerate(tokens):
        for row in range(4):
            for column in range(4):
                layers = []
                for name in ("b", "c"):
                    cells = [
                        float(recorded.maps[name][step, image, head, 4 * row + column, token])
                        for step in range(3)
                        for head in range(recorded.maps[name].shape[2])
                        for token in places
                    ]
                    layers.append(sum(cells) / len(cells))
                assert float(found[image, row, column]) == pytest.approx(sum(layers) / 2, abs=1e-6)
    # 16 is nearest to 8; 2.8 is as far from 2 as from 4 and a little less
    sides = {side: word_maps(recorded, tokens, side=side).shape[1] for side in (1, 2, 3, 5, 6, 16)}
    assert sides == {1: 2, 2: 2, 3: 4, 5: 4, 6: 8, 16: 8}
    first = recorded.maps["a"][0, 1, 0, :, 5].reshape(8, 8)
    torch.testing.assert_close(word_maps(recorded, tokens, share=0.2)[1], first)


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_its_own_maps_under_the_same_prompt_give_the_same_picture(kind, request):
    diffusion = request.getfixturevalue(kind)
    z, states, null = given(diffusion)
    found = recorded_of(diffusion)
    same = Injection.of(diffusion, found, aligned(diffusion, PROMPTS), until=1.0)
    # in another order and once twice: rows say whose maps are whose
    rows = torch.tensor([1, 0, 1])
    latents = run(diffusion, z[rows], states[rows], null[:1].expand(3, -1, -1), lambda step: same.at(step, rows))
    torch.testing.assert_close(latents, found.z[rows], rtol=0, atol=2e-5 * float(found.z.abs().max()))
    wrong = run(diffusion, z, states, null, lambda step: same.at(step, torch.tensor([1, 0])))
    assert float((wrong - found.z).abs().max()) > 100 * float((latents - found.z[rows]).abs().max())


@torch.no_grad()
def run(diffusion, z, states, null, context, scale=2.5):
    mixes = diffusion.schedule.mixes(STEPS)
    for step in range(STEPS):
        with context(step):
            predicted = diffusion.predict(z, mixes[step].time, states, null, scale)
        z = diffusion.schedule.step(z, predicted, mixes[step], mixes[step + 1])
    return z


def literal_injection(diffusion, recorded, alignments, step, rows, z, time, states):
    """One pass with a text in which a hook computes each layer's output anew from injected probabilities."""
    handles = []
    before = dict(diffusion.denoiser.named_modules())
    for name, layer in cross_attentions(diffusion).items():

        def hook(layer, args, kwargs, out, name=name):
            told = kwargs["encoder_hidden_states"]
            q, k, v = layer.to_q(args[0]), layer.to_k(told), layer.to_v(told)
            d, found = q.shape[2] // layer.heads, torch.zeros_like(q)
            for image, row in enumerate(rows.tolist()):
                weights = alignments[row]
                for head in range(layer.heads):
                    cut = slice(head * d, (head + 1) * d)
                    now = torch.softmax(q[image, :, cut] @ k[image, :, cut].T / d**0.5, -1)
                    was = recorded.maps[name][step, row, head]
                    for place in range(len(now)):
                        mapped = torch.stack([(weight * was[place]).sum() for weight in weights])
                        new = weights.sum(1) == 0
                        left = 1 - now[place][new].sum()
                        heeded = torch.where(new, now[place], mapped / mapped.sum() * left)
                        found[image, place, cut] = heeded @ v[image, :, cut]
            return layer.to_out[0](found)

        handles.append(before[name].register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        found = diffusion.denoiser(z, torch.full((len(z),), time), states)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_injected_probabilities_are_mapped_in_the_half_with_a_text_only(kind, request):
    diffusion = request.getfixturevalue(kind)
    z, states, null = given(diffusion, SWAPPED)
    recorded, alignments, rows = recorded_of(diffusion), aligned(diffusion), torch.tensor([1, 0])
    states = states[rows]
    assert bool((alignments.sum(2) == 0).any()), "a word is inserted"
    injection = Injection.of(diffusion, recorded, alignments, until=0.5)
    both = torch.cat([z, z]), torch.full((4,), 500.0), torch.cat([null, states])
    with torch.no_grad():
        plain = diffusion.denoiser(*both)
        with injection.at(1, rows):
            changed = diffusion.denoiser(*both)
        with injection.at(1, rows):
            alone = diffusion.denoiser(z, both[1][:2], states)
        with injection.at(2, rows):
            late = diffusion.denoiser(*both)
    literal = literal_injection(diffusion, recorded, alignments, 1, rows, z, 500.0, states)
    torch.testing.assert_close(changed[2:], literal, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, literal, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(changed[:2], plain[:2], rtol=1e-4, atol=1e-5)
    moved = float((plain[2:] - literal).abs().max())
    assert moved > 10 * float((changed[2:] - literal).abs().max()), "injection matters"
    assert torch.equal(late, plain), "behind the share of steps nothing is changed"


def test_steps_that_begin_within_the_share_are_changed(unet):
    recorded, alignments, rows = recorded_of(unet), aligned(unet), torch.arange(2)
    for until, count in ((0.0, 0), (0.25, 1), (0.3, 2), (0.5, 2), (1.0, 4)):
        injection = Injection.of(unet, recorded, alignments, until=until)
        stock = processors(unet)
        changed = []
        for step in range(STEPS):
            with injection.at(step, rows):
                changed.append(sum(a is not b for a, b in zip(stock, processors(unet), strict=True)))
        layers = len(cross_attentions(unet))
        assert changed == [layers] * count + [0] * (STEPS - count), "and self-attention keeps its own"


def test_each_image_may_have_a_share_of_its_own(unet):
    recorded, alignments, rows = recorded_of(unet), aligned(unet), torch.arange(2)
    z, states, null = given(unet, SWAPPED)
    predicted = {}
    for name, until in (("both", 1.0), ("none", 0.0), ("first", torch.tensor([1.0, 0.0]))):
        with Injection.of(unet, recorded, alignments, until=until).at(0, rows):
            predicted[name] = unet.predict(z, 500.0, states, null, 2.5)
    torch.testing.assert_close(predicted["first"][0], predicted["both"][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(predicted["first"][1], predicted["none"][1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(predicted["both"][1], predicted["none"][1], rtol=1e-3, atol=1e-3)


def loss_gradients(diffusion, injection, checkpointed):
    z, states, null = (one.clone().requires_grad_() for one in given(diffusion, SWAPPED))
    mixes, rows, latents = diffusion.schedule.mixes(STEPS), torch.arange(2), z

    for step, (now, then) in enumerate(pairwise(mixes)):

        def advance(latents, states, null, step=step, now=now, then=then):
            with injection.at(step, rows):
                predicted = diffusion.predict(latents, now.time, states, null, 2.5)
            return diffusion.schedule.step(latents, predicted, now, then)

        told = latents, states, null
        latents = checkpoint(advance, *told, use_reentrant=False) if checkpointed else advance(*told)
    return torch.autograd.grad((latents**2).mean(), (z, states, null))


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_gradients_are_the_same_under_checkpoints(kind, request):
    diffusion = request.getfixturevalue(kind)
    injection = Injection.of(diffusion, recorded_of(diffusion), aligned(diffusion), until=0.5)
    before = processors(diffusion)
    plain, saved = (loss_gradients(diffusion, injection, on) for on in (False, True))
    for a, b in zip(plain, saved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)
        assert float(a.abs().max()) > 0
    assert all(a is b for a, b in zip(before, processors(diffusion), strict=True))
    never = Injection.of(diffusion, recorded_of(diffusion), aligned(diffusion), until=0.0)
    free = loss_gradients(diffusion, never, True)
    assert float((free[1] - saved[1]).abs().max()) > 1e-3 * float(saved[1].abs().max())


def test_gradient_of_states_is_the_slope_of_the_loss(unet):
    injection = Injection.of(unet, recorded_of(unet), aligned(unet), until=1.0)
    z, states, _ = given(unet, SWAPPED)
    way = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))

    def loss(far):
        with injection.at(0, torch.arange(2)):
            return (unet.predict(z.double(), 500.0, states.double() + far * way.double()) ** 2).mean()

    unet.denoiser.double()
    try:
        far = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(far), far)
        with torch.no_grad():
            rise = (loss(1e-4) - loss(-1e-4)) / 2e-4
    finally:
        unet.denoiser.float()
    assert float(slope) == pytest.approx(float(rise), rel=1e-5)


def test_processors_return_after_an_error(unet):
    injection = Injection.of(unet, recorded_of(unet), aligned(unet), until=1.0)
    before, (z, states, null) = processors(unet), given(unet)

    def fails():
        with injection.at(0, torch.arange(2)):
            assert not all(a is b for a, b in zip(before, processors(unet), strict=True))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fails()
    with pytest.raises(RuntimeError):
        record(unet, z, states[..., :3], null[..., :3], steps=2, scale=2.0)
    assert all(a is b for a, b in zip(before, processors(unet), strict=True))


def test_an_image_s_maps_do_not_depend_on_its_neighbours(unet):
    z, states, null = given(unet)
    both = recorded_of(unet)
    alone = record(unet, z[1:], states[1:], null[1:], steps=STEPS, scale=2.5)
    for name, maps in alone.maps.items():
        torch.testing.assert_close(both.maps[name][:, 1:], maps, rtol=0, atol=1e-5)
    token = phrase_tokens(unet.texts, PROMPTS[1], "blue ring")
    torch.testing.assert_close(word_maps(both, [[1], token])[1:], word_maps(alone, [token]), rtol=0, atol=1e-6)


@pytest.mark.misfits
def test_what_does_not_fit_is_named(unet, transformer):
    z, states, null = given(unet)
    with pytest.raises(ParamError, match="first = 4, expected 0 to 3"):
        recorded_of(unet, first=4)
    with pytest.raises(ShapeError, match=r"null of shape .* a row for each of 2 images"):
        record(unet, z, states, null[:1], steps=2, scale=2.0)
    with pytest.raises(ShapeError, match=r"states of shape .* the 2 steps before"):
        record(unet, z, states.expand(3, -1, -1, -1), null, steps=2, scale=2.0)
    recorded, alignments = recorded_of(unet), aligned(unet)
    with pytest.raises(ShapeError, match="tokens of 1 images, but 2 were recorded"):
        word_maps(recorded, [[1]])
    for wrong in ([], [64], [-1]):
        with pytest.raises(DataError, match=r"of image 1, expected at least one, within 0 to 63"):
            word_maps(recorded, [[1], wrong])
    for options, said in (({"side": 0}, "side = 0"), ({"share": 0.0}, "share = 0"), ({"share": 1.5}, "share of steps")):
        with pytest.raises(ParamError, match=said):
            word_maps(recorded, [[1], [1]], **options)
    with pytest.raises(ParamError, match=r"share of steps = -0\.1"):
        Injection.of(unet, recorded, alignments, until=-0.1)
    with pytest.raises(ShapeError, match="maps of 2 images with 64 tokens"):
        Injection.of(unet, recorded, alignments[:, :, :20], until=0.3)
    with pytest.raises(ModelError, match="other cross-attention layers"):
        Injection.of(transformer, recorded, alignments, until=0.3)
    injection = Injection.of(unet, recorded, alignments, until=0.3)
    with pytest.raises(ParamError, match="step -1"):
        injection.at(-1, torch.arange(2))
    for rows in (torch.tensor([0, 2]), torch.tensor([-1]), torch.arange(0)):
        with pytest.raises(ShapeError, match="within 0 to 1, the images that"):
            injection.at(0, rows)
    with injection.at(0, torch.arange(1)), pytest.raises(ShapeError, match="a pass of 4 images, expected 1, or twice"):
        unet.predict(z, 500.0, states, null, 2.0)
    with injection.at(0, torch.arange(2)), pytest.raises(ModelError, match="the processor _Explicit"):
        recorded_of(unet)
    with pytest.raises(ModelError, match="no cross-attention of diffusers"):
        cross_attentions(replace(unet, denoiser=torch.nn.Conv2d(8, 8, 1)))
    with pytest.raises(ModelError, match="is a function, no torch module"):
        cross_attentions(replace(unet, denoiser=lambda z, times, states: z))
