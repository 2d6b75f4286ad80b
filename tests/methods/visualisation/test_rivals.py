"""VITAL's rivals: their losses written out, units planted for a colour and a grating, classes, seeds and bad input."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from colour_classifiers import MEAN, STD, Fragile, classifier, hooks, planted, with_norms

from optogram.errors import ModelError, ParamError, ShapeError
from optogram.methods.objectives import ClassAim, DirectionAim, reached
from optogram.methods.visualisation.optimise import Pixels, draws, image_seed, jitter
from optogram.methods.visualisation.parameterisations import FourierCanvas, magnitude_spectrum
from optogram.methods.visualisation.rivals import JITTER, METHODS, baseline
from optogram.methods.visualisation.transforms import colour_shifts, crops

SIZE = (16, 16)
SPECTRUM = magnitude_spectrum((255 * draws(range(20), (*SIZE, 3), "uniform")).byte().numpy())
RATES = {"fourier": 1.0, "maco": 1.0, "deepinversion": 0.1, "pii": 0.2}
ALONE = [method for method in METHODS if method != "deepinversion"]
COLOURS = ClassAim(torch.arange(3))


def drawn(method, model, aim, seeds, steps=30, **options):
    options = {"spectrum": SPECTRUM, "views": 3, "batch": 1, "learning_rate": RATES[method], **options}
    return baseline(method, model, aim, seeds=seeds, size=SIZE, steps=steps, **options)


def start(method, model, aim, seeds):
    return drawn(method, model, aim, seeds, steps=1, learning_rate=1e-9).rgb


@pytest.mark.parametrize("method", ALONE)
def test_units_planted_for_red_and_for_a_grating_are_driven_up(method):
    model, seeds = planted(), [1, 2, 3, 4]
    aim = DirectionAim("seen", torch.eye(4)[[0, 3]]).repeat(2)
    before = reached(model.model, model.normalise(start(method, model, aim, seeds)), aim)
    found = drawn(method, model, aim, seeds)
    after = reached(model.model, model.normalise(found.rgb), aim)
    assert (after > before).all()
    red, green, blue = found.rgb[:2].mean((2, 3)).T
    assert (red > green + 0.01).all()
    assert (red > blue + 0.01).all()
    # the grating runs along x with period 4: columns two apart differ more than rows do
    grating = found.rgb[2:].mean(1)
    assert (grating[:, :, 2:] - grating[:, :, :-2]).abs().mean() > (grating[:, 2:] - grating[:, :-2]).abs().mean()
    assert (found.diverged == -1).all()
    assert (found.loss[:, -1] < found.loss[:, 0]).all()


@pytest.mark.parametrize("method", METHODS)
def test_each_class_is_reached(method):
    model = with_norms() if method == "deepinversion" else planted()
    found = drawn(method, model, COLOURS, [1, 2, 3])
    assert model.model(model.normalise(found.rgb)).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seeds_give_the_same_bytes_and_others_give_others(method):
    model = with_norms()
    flags = [(each.training, [p.requires_grad for p in each.parameters()]) for each in model.model.modules()]
    state = torch.get_rng_state()
    found, again, other = (drawn(method, model, COLOURS, seeds, steps=4) for seeds in ([1, 2, 3], [1, 2, 3], [1, 2, 4]))
    for name in ("rgb", "transparency", "loss", "diverged"):
        assert torch.equal(getattr(found, name), getattr(again, name))
    assert not torch.allclose(found.rgb[2], other.rgb[2], atol=0.01)
    assert torch.equal(torch.get_rng_state(), state)
    assert flags == [(each.training, [p.requires_grad for p in each.parameters()]) for each in model.model.modules()]
    assert hooks(model.model) == 0


@pytest.mark.parametrize("method", ALONE)
def test_an_image_does_not_depend_on_its_batch_mates(method):
    model = planted()
    together = drawn(method, model, COLOURS, [1, 2, 3], steps=8)
    alone = drawn(method, model, COLOURS[1:2], [2], steps=8)
    torch.testing.assert_close(together.rgb[1], alone.rgb[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(together.loss[1], alone.loss[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(together.transparency[1], alone.transparency[0], atol=1e-2, rtol=0)


def normalised(rgb):
    return (rgb - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def resized(image, top, left, side, size):
    """torch's sampler: a crop of (rgb, y, x) from shares of its sides."""
    theta = torch.tensor([[[side, 0, 2 * left + side - 1], [0, side, 2 * top + side - 1]]])
    grid = F.affine_grid(theta, [1, 3, *size], align_corners=False)
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


def test_fourier_maximises_the_mean_logit_of_noisy_crops_resized_to_the_model_s_input():
    model = classifier(planted().model, size=(10, 10))
    found = drawn("fourier", model, COLOURS[:2], [5, 6], steps=1)
    rgb = FourierCanvas([5, 6], SIZE).rgb().detach()
    for n, seed in enumerate((5, 6)):
        noisy = rgb[n] + 0.1 * (2 * draws([seed], (3, *SIZE), "uniform", stream=16)[0] - 1)
        logits = [
            float(model.model(normalised(resized(noisy, *box.tolist(), (10, 10)))[None])[0, n])
            for box in crops([seed], 1, 3)[0, 0]
        ]
        assert float(found.loss[n, 0]) == pytest.approx(-sum(logits) / 3, abs=1e-5)


def test_pii_minimises_the_cross_entropy_of_copies_of_the_middle_with_their_own_jitter_and_colours():
    model = planted()
    found = drawn("pii", model, COLOURS[1:2], [5], steps=14, record=[0])
    image = Pixels([5], SIZE, MEAN, STD).rgb().detach()[0]
    middle = resized(image, 0.375, 0.375, 0.25, SIZE)
    losses = []
    for k in range(3):
        y, x = jitter([image_seed(5, "copy", k)], 14, SIZE, JITTER)[0, 0].tolist()
        mu, sigma = colour_shifts([5], 14, 3)[0, 0, k][..., None, None]
        logits = model.model((normalised(torch.roll(middle, (y, x), (1, 2))) * sigma + mu)[None])[0]
        losses.append(float(logits.exp().sum().log() - logits[1]))
    assert float(found.loss[0, 0]) == pytest.approx(sum(losses) / 3, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_that_diverges_is_said_and_the_others_are_drawn(method):
    model = classifier(Fragile(with_norms().model, lost_at=2))
    found = drawn(method, model, COLOURS, [1, 2, 3], steps=4)
    assert found.diverged.tolist() == [-1, 2, -1]
    assert found.rgb.isfinite().all()
    assert found.loss.isfinite().all()


def test_tell_and_record():
    told = []
    found = drawn("maco", planted(), COLOURS, [1, 2, 3], steps=4, record=[0, 3], tell=told.append)
    assert found.loss.shape == (3, 2)
    assert told == [3, 3, 3, 3]


def test_a_vision_transformer_is_drawn_by_all_but_deepinversion():
    model = classifier(timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=1, num_classes=3))
    for method in ALONE:
        found = drawn(method, model, COLOURS, [1, 2, 3], steps=2)
        assert found.rgb.shape == (3, 3, *SIZE)
        assert (found.diverged == -1).all()
    with pytest.raises(ModelError, match="no batch norm: use vital, fourier, maco or pii"):
        drawn("deepinversion", model, COLOURS, [1, 2, 3])


def test_bad_arguments_are_named():
    model = planted()
    for error, message, method, options in (
        (ParamError, r"'macro', expected one of fourier.*Did you mean 'maco'", "macro", {"learning_rate": 1.0}),
        (ParamError, r"spectrum=magnitude_spectrum\(images\)", "maco", {"spectrum": None}),
        (ShapeError, r"expected \(3, 16, 9\)", "maco", {"spectrum": torch.zeros(3, 16, 8)}),
        (ParamError, r"fourier: views = 0", "fourier", {"views": 0}),
        (ParamError, r"steps = 0", "pii", {"steps": 0}),
        (ParamError, r"learning_rate = nan", "pii", {"learning_rate": math.nan}),
    ):
        with pytest.raises(error, match=message):
            baseline(
                method, model, COLOURS, seeds=[1, 2, 3], size=SIZE, **{"steps": 2, "spectrum": SPECTRUM, **options}
            )
    with pytest.raises(ShapeError, match="2 seeds, but aims for 3 images"):
        drawn("fourier", model, COLOURS, [1, 2])
