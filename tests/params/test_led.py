"""Groups of guidance that name what is not there are refused before a run begins."""

import re
from pathlib import Path

import pytest

from optogram.errors import ParamError
from optogram.params.profiles import profile_params

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("groups.resnet.classifier=resnett", "groups.resnet.classifier names 'resnett', but the models are ['demo', "),
        ("groups.resnet.classifier=demo", "'demo' is a CLIP, whose classes are values of"),
        ("groups.resnet.attribute=colour", "'resnet' is a classifier, which has no use for values of"),
        ("groups.resnet.others=[demo]", "groups.resnet.others names 'demo', but the classifiers are"),
        ("groups.resnet.others=[resnet]", "which leads; name models that have no part in it"),
        ("groups.resnet.diffusion=b", "groups.resnet.diffusion names 'b', but the diffusions are ['prior']"),
        ("groups.resnet.judge=b", "groups.resnet.judge names 'b', but the judges are ['judge']"),
        ("groups.resnet.split=b", "groups.resnet.split names 'b', but the splits are ['train', "),
        ("injected=[0.2, 1.5]", "counterfactuals.injected has 1.5, expected shares of the steps, 0 to 1"),
        ("blended=[-1]", "counterfactuals.blended has -1"),
        ("kept.dilate=4", "counterfactuals.kept.dilate = 4, expected an odd number of pixels"),
        ("below=10", "counterfactuals.below = 10 leaves no step of counterfactuals.guidance.steps = 10"),
    ],
)
def test_what_cannot_be_is_said_with_its_key(setting, said):
    with pytest.raises(ParamError, match=re.escape(said)):
        profile_params("demo", [f"counterfactuals.{setting}"], ROOT / "profiles")
