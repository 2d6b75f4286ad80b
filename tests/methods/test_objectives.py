"""What images aim at: logits and directions, and aims that do not fit the model."""

import pytest
import timm
import torch
from colour_classifiers import Planted, hooks, planted
from torch import nn

from optogram.errors import ModelError, ParamError, ShapeError
from optogram.methods.objectives import ClassAim, DirectionAim, check_aim, reached, shortfall
from optogram.methods.visualisation.optimise import draws

MODEL = planted().model
IMAGES = draws([1, 2, 3], (3, 8, 9), "normal")


def test_an_image_reaches_its_own_class_s_logit():
    logits = MODEL(IMAGES)
    aim = ClassAim(torch.tensor([2, 0, 3]))
    assert torch.equal(reached(MODEL, IMAGES, aim), torch.stack([logits[0, 2], logits[1, 0], logits[2, 3]]))
    expected = [float(logits[n].exp().sum().log() - logits[n, c]) for n, c in enumerate((2, 0, 3))]
    assert shortfall(MODEL, IMAGES, aim).tolist() == pytest.approx(expected, abs=1e-5)


def test_an_image_reaches_its_layer_s_mean_along_its_direction():
    maps = MODEL.look(IMAGES).relu()
    direction = draws([4, 5, 6], (4,), "normal")
    aim = DirectionAim("seen", direction)
    expected = [float(sum(maps[n, c].mean() * direction[n, c] for c in range(4))) for n in range(3)]
    assert reached(MODEL, IMAGES, aim).tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(shortfall(MODEL, IMAGES, aim), -reached(MODEL, IMAGES, aim))


@pytest.mark.parametrize(
    "aim", [ClassAim(torch.tensor([2, 0])), DirectionAim("seen", torch.eye(4)[:2])], ids=["class", "direction"]
)
def test_aims_repeat_side_by_side_and_are_cut_by_image(aim):
    images = IMAGES[:2]
    once = reached(MODEL, images, aim)
    assert torch.equal(reached(MODEL, images.repeat_interleave(3, 0), aim.repeat(3)), once.repeat_interleave(3))
    assert torch.equal(reached(MODEL, images[1:], aim[1:]), once[1:])
    assert len(aim.repeat(3)) == 6


def test_aims_that_do_not_fit():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1).eval()
    for error, message, model, aim, size in (
        (ParamError, r"classes \[1, 4\]: Planted has 4", MODEL, ClassAim(torch.tensor([4, 1])), (8, 8)),
        (ParamError, r"classes \[-1\]", MODEL, ClassAim(torch.tensor([-1])), (8, 8)),
        (ModelError, r"has no layer 'sean'. Did you mean 'seen'", MODEL, DirectionAim("sean", torch.eye(4)), (8, 8)),
        (ShapeError, r"'seen' has 4 channels, the direction 5", MODEL, DirectionAim("seen", torch.eye(5)), (8, 8)),
        (ModelError, r"does not take an image of 40 x 32: .*Draw at its own", vit, ClassAim(torch.arange(2)), (40, 32)),
        (
            ModelError,
            r"gives \(1, 4, 8, 8\): expected logits",
            Planted().look.eval(),
            ClassAim(torch.arange(2)),
            (8, 8),
        ),
        (ModelError, "is in training mode", Planted(), ClassAim(torch.arange(2)), (8, 8)),
    ):
        with pytest.raises(error, match=message):
            check_aim(model, aim, size)
        assert hooks(model) == 0
    with pytest.raises(ShapeError, match="3 images, but aims for 2"):
        reached(MODEL, IMAGES, ClassAim(torch.arange(2)))


def test_a_model_of_another_output_is_no_classifier():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ModelError, match="Pair gives tuple: expected logits"):
        check_aim(Pair().eval(), ClassAim(torch.arange(2)), (8, 8))
