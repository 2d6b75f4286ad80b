"""What all tests share: one thread a process (xdist fills the cores), a folder to work in, and an ssh server."""

# ruff: noqa: I001  the first import settles how sums round, before numpy and torch load their libraries
import stages  # noqa: F401

import os
import signal

import pytest
import torch
from jaxtyping import config, install_import_hook

from ssh_server import ssh_server  # noqa: F401

torch.set_num_threads(1)
# a shell leaves it out for what it starts in the background, and all that this starts would do so too
signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKED = (
    *("store", "catalog", "data", "decompose", "guidance", "methods", "metrics", "params", "pipeline", "study"),
    *(f"models.{name}" for name in ("loading", "batches", "layers", "linear_head", "places", "text_embeddings")),
    *("models.generative", "models.judging"),
)
"""The modules whose annotations `--shapes` holds calls to; not yet those of training, the report and the commands."""

HELD = (
    *(f"tests/{folder}/" for folder in ("decompose", "guidance", "metrics", "models/generative")),
    *(f"tests/methods/{family}/" for family in ("heads", "neurons", "attribution", "guidance")),
    "tests/test_doctests.py",
)
"""The tests of algebra, whose calls `--shapes` checks; others, of stages say, pass numpy's integers for Python's."""

TOGETHER = (
    "tests/stages/",
    "tests/report/",
    "tests/flows/",
    "tests/e2e/test_pipeline.py",
    "tests/pipeline/test_warm.py",
)
"""Tests that share a costly fixture: stages' inputs, findings, Prefect's server, the pipeline, the warm parent."""


def pytest_addoption(parser, pluginmanager):
    """`--shapes`: in tests of algebra every call is held to its annotations, shapes and dtypes of arrays among them.

    The hook has to stand before the first module of a room is imported, as the conftests of folders do. So the option
    is looked for here, before pytest has parsed it, and fixtures below import helpers when they run.
    """
    parser.addoption(
        "--shapes", action="store_true", help="check annotations in tests of algebra, shapes of arrays included"
    )
    given = [*pluginmanager.get_plugin("pytestconfig").invocation_params.args]
    if "--shapes" in given + os.environ.get("PYTEST_ADDOPTS", "").split():
        # an int is a float, as PEP 484 and pyright have it
        checker = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
        install_import_hook([f"optogram.{room}" for room in CHECKED], checker)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadgroup`, tests that share a costly fixture run in one worker, which makes it once.

    xdist's own way, a mark, groups nothing with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next((place for place in TOGETHER if nodeid.startswith(place)), nodeid)

    return Together(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(items):
    """A test that hangs fails, and says where, before whatever waits for all tests has lost its patience."""
    for item in items:
        item.add_marker(pytest.mark.timeout(1800 if item.get_closest_marker("slow") else 600))


def pytest_runtest_setup(item):
    """One thread, whatever the test before has left; whether calls are checked.

    Tests of the errors that name wrong shapes pass what annotations forbid, and meet no check before these.
    """
    torch.set_num_threads(1)
    held = item.nodeid.startswith(HELD) and not item.get_closest_marker("misfits")
    config.update("jaxtyping_disable", not held)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_made(tmp_path_factory):
    """A tiny git and DVC repository, run once; only for `tiny_repository`."""
    import tiny

    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_repository(tiny_made, tmp_path, monkeypatch):
    """A copy of the tiny repository to do harm to, hardlinks into its cache kept; the working directory."""
    import tiny

    folder = tiny.copy(tiny_made, tmp_path / "repository")
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    monkeypatch.chdir(folder)
    return folder
