"""Options of methods are params of the same names: what stands in params.yaml is what a method gets."""

import pickle
from dataclasses import fields

import pytest

from optogram.methods.visualisation.render_rivals import RivalOptions
from optogram.methods.visualisation.targets import TargetOptions
from optogram.methods.visualisation.vital import VitalOptions
from optogram.params.visualisation import Baselines, Targets, Vital
from stages.drawing import vital_options


@pytest.mark.parametrize(
    ("options", "sections"),
    [(VitalOptions, (Vital,)), (RivalOptions, (Baselines, Vital)), (TargetOptions, (Targets,))],
)
def test_every_option_is_a_param_of_that_name(options, sections):
    known = {name for section in sections for name in section.model_fields}
    assert {field.name for field in fields(options)} <= known


def test_vital_gets_what_params_say_for_its_classifier():
    given = {
        "seeds": 3,
        "steps": 7,
        "canvas": "pixels",
        "learning_rate": 0.3,
        "decay": False,
        "jitter": 0.4,
        "tv": 0.5,
        "l2": 0.6,
        "batch": 5,
        "relevance": "gradient_x_input",
        "class_relevance": True,
    }
    weights = {"resnet": {"layer1": 2.0}}
    vital = Vital(**given, weights=weights, inner_weights={"vit": {"blocks.0": 3.0}})
    found = vital_options(vital, "resnet")
    assert {name: getattr(found, name) for name in given} == given
    assert all(given[name] != getattr(Vital(), name) for name in given), "each differs from its default"
    assert (found.weights, found.inner_weights) == (weights["resnet"], None)
    assert vital_options(vital, "vit", steps=9) == VitalOptions(
        **{**given, "steps": 9}, inner_weights={"blocks.0": 3.0}
    )
    assert pickle.loads(pickle.dumps(found)) == found
