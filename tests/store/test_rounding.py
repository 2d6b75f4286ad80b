"""The number of threads is that of params.yaml, whatever the environment or the process says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from optogram.store.rounding import THREADS, environment, settle_environment, threads_in, use_threads

ROOT = Path(__file__).parents[2]
# sums that are known to round by the number of threads: MKL's and torch's reductions, oneDNN's gradients, OpenBLAS
CODE = """
import hashlib
import stages
import numpy as np
import torch
from optogram.store.rounding import threads_in, use_threads

use_threads(threads_in())
generator = torch.Generator().manual_seed(0)
values = torch.randn(1 << 16, generator=generator)
images, weight = torch.randn(2, 3, 32, 32, generator=generator), torch.randn(16, 3, 3, 3, generator=generator)
torch.nn.functional.conv2d(images, weight.requires_grad_(), padding=1).square().sum().backward()
sums = [values.sum().numpy(), weight.grad.numpy(), np.asarray(values.numpy() @ values.numpy())]
print(*(hashlib.md5(each.tobytes()).hexdigest() for each in sums))
"""


def sums(folder, *, before=(), **setting):
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [*before, sys.executable, "-c", CODE],
        cwd=folder,
        env={**plain, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", **setting},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.slow
def test_the_environment_and_the_cores_change_no_sum(here):
    (here / "params.yaml").write_text("threads: 2\n")
    two = sums(here, OMP_NUM_THREADS="2")
    assert sums(here, OMP_NUM_THREADS="1", OMP_THREAD_LIMIT="1", OMP_DYNAMIC="true", MKL_CBWR="COMPATIBLE") == two
    assert sums(here, OPENBLAS_CORETYPE="Nehalem", ATEN_CPU_CAPABILITY="default", DNNL_MAX_CPU_ISA="SSE41") == two
    if hasattr(os, "sched_setaffinity"):
        assert sums(here, before=["taskset", "-c", str(min(os.sched_getaffinity(0)))]) == two
    (here / "params.yaml").write_text("threads: 1\n")
    if sums(here) == two:
        pytest.skip("this processor adds alike with one thread and with two: its sums cannot tell more")
    (here / "params.yaml").write_text("threads: auto\n")
    assert sums(here, OMP_NUM_THREADS="1") != two, "auto leaves it to the environment; and the sums can tell"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("threads: 3\n", 3),
        ("seed: 1\nthreads: auto # why\n", "auto"),
        ("seed: 0\n", THREADS),
        ("threads: 0\n", THREADS),
        ("threads: 1024\n", 1024),
        ("threads: 3000000000\n", THREADS),
        ("threads: true\n", THREADS),
        ("threads: [2]\n", THREADS),
        ("- 1\n", THREADS),
        ("a: [\n", THREADS),
        ("\x00\n", THREADS),
        ("", THREADS),
    ],
)
def test_threads_are_read_from_params_and_nonsense_is_left_to_the_check(here, text, found):
    (here / "params.yaml").write_text(text)
    assert threads_in() == found


def test_no_params(here):
    assert threads_in() == THREADS


def test_what_a_user_set_is_overridden_but_for_auto(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "x")
    settle_environment("auto")
    assert os.environ["OMP_THREAD_LIMIT"] == os.environ["MKL_CBWR"] == os.environ["OMP_NUM_THREADS"] == "x"
    assert environment("auto")["MKL_CBWR"] == "x", "workers do as this process"
    settle_environment(3)
    assert {"OMP_THREAD_LIMIT", "NVIDIA_TF32_OVERRIDE"}.isdisjoint(os.environ)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "3"
    assert os.environ["MKL_CBWR"] == "AUTO,STRICT"
    assert os.environ["OMP_WAIT_POLICY"] == "x", "how threads wait rounds nothing"


def test_loaded_libraries_are_told_too(capsys):
    before = torch.get_num_threads()
    with threadpool_limits():
        try:
            use_threads(3)
            assert torch.get_num_threads() == 3
            assert {pool["num_threads"] for pool in threadpool_info()} == {3}
            use_threads("auto")
            assert torch.get_num_threads() == 3
            assert "the libraries choose" in capsys.readouterr().err
        finally:
            torch.set_num_threads(before)
