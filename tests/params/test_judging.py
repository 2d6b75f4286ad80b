"""What params.yaml says of a judge is what its training gets."""

from dataclasses import asdict

import pytest
from pydantic import ValidationError

from optogram.models.training.judge import JudgeTraining
from optogram.params.judging import JudgeModel, TrainJudge
from stages.train_judge import training_of

CHANGED = {
    "far": [8, 16, 24],
    "near": [8, 8, 16],
    "hidden": 32,
    "steps": 7,
    "batch": 5,
    "learning_rate": 0.1,
    "weight_decay": 0.2,
    "warmup": 3,
    "average": 0.4,
    "maps": 0.6,
    "damage": {"share": 0.1, "blur": 0.2, "noise": 0.3, "shade": 0.4, "patch": 2, "components": 5},
    "strangers": {"grounds": 0.1, "clouds": 0.2, "blobs": 0.3},
}


def as_json(training):
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(training).items()}


def test_the_defaults_are_those_of_the_training():
    assert training_of(JudgeModel()) == JudgeTraining()


def test_every_param_reaches_the_training():
    plain = JudgeModel().model_dump()
    assert plain.keys() - {"split"} == CHANGED.keys()
    for name, value in CHANGED.items():
        changed = as_json(training_of(JudgeModel.model_validate({name: value})))
        assert changed == as_json(JudgeTraining()) | {name: value}
        assert changed[name] != plain[name], "each differs from its default"


@pytest.mark.parametrize(
    "wrong",
    [{"far": [8, 8]}, {"steps": 0}, {"batch": 1}, {"average": 1.0}, {"split": "eval"}, {"strangers": {"fog": 1}}],
)
def test_what_no_training_can_work_with_is_refused(wrong):
    with pytest.raises(ValidationError):
        TrainJudge.model_validate({"models": {"a": wrong}})
