"""Training a GAN: its losses against their definitions, the same bytes however often it is cut off, and it learns."""

import json
import math
import random
import signal
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_diffusion import tiny_texts
from torch import nn

from optogram.errors import DataError, ModelError, ParamError
from optogram.models.generative.gan_networks import Discriminator, GanGenerator
from optogram.models.generative.generators import load_generator, save_generator
from optogram.models.training import gan
from optogram.models.training.curves import curves
from optogram.models.training.gan import (
    GanOptions,
    GanTask,
    clip_features,
    gradient_penalty,
    settle,
    surprise,
    train_gan,
)
from optogram.models.training.loop import Evaluation

OPTIONS = GanOptions(steps=12, batch=8, latent=4, widths=(8, 6), penalty_every=4, average=0.9, flips=True, seed=5)
MODES = np.full((2, 8, 8, 3), 40.0)
MODES[0, :, :4, 0] = 220
MODES[1, 4:, :, 2] = 220


@pytest.fixture(scope="module")
def images():
    """Two kinds of pictures, light on the left or light below, with noise."""
    rng = np.random.default_rng(0)
    pixels = MODES[rng.integers(0, 2, 256)] + rng.normal(0, 6, (256, 8, 8, 3))
    return xr.Dataset({"pixels": (("image", "y", "x", "rgb"), pixels.clip(0, 255).astype(np.uint8))})


def train(images, **changed):
    """Changed are the options' numbers or the function's other arguments."""
    options = replace(OPTIONS, **{name: value for name, value in changed.items() if name in asdict(OPTIONS)})
    others = {name: value for name, value in changed.items() if name not in asdict(OPTIONS)}
    return train_gan(images, options, device="cpu", **others)


def trained(images, **changed):
    """The generator alone."""
    return train(images, **changed)[0]


def weights(generator):
    return b"".join(w.numpy().tobytes() for w in generator.model.state_dict().values())


def interrupt(at):
    """A progress that sends this process Ctrl-C's signal after a step."""
    return lambda done, *_: done == at * OPTIONS.batch and signal.raise_signal(signal.SIGINT)


# Bytes


def test_two_runs_give_the_same_bytes_and_leave_torch_as_it_was(images):
    before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    first, second = trained(images), trained(images)
    assert weights(first) == weights(second)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.are_deterministic_algorithms_enabled() == before[1]
    assert weights(trained(images, seed=6)) != weights(first)
    assert not first.model.training
    assert not any(w.requires_grad for w in first.model.parameters())


def test_a_run_that_is_cut_off_anywhere_ends_with_the_same_bytes(images, tmp_path):
    """After every step, some with a checkpoint right behind and some steps after the last one."""
    whole = weights(trained(images))
    for at in range(1, OPTIONS.steps):
        for seconds in (0, 1e9):
            with pytest.raises(KeyboardInterrupt):
                train(images, scratch=tmp_path / f"{at}-{seconds}", progress=interrupt(at), save_seconds=seconds)
            told = []
            again = trained(images, scratch=tmp_path / f"{at}-{seconds}", progress=lambda done, *_: told.append(done))  # noqa: B023
            assert weights(again) == whole
            assert told[0] == (0 if seconds else (at - 1) * OPTIONS.batch)


def test_so_does_one_that_is_cut_off_several_times_on_the_way_to_an_evaluation(images, tmp_path):
    def evaluation(generator):
        return Evaluation(5, lambda: {"mean": float(generator.images(generator.latents(range(4))).mean())})

    generator, first = train(images, evaluation=evaluation)
    whole = weights(generator)
    assert whole == weights(trained(images)), "evaluations change nothing"
    for at in sorted(random.Random(3).sample(range(2, OPTIONS.steps), 3)):
        with pytest.raises(KeyboardInterrupt):
            train(images, scratch=tmp_path, evaluation=evaluation, progress=interrupt(at), save_seconds=1e9)
    generator, second = train(images, scratch=tmp_path, evaluation=evaluation)
    assert weights(generator) == whole
    assert first == second
    assert list(first.metrics) == [5, 10, 12]
    assert len({found["mean"] for found in first.metrics.values()}) == 3, "the average goes on"


@pytest.mark.parametrize("changed", [{"learning_rate": 2e-3}, {"penalty": 0.2}, {"flips": False}, {"widths": (8, 7)}])
def test_a_checkpoint_of_another_recipe_is_refused(images, tmp_path, changed):
    train(images, scratch=tmp_path)
    with pytest.raises(ModelError, match="other parameters"):
        train(images, scratch=tmp_path, **changed)


def test_what_a_step_draws_follows_from_its_number(images):
    pixels = images["pixels"].values
    task, again = (GanTask(pixels, OPTIONS, torch.device("cpu")) for _ in range(2))
    again.batch(3)
    first, second = task.batch(8), again.batch(8)
    assert torch.equal(first.real, second.real)
    assert torch.equal(first.latents, second.latents)
    assert not torch.equal(first.latents, task.batch(9).latents)
    assert [task.batch(step).penalised for step in range(9)] == [step % 4 == 0 for step in range(9)]
    known = {image.tobytes() for image in np.concatenate([pixels, pixels[:, :, ::-1]])}
    assert {image.tobytes() for image in (first.real * 255).round().byte().permute(0, 2, 3, 1).numpy()} <= known


# Losses


def colours(images):
    """Features of a frozen model: the means of patches, and how much neighbours differ."""
    return [nn.functional.avg_pool2d(images, 2), images[..., 1:, 1:] - images[..., :-1, :-1]]


@pytest.mark.parametrize("features", [None, colours], ids=["pixels", "features"])
def test_losses_are_their_definitions(images, features):
    """Of the first step: the discriminator's with the penalty, then the generator's, by the one that has learned."""
    task = GanTask(images["pixels"].values, OPTIONS, torch.device("cpu"), features)
    literal = GanTask(images["pixels"].values, OPTIONS, torch.device("cpu"), features)
    batch = task.batch(0)
    assert batch.penalised
    found = task.step(batch)
    drawn = literal.generator(batch.latents)

    def told(images):
        eyes = [literal.discriminator.pixels(images)]
        for head, maps in zip(literal.discriminator.heads, features(images) if features else [], strict=True):
            eyes.append(head(maps).flatten(1).mean(1))
        return eyes

    real = batch.real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(literal.discriminator.pixels(real).sum(), real, create_graph=True)
    squares = torch.stack([(one / 2).square().sum() for one in slope])  # images from -1 to 1 have half the gradient
    loss = sum(-real.sigmoid().log().mean() for real in told(batch.real))
    loss = loss - sum((1 - drawn.sigmoid()).log().mean() for drawn in told(drawn.detach()))
    loss = loss + OPTIONS.penalty_every * OPTIONS.penalty / 2 * squares.mean()
    torch.testing.assert_close(found["discriminator"], loss, rtol=1e-4, atol=1e-5)
    literal.optimizers["discriminator"].zero_grad()
    loss.backward()
    literal.optimizers["discriminator"].step()
    fooled = sum(-eye.sigmoid().log().mean() for eye in told(drawn))
    torch.testing.assert_close(found["generator"], fooled, rtol=1e-3, atol=1e-4)
    literal.optimizers["generator"].zero_grad()
    fooled.backward()
    literal.optimizers["generator"].step()
    for name, network in task.networks.items():
        for ours, theirs in zip(network.parameters(), literal.networks[name].parameters(), strict=True):
            assert ours.requires_grad
            assert (ours - theirs).abs().max() < 1e-4, name


def test_a_clip_s_tokens_are_maps_and_gradients_pass_through_them():
    clip = tiny_texts().clip
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (maps,) = clip_features(clip)(images)  # it has one block
    assert maps.shape == (2, 16, 4, 4)
    slope = torch.autograd.grad(maps[0, :, 1, 2].sum(), images)[0]
    assert slope[0].abs().sum() > 0
    assert not slope[1].any()
    pixels = (images.detach() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    seen = []
    handle = clip.model.visual.transformer.resblocks[0].register_forward_hook(lambda *of: seen.append(of[2]))
    with torch.no_grad():
        clip.model.visual(clip.preprocess(pixels))
    handle.remove()
    rounded = clip_features(clip)(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)[0]
    torch.testing.assert_close(rounded.flatten(2).transpose(1, 2), seen[0][:, 1:], rtol=1e-4, atol=1e-4)
    assert clip_features(clip)(torch.rand(1, 3, 64, 64))[0].shape == (1, 16, 4, 4)
    with pytest.raises(ModelError, match=r"Identity has no transformer\.resblocks"):
        clip_features(SimpleNamespace(model=SimpleNamespace(visual=nn.Identity())))


def test_with_features_it_resumes_to_the_same_bytes(images, tmp_path):
    whole = weights(trained(images, features=colours))
    assert whole != weights(trained(images))
    with pytest.raises(KeyboardInterrupt):
        train(images, features=colours, scratch=tmp_path, progress=interrupt(7), save_seconds=0)
    assert weights(trained(images, features=colours, scratch=tmp_path)) == whole
    with pytest.raises(KeyboardInterrupt):
        train(images, features=colours, scratch=tmp_path / "b", progress=interrupt(7), save_seconds=0)
    for others in (None, lambda images: [3 * maps for maps in colours(images)]):  # none, and a model of the same sizes
        with pytest.raises(ModelError, match="another"):
            trained(images, features=others, scratch=tmp_path / "b")


def test_the_penalty_of_a_linear_discriminator_is_half_its_squared_slope():
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))

    class Linear(nn.Module):
        def forward(self, x):
            return ((2 * x - 1) * weight).sum((1, 2, 3))

    found = gradient_penalty(Linear(), torch.rand(5, 3, 4, 4))
    torch.testing.assert_close(found, weight.square().sum() / 2)
    torch.testing.assert_close(surprise(torch.tensor([[-200.0], [0], [200]])), torch.tensor((math.log(2) + 200) / 3))


def test_the_history_has_two_losses_a_step_and_progress_tells_the_discriminators(images):
    told = []
    _, history = train(images, progress=lambda *said: told.append(said))
    assert {name: len(losses) for name, losses in history.losses.items()} == {"discriminator": 12, "generator": 12}
    assert [done for done, *_ in told] == [8 * step for step in range(13)]
    assert [loss for *_, loss in told[1:]] == history.losses["discriminator"]


def test_the_last_maps_that_the_batch_norms_saw_are_those_of_the_average(images):
    """Mean and variance of each channel are those of many latents' maps, not of the weights before averaging."""
    task = GanTask(images["pixels"].values, OPTIONS, torch.device("cpu"))
    average = task.averages["generator"].network
    settle(average, replace(OPTIONS, batch=64), torch.device("cpu"))
    assert not any(part.training for part in average.modules())
    seen = []
    handle = average.norm8.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        average(torch.randn(4096, OPTIONS.latent, generator=torch.Generator().manual_seed(9)))
    handle.remove()
    torch.testing.assert_close(average.norm8.running_mean, seen[0].mean((0, 2, 3)), atol=0.02, rtol=0.1)
    torch.testing.assert_close(average.norm8.running_var, seen[0].var((0, 2, 3)), atol=0.02, rtol=0.1)
    assert average.norm8.momentum == 0.1


def test_curves_are_means_over_stretches_of_steps(images):
    _, history = train(images, steps=11)
    found = curves(history, points=4)
    assert found["steps"] == [3, 6, 8, 11]
    literal = [np.mean(history.losses["generator"][a:b]) for a, b in ((0, 3), (3, 6), (6, 8), (8, 11))]
    assert found["losses"]["generator"] == pytest.approx(literal, rel=1e-5)
    assert curves(history)["steps"] == [*range(1, 12)]
    assert json.loads(json.dumps(found)) == found


# Truth


def test_a_data_set_of_two_modes_is_learned(images):
    """What it draws is near one of the two, and each is drawn; an untrained one's are near none."""
    learned = GanOptions(steps=250, batch=32, latent=8, widths=(32, 16), average=0.99)
    shares = {}
    for name, options in (("untrained", replace(learned, steps=1)), ("trained", learned)):
        generator, _ = train_gan(images, options, device="cpu")
        drawn = generator.images(generator.latents(range(200))).permute(0, 2, 3, 1).numpy()
        distance = np.sqrt(((drawn[:, None] - MODES / 255) ** 2).mean((2, 3, 4)))
        nearest = np.bincount(distance.argmin(1), minlength=2) / len(drawn)
        shares[name] = distance.min(1).mean(), nearest.min()
    assert shares["untrained"][0] > 0.25
    assert shares["trained"][0] < 0.13
    assert shares["trained"][1] > 0.15


def test_a_trained_generator_has_units_and_a_folder(images, tmp_path):
    generator = trained(images)
    assert generator.layers == ("relu4", "relu8")
    assert (generator.spec, generator.arguments) == (gan.SPEC, {"latent": 4, "widths": [8, 6]})
    save_generator(generator, tmp_path / "gan")
    again, latents = load_generator(str(tmp_path / "gan"), device="cpu"), generator.latents([0, 1])
    torch.testing.assert_close(again.images(latents), generator.images(latents), atol=0.01, rtol=0)


def test_the_networks_have_the_sizes_of_the_recipe():
    generator, discriminator = GanGenerator(), Discriminator()
    with torch.no_grad():
        images = generator(torch.randn(2, 64))
        assert images.shape == (2, 3, 64, 64)
        assert discriminator(images).shape == (2,)
    assert sum(w.numel() for w in generator.state_dict().values()) * 2 < 1.2e6, "bytes in half precision"


def test_a_discriminator_sees_that_images_are_all_alike():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        told = Discriminator((8, 6))
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not torch.allclose(told(images)[:1], told(images[:1].expand(6, -1, -1, -1))[:1], atol=1e-4)


# Bad input


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_checkpoint_stays(images, tmp_path, monkeypatch):
    real, whole = gan.surprise, weights(trained(images))
    calls = []

    def breaks(logits):
        calls.append(1)
        return real(logits) * (math.nan if len(calls) == 3 * 7 + 1 else 1)

    monkeypatch.setattr(gan, "surprise", breaks)
    with pytest.raises(ModelError, match=r"the loss discriminator is nan at step 7 of 12\. Lower learning_rate"):
        train(images, scratch=tmp_path, save_seconds=0)
    monkeypatch.setattr(gan, "surprise", real)
    told = []
    assert weights(trained(images, scratch=tmp_path, progress=lambda done, *_: told.append(done))) == whole
    assert told[0] == 7 * OPTIONS.batch


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"batch": 1}, "batch = 1, expected 2 to inf"),
        ({"learning_rate": 0.0}, r"learning_rate = 0\.0, expected between 0 and 1"),
        ({"discriminator_rate": 1.0}, r"discriminator_rate = 1\.0"),
        ({"penalty": -1.0}, r"penalty = -1\.0"),
        ({"penalty_every": 0}, "penalty_every = 0"),
        ({"warmup": 13}, "warmup = 13, expected 0 to 12"),
        ({"average": 1.0}, r"decay of an average = 1\.0"),
        ({"latent": 0}, "latent = 0, expected at least 1"),
        ({"widths": (8,)}, r"widths = \[8\], expected two or more"),
        ({"widths": (8, 0)}, r"widths = \[8, 0\], expected two or more, each at least 1"),
        ({"widths": (8, 6, 4)}, r"3 widths draw images of 16 x 16, but the images have 8 x 8\. Give 2 widths"),
    ],
)
def test_bad_hyperparameters_are_named(images, changed, named):
    with pytest.raises(ParamError, match=named):
        train(images, **changed)


def test_images_that_cannot_be_learned_from_are_refused(images):
    with pytest.raises(DataError, match="no variable 'pixels'"):
        train(images.drop_vars("pixels"))
    with pytest.raises(
        DataError, match=r"pixels are uint8 of shape \(1, 8, 8, 3\); expected two or more square images"
    ):
        train(images.isel(image=[0]))
    with pytest.raises(DataError, match=r"\(256, 8, 4, 3\)"):
        train(images.isel(x=slice(4)))
    with pytest.raises(DataError, match="pixels are float32"):
        train(images.astype(np.float32))
    with pytest.raises(ParamError, match=r"images have 6 x 6\. Take images of 8, 16, 32, .* pixels"):
        train(images.isel(x=slice(6), y=slice(6)))
