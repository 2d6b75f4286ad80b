"""A tiny git and DVC repository, with stages of a second each, for the commands that work on whole repositories."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from optogram.params.profiles import profile_text

ROOT = Path(__file__).parents[2]
PIPELINE = """
stages:
  source:
    foreach: [a, b]
    do:
      cmd: python -m stages.source --key ${item} --out artifacts/source/${item}
      deps: [stages/source.py]
      params: [seed]
      outs: ["artifacts/source/${item}"]
  total:
    cmd: python -m stages.total --out artifacts/total
    deps: [artifacts/source, stages/total.py]
    params: [textspan.size]
    outs: [artifacts/total]
    metrics:
      - artifacts/metrics/total.json: {cache: false}
"""
SOURCE = """
import os, sys
from pathlib import Path
import numpy as np
import xarray as xr
from optogram.store.write import Provenance, write_dataset

values = np.arange(6.0).reshape(2, 3) + float(os.environ.get("TINY_NOISE", 0))
words = ["red", os.environ.get("TINY_WORD", "blue")]
table = xr.Dataset({"z": (("image", "embed"), values), "word": ("image", words)}, coords={"image": ["i", "j"]})
title = "<script>alert(1)</script> & " + sys.argv[2]
write_dataset(Path(sys.argv[4]), table, Provenance("source", title, {"seed": 0}))
"""
TOTAL = """
import json, os, sys
from pathlib import Path
import zarr

if "TINY_FAIL" in os.environ:
    raise SystemExit("the disk of tiny is full")
inputs = [Path("artifacts/source") / key for key in ("a", "b")]
total = sum(float(zarr.open_group(path, mode="r")["z"][...].sum()) for path in inputs)
if "TINY_SPOIL" in os.environ:
    for path in Path("artifacts/source").rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.write(b"spoilt")
out = Path("artifacts/total")
out.mkdir(parents=True)
(out / "index.html").write_text(f"<p>{total}</p>")
Path("artifacts/metrics").mkdir(exist_ok=True)
Path("artifacts/metrics/total.json").write_text(json.dumps({"total": total + float(os.environ.get("TINY_METRIC", 0))}))
"""
CONFIG = "[core]\n    analytics = false\n    check_update = false\n[cache]\n    type = hardlink,copy\n"


def git(folder, *words):
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True)


def dvc(folder, *words):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(["dvc", *words], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def make(folder):
    """The repository, run and committed, in `folder`."""
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    (folder / ".dvc/config").write_text(CONFIG)
    (folder / ".gitignore").write_text("/.scratch/\n__pycache__/\n/artifacts/*\n!/artifacts/metrics/\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(profile_text("demo", []))
    (folder / "stages").mkdir()
    (folder / "stages/__init__.py").write_text("")
    (folder / "stages/source.py").write_text(SOURCE)
    (folder / "stages/total.py").write_text(TOTAL)
    dvc(folder, "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return folder


def copy(made, folder):
    """A copy of a repository in a new folder, hardlinks into its cache kept."""
    folder.mkdir()
    subprocess.run(["cp", "-a", f"{made}/.", str(folder)], check=True)
    return folder


def contents(folder):
    """{path: (mode, digest)} of every file of the checkout and its cache; DVC's own notes and locks left out."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mode, hashlib.md5(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_relative_to(folder / ".dvc/tmp")
    }
