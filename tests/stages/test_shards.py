"""A sharded stage as users run it, in a process of its own: on Dask, with a NaN, under another clock and host."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from micro import INSTANCES, ROOT, SETTINGS, command, run_stage
from safetensors.torch import load_file, save_file

from optogram.params.profiles import profile_text
from optogram.store.digests import folder_digest
from optogram.store.read import read

pytestmark = pytest.mark.slow
OUT = Path("artifacts/contributions/smoke/reference")


@pytest.fixture
def ready(workspace, monkeypatch, tmp_path):
    """A copy of the workspace in which everything before `contributions` is done, as the current folder."""
    shutil.copytree(workspace("contributions"), tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    shutil.rmtree(OUT, ignore_errors=True)


def stage(*settings, before=(), **environment):
    """Run `python -m stages.contributions` as dvc.yaml has it; its exit status and what it said."""
    Path("params.yaml").write_text(profile_text("smoke", [*SETTINGS, *settings], ROOT / "profiles"))
    module, argv = command("contributions", INSTANCES["contributions"][0])
    plain = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run(
        [*before, sys.executable, "-m", module, *argv],
        env={**plain, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stderr


def written(*settings, **options):
    """The digest of what the stage writes, which is then removed."""
    status, said = stage(*settings, **options)
    assert status == 0, said
    digest = folder_digest(OUT)
    shutil.rmtree(OUT)
    return digest


def test_dask_and_the_environment_give_the_same_bytes(ready):
    plain = written()
    assert written(OMP_NUM_THREADS="2", MKL_CBWR="COMPATIBLE") == plain
    status, said = stage("dask.processes=2")
    assert status == 0, said
    assert "2 processes at tcp://127.0.0.1" in said
    assert folder_digest(OUT) == plain
    assert not any(key.startswith("dask") for key in json.loads(read(OUT).attrs["params"]))


@pytest.mark.parametrize("dask", [0, 2], ids=["loop", "dask"])
def test_a_nan_stops_the_stage_with_its_place_and_nothing_half_written(ready, dask):
    path = Path("artifacts/models/smoke/model.safetensors")
    weights = load_file(path)
    weights["visual.transformer.resblocks.1.mlp.c_proj.bias"][0] = float("nan")
    save_file(weights, path)
    status, said = stage(f"dask.processes={dask}")
    assert status == 2
    assert "Traceback" not in said
    assert "ModelError: the model gives a NaN or infinite" in said
    assert "for image 0, the first of" in said
    assert not OUT.exists()


@pytest.mark.parametrize("dask", [0, 2], ids=["loop", "dask"])
def test_a_nan_that_only_the_store_sees_is_named_with_variable_and_index(ready, dask, tmp_path):
    # as of a stage that does not check for itself: sitecustomize reaches the workers too
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SPOILT)
    status, said = stage(f"dask.processes={dask}", PYTHONPATH=f"{tmp_path / 'site'}:{ROOT}")
    assert status == 2
    assert "Traceback" not in said
    assert f"ArtifactError: {OUT}: z has a NaN or infinite value, first at image=35, layer=1, head=0" in said
    assert not OUT.exists()
    marks = list(Path(".scratch").glob("*/marks/000001.json"))
    assert not marks, "the bad shard is not kept"


SPOILT = """
import importlib.abc, importlib.machinery, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "optogram.decompose.cache":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def spoil(module):
            run(module)
            caching = module.caching
            def spoilt(*arguments):
                compute = caching(*arguments)
                def bad(start, stop):
                    part = compute(start, stop)
                    if start <= 35 < stop:
                        part.z[35 - start, 1] = float("nan")
                    return part
                return bad
            spoilt.__module__, spoilt.__qualname__ = module.__name__, "caching"
            module.caching = spoilt
        spec.loader.exec_module = spoil
        return spec
import importlib.util
sys.meta_path.insert(0, Finder())
"""


def can(*words):
    return shutil.which(words[0]) and not subprocess.run([*words, "true"], capture_output=True).returncode


def test_no_clock_host_zone_or_language_changes_a_byte(ready):
    plain = written()
    assert written(TZ="Pacific/Kiritimati", LANG="tr_TR.UTF-8", LC_ALL="C", PYTHONHASHSEED="7") == plain
    tried = 0
    if can("faketime", "2001-02-03 04:05:06"):
        assert written(before=["faketime", "-f", "@2001-02-03 04:05:06"]) == plain
        tried += 1
    if can("unshare", "--uts"):
        assert written(before=["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]) == plain
        tried += 1
    if not tried:
        pytest.skip("neither faketime nor unshare works here")


def test_scenes_go_to_the_workers_too(ready):
    (instance,) = [values for values in INSTANCES["scenes"] if values["split"] == "eval"]
    before = folder_digest(Path("artifacts/images/eval"))
    Path("params.yaml").write_text(profile_text("smoke", [*SETTINGS, "dask.processes=1"], ROOT / "profiles"))
    run_stage("scenes", instance, out="again")
    assert folder_digest(Path("again")) == before
