"""Modules under the names that they had before the rooms were families."""

import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import optogram

# In a process of its own: an old name that is imported first must not shadow a new one.
SCRIPT = """
import optogram
from optogram.models.spec import load_model
from optogram.methods.textspan import textspan
import optogram.store.catalog
import optogram.catalog.find

assert load_model is optogram.load_model and textspan is optogram.methods.textspan
assert callable(optogram.catalog)
"""


@pytest.mark.parametrize("name", optogram._MOVED)
def test_an_old_name_is_the_same_module(name):
    assert import_module(f"optogram.{name}") is import_module(f"optogram.{optogram._MOVED[name]}")
    assert not Path(optogram.__file__).parent.joinpath(*name.split(".")).exists(), "a folder has this name now"


def test_old_names_shadow_nothing():
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], check=True)


def test_what_was_one_module_and_is_a_folder_now_has_the_names_it_had():
    from optogram.cli import app
    from optogram.cli.main import app as same
    from optogram.methods.neurons import rank_one
    from optogram.models.classifiers import activations, blocks, load_classifier
    from optogram.params import Params

    assert app is same
    assert all(pickle.loads(pickle.dumps(known)) is known for known in (rank_one, blocks, load_classifier, Params))
    assert callable(activations)
    with pytest.raises(ModuleNotFoundError):
        import_module("optogram.models.nothing")
