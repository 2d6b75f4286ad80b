"""What pictures are asked to be, against the equations written out."""

import numpy as np
import pytest
import torch
from tiny_diffusion import ARCHITECTURE

from optogram.errors import ModelError, ParamError, ShapeError
from optogram.methods.image_objectives import (
    Channels,
    Disagreement,
    Features,
    Keep,
    LogProbability,
    Probability,
    Projections,
    Unit,
    class_number,
    taken_by,
    zero_shot,
)
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import Preprocess, build_clip, encode_images, encode_texts

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def small(seed, size=(16, 16)):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(5, 4))
    with torch.no_grad():
        model[4].weight.mul_(5)
    return Classifier(model.eval().requires_grad_(False), Preprocess(16), MEAN, STD, size, ("a", "bee", "c", "d"), "x")


IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([0, 0, 2, 1])  # views of three images


def normalised(images):
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def test_log_probability_and_probability():
    one, classes = small(0), torch.tensor([3, 1, 0])
    p = one.model(normalised(IMAGES)).softmax(1)
    wanted = [float(p[view, classes[row]]) for view, row in enumerate(ROWS)]
    np.testing.assert_allclose(LogProbability(one, classes)(IMAGES, ROWS), -np.log(wanted), rtol=1e-5)
    np.testing.assert_allclose(Probability(one, classes)(IMAGES, ROWS), -np.array(wanted), rtol=1e-5)
    assert LogProbability(one, classes).size == (16, 16)


def test_disagreement_in_its_three_ways():
    one, other = small(0), small(1)
    classes = torch.tensor([[3, 2], [1, 1], [0, 3]])
    logits = [each.model(normalised(IMAGES)) for each in (one, other)]
    for view, row in enumerate(ROWS):
        mine, theirs = classes[row]
        p, q = logits[0][view].softmax(0)[mine], logits[1][view].softmax(0)[theirs]
        margins = [
            float(values[k] - max(values[j] for j in range(4) if j != k))
            for values, k in ((logits[0][view], mine), (logits[1][view], theirs))
        ]
        for of, expected in (
            ("confidences", q - p),
            ("logarithms", -p.log() - (1 - q).log()),
            ("margins", margins[1] - margins[0]),
        ):
            found = Disagreement(one, other, classes, of)(IMAGES, ROWS)
            assert float(found[view]) == pytest.approx(float(expected), rel=1e-4), of
    with pytest.raises(ParamError, match=r"of = 'margin', expected one of.*margins"):
        Disagreement(one, other, classes, "margin")


def test_logarithms_pull_where_both_confidences_are_near_zero():
    """There the plain difference has hardly a gradient: half of the images of a trial never moved."""
    one, other = small(0), small(1)
    for each in (one, other):
        with torch.no_grad():
            each.model[4].bias.copy_(torch.tensor([0.0, 0.0, 0.0, -40.0]))
    gradients = {}
    for of in ("logarithms", "confidences"):
        images = IMAGES[:1].clone().requires_grad_()
        Disagreement(one, other, torch.tensor([[3, 3]]), of)(images, torch.tensor([0])).sum().backward()
        gradients[of] = float(images.grad.abs().max())
    assert gradients["logarithms"] > 1e6 * gradients["confidences"]


def test_the_other_s_certainty_is_held_to_its_last_digit():
    """log(1 - p) of a p that float32 rounds to 1."""
    one, other = small(0), small(1)
    with torch.no_grad():
        other.model[4].bias.copy_(torch.tensor([60.0, 0.0, 0.0, 0.0]))
    images = IMAGES[:1].clone().requires_grad_()
    loss = Disagreement(one, other, torch.tensor([[0, 0]]))(images, torch.tensor([0]))
    assert 40 < float(loss.detach()) < 90
    loss.sum().backward()
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_units_of_any_layer_before_and_behind_a_nonlinearity(sign):
    one, numbers = small(0), torch.tensor([4, 0, 2])
    before = one.model[0](normalised(IMAGES)).mean((2, 3))
    behind = one.model[0](normalised(IMAGES)).relu().mean((2, 3))
    signs = torch.full((3,), sign)
    for value, literal in (
        (Channels(one.model, "0"), before),
        (Channels(one.model, "1"), behind),
        (Features(one.model), behind),
    ):
        found = Unit(one, value, numbers, signs)(IMAGES, ROWS)
        wanted = [-sign * float(literal[view, numbers[row]]) for view, row in enumerate(ROWS)]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_projections_are_linear_in_the_features():
    one = small(0)
    directions, offsets = torch.randn(2, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5, -2.0])
    features = one.model[0](normalised(IMAGES)).relu().mean((2, 3))
    unit = Unit(one, Projections(one.model, directions, offsets), torch.tensor([1, 0, 1]), torch.ones(3))
    literal = features @ directions.T + offsets
    wanted = [float(literal[view, k]) for view, k in enumerate([1, 1, 1, 0])]
    np.testing.assert_allclose(unit.reached(IMAGES, ROWS), wanted, rtol=1e-4)


def test_gradients_reach_the_pictures_through_resizing():
    one = small(0)
    images = torch.rand(2, 3, 24, 24, requires_grad=True)
    assert taken_by(one, images).shape == (2, 3, 16, 16)
    LogProbability(one, torch.tensor([0, 1]))(images, torch.tensor([0, 1])).sum().backward()
    assert images.grad.abs().max() > 0


def test_a_clip_is_a_classifier_of_texts():
    clip = build_clip(ARCHITECTURE, seed=3)
    clip.model.eval().requires_grad_(False)
    texts = ["a red circle", "a blue star"]
    rows = encode_texts(clip, texts)
    found = zero_shot(clip, rows, ("circle", "star"), scale=7.0)
    pixels = (torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(1)) * 255).byte().numpy()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    seen, said = encode_images(clip, pixels), encode_texts(clip, texts)
    cosines = torch.nn.functional.cosine_similarity(seen[:, None], said[None], dim=2)
    torch.testing.assert_close(found.model(taken_by(found, images)), 7 * cosines, atol=1e-4, rtol=1e-4)
    assert class_number(found, "star") == 1
    own = zero_shot(clip, rows, texts)
    torch.testing.assert_close(
        own.model(taken_by(own, images)), float(clip.model.logit_scale.exp()) * cosines, atol=1e-3, rtol=1e-4
    )
    with pytest.raises(ParamError, match="1 texts, expected at least 2"):
        zero_shot(clip, rows[:1], ["a dog"])
    with pytest.raises(ShapeError, match="2 texts, but 1 classes"):
        zero_shot(clip, rows, ["a dog"])


def test_keep_is_equation_19_with_means():
    generator = torch.Generator().manual_seed(0)
    originals, latents = torch.rand(3, 3, 8, 8, generator=generator), torch.randn(3, 4, 2, 2, generator=generator)
    mask, latent_mask = torch.rand(3, 8, 8, generator=generator), torch.rand(3, 2, 2, generator=generator)
    keep = Keep(originals, latents, mask, latent_mask, pixels=250.0, encoded=25.0)
    rows = torch.tensor([2, 0])
    images, z = torch.rand(2, 3, 8, 8, generator=generator), torch.randn(2, 4, 2, 2, generator=generator)
    for place, row in enumerate(rows):
        total = 0.0
        for channel, y, x in np.ndindex(3, 8, 8):
            change = float(images[place, channel, y, x] - originals[row, channel, y, x])
            total += 250 * (1 - float(mask[row, y, x])) * change**2 / (3 * 8 * 8)
        for channel, y, x in np.ndindex(4, 2, 2):
            change = float(z[place, channel, y, x] - latents[row, channel, y, x])
            total += 25 * (1 - float(latent_mask[row, y, x])) * change**2 / (4 * 2 * 2)
        assert float(keep(z, images, rows)[place]) == pytest.approx(total, rel=1e-4)
    free = Keep(originals, latents, torch.ones(3, 8, 8), torch.ones(3, 2, 2))
    assert float(free(z, images, rows).abs().max()) == 0
    with pytest.raises(ShapeError, match="a mask of shape"):
        Keep(originals, latents, mask[:, :4], latent_mask)


def test_slips_are_said():
    with pytest.raises(ParamError, match=r"class 'be'.*bee"):
        class_number(small(0), "be")
    with pytest.raises(ModelError, match="images of any size"):
        _ = LogProbability(small(0, size=None), torch.tensor([0])).size
