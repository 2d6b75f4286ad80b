"""Training a diffusion model: the same bytes twice and after a resume, and it learns what captions say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_diffusion import tiny_images, tiny_texts

from optogram.errors import DataError, ModelError, ParamError
from optogram.models.generative.codecs import fit_patches
from optogram.models.generative.sampling import sample
from optogram.models.training.diffusion import (
    STEEPEST,
    DiffusionOptions,
    Matrices,
    _DiffusionTask,
    build_unet,
    loss_weights,
    train_diffusion,
)

OPTIONS = DiffusionOptions(steps=6, batch=8, warmup=2, widths=(8, 16), seed=3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return tiny_images()


def train(images, options=OPTIONS, codec=None, **others):
    codec = codec or fit_patches(images.pixels.values, factor=4, channels=8)
    return train_diffusion(images, options, codec=codec, texts=tiny_texts(), device=CPU, **others)


def weights(diffusion):
    return b"".join(w.numpy().tobytes() for w in diffusion.denoiser.state_dict().values())


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "options",
    [OPTIONS, replace(OPTIONS, bfloat16=True), replace(OPTIONS, bfloat16=True, parts=2)],
    ids=["float32", "bfloat16", "parts"],
)
def test_two_runs_and_a_resumed_one_give_the_same_bytes(images, options, tmp_path):
    first, history = train(images, options)
    assert weights(first) == weights(train(images, options)[0])
    assert weights(first) != weights(train(images, replace(options, seed=4))[0])
    for cut in (1, 4, 6):

        def stop(done, total, loss, cut=cut):
            if done == cut * options.batch:
                raise Killed

        scratch = tmp_path / str(cut)
        scratch.mkdir()
        with pytest.raises(Killed):
            train(images, options, scratch=scratch, save_seconds=0, progress=stop)
        again, theirs = train(images, options, scratch=scratch)
        assert weights(again) == weights(first)
        assert theirs.losses == history.losses


def test_products_in_bfloat16_are_near_those_in_float32(images):
    exact, rounded = (train(images, replace(OPTIONS, bfloat16=half))[1].losses["velocity"] for half in (False, True))
    assert exact != rounded
    np.testing.assert_allclose(exact, rounded, rtol=0.02)


def test_figures_are_measured_on_the_average_as_it_is(images):
    seen = []

    def measure(diffusion):
        seen.append(weights(diffusion))
        return {"figure": float(len(seen))}

    last, history = train(images, every=3, measure=measure)
    assert history.metrics == {3: {"figure": 1.0}, 6: {"figure": 2.0}}
    assert seen[0] != seen[1] == weights(last)


def test_objects_weigh_more(images):
    codec = fit_patches(images.pixels.values, factor=4, channels=6)
    latents = codec.encode(torch.from_numpy(images.pixels.values).permute(0, 3, 1, 2).float() / 255)
    place = loss_weights(images, codec, latents, 8.0)
    assert place.mean() == pytest.approx(1)
    covered = np.array(
        [
            [[patch.mean() for patch in np.split(row, 8, 1)] for row in np.split(mask > 0, 8)]
            for mask in images.mask.values
        ]
    )
    expected = 1 + 8 * covered
    np.testing.assert_allclose(place[:, 0], expected / expected.mean(), rtol=1e-4)
    even = loss_weights(images.drop_vars("mask"), codec, latents, 8.0)
    assert torch.equal(even, torch.ones_like(even)), "nobody knows where objects are"


def test_matrices_are_the_hidden_weights_themselves():
    unet = build_unet(OPTIONS, (8, 8, 8), 16)
    matrices = Matrices(unet)
    every = dict(unet.named_parameters())
    assert len(matrices.flat) + len(matrices.others) == len(every)
    assert all(w.ndim == 2 for w in matrices.flat)
    apart = {name for name, w in every.items() if any(w is other for other in matrices.others) and w.ndim > 1}
    assert {name.split(".")[0] for name in apart} == {"conv_in", "conv_out", "class_embedding"}
    name = "mid_block.resnets.0.conv1.weight"
    at = {w.data_ptr(): matrix for matrix in matrices.flat for w in every.values() if w.data_ptr() == matrix.data_ptr()}
    matrix = at[every[name].data_ptr()]
    every[name].grad = torch.randn_like(every[name])
    matrices.take_gradients()
    assert torch.equal(matrix.grad, every[name].grad.flatten(1))
    with torch.no_grad():
        matrix.zero_()
    assert not every[name].any(), "an update of the matrix is one of the weight"


def test_the_loss_is_that_of_the_velocity(images):
    """Literal: v = alpha noise - sigma image (Salimans & Ho 2022), the one that was mixed and the one that is found."""
    options = replace(OPTIONS, unconditional=1.0)
    codec = fit_patches(images.pixels.values, factor=4, channels=8)
    task = _DiffusionTask(images, options, codec, tiny_texts(), CPU)
    batch = task.batch(0)
    alpha, sigma = task.diffusion.schedule.at(batch.times.long())
    assert (sigma > STEEPEST**-0.5).all(), "none of these times is one whose weight is bounded"
    noise = (batch.z - alpha * batch.target) / sigma
    found = task._network(batch.z, batch.times, batch.states)
    velocity = alpha * (batch.z - alpha * found) / sigma - sigma * found
    rows = task._order(0)[:8]
    place = loss_weights(images, codec, task._latents, options.focus)[rows]
    literal = (place * (velocity - (alpha * noise - sigma * batch.target)) ** 2).mean()
    torch.testing.assert_close(task.step(batch)["velocity"], literal, rtol=1e-3, atol=1e-4)
    steep = [task.batch(step) for step in range(1, 60)]
    weight = torch.cat(
        [(one.weight / loss_weights_of(task, step))[one.times < 100] for step, one in enumerate(steep, 1)]
    )
    assert len(weight) > 20
    torch.testing.assert_close(weight, torch.full_like(weight, STEEPEST))


def loss_weights_of(task, step):
    """Of the places alone."""
    epoch, at = divmod(step, len(task._latents) // 8)
    return task._weight[task._order(epoch)[8 * at : 8 * at + 8]]


def test_the_last_state_of_a_text_goes_on_behind_its_end():
    texts = tiny_texts()
    states, tokens = (
        texts.states(["a red star", "a blue ring on snow"]),
        texts.clip.tokenize(["a red star", "a blue ring on snow"]),
    )
    x = texts.clip.model.token_embedding(tokens) + texts.clip.model.positional_embedding
    whole = texts.clip.model.ln_final(texts.clip.model.transformer(x, attn_mask=texts.clip.model.attn_mask))
    for row, ids in enumerate(tokens.tolist()):
        end = ids.index(max(ids))
        torch.testing.assert_close(states[row, : end + 1], whole[row, : end + 1])
        torch.testing.assert_close(states[row, end:], whole[row, end].expand(len(ids) - end, -1))


def test_it_learns_what_captions_say():
    """Planted: images are black or white, as their captions say; a model that learned it draws what is asked."""
    images = tiny_images(64)
    rng = np.random.default_rng(0)
    white = np.arange(64) % 2
    noise = rng.integers(0, 40, (64, 32, 32, 3))
    pixels = np.where(white[:, None, None, None] == 1, 255 - noise, noise).astype(np.uint8)
    said = np.array([" ".join([word] * 12) for word in ("black", "white")])  # an untrained tower hardly hears one word
    texts = said[white][:, None].repeat(8, 1)
    images = images.assign(pixels=(images.pixels.dims, pixels), caption=(images.caption.dims, texts))
    options = DiffusionOptions(
        steps=120, batch=16, warmup=10, learning_rate=3e-3, widths=(8, 16), average=0.9, unconditional=0.1, seed=0
    )
    codec = fit_patches(pixels, factor=4, channels=1)  # how bright a patch is: the rest is noise
    diffusion, history = train(images, options, codec)
    losses = history.losses["velocity"]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])
    states = diffusion.states([*said[::-1]] * 8)
    assert right(sample(diffusion, states, seeds=range(16), steps=8, scale=3.0)) >= 14
    untrained, _ = train(images, replace(options, steps=1, warmup=0), codec)
    assert right(sample(untrained, states, seeds=range(16), steps=8, scale=3.0)) <= 11


def right(drawn):
    """How many of images that should be white and black in turn are."""
    return int(((drawn.mean((1, 2, 3)) > 0.5) == (torch.arange(16) % 2 == 0)).sum())


def test_what_does_not_fit_is_named(images):
    with pytest.raises(DataError, match="no variable 'caption'"):
        train(images.drop_vars("caption"))
    with pytest.raises(ParamError, match="unconditional = 2"):
        train(images, replace(OPTIONS, unconditional=2))
    with pytest.raises(ParamError, match="batch = 33, expected 1 to 32"):
        train(images, replace(OPTIONS, batch=33))
    with pytest.raises(ModelError, match=r"the loss velocity is nan at step [1-5] of 6"):
        train(images, replace(OPTIONS, learning_rate=1e30, warmup=0))
