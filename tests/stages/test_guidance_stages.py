"""Stages of the family guidance on images that cannot give what they ask for."""

import json
import shutil
from pathlib import Path

from micro import INSTANCES, command, run_stage

from optogram.store.read import read
from optogram.store.write import Provenance, write_dataset


def without(images, change):
    """Write the images anew, changed."""
    kept = change(read(Path(images)).load()).drop_attrs()
    shutil.rmtree(images)
    write_dataset(Path(images), kept.assign_attrs(class_attribute="shape"), Provenance("scenes", "changed"))


def test_what_the_images_cannot_give_is_skipped_with_the_reason_and_the_run_goes_on(workspace, monkeypatch, tmp_path):
    shutil.copytree(workspace("spurious_scores", itself=True), tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    without("artifacts/images/eval", lambda images: images.drop_vars("mask"))
    without("artifacts/images/reference", lambda images: images.isel(image=slice(2)))
    values = INSTANCES["npca"][0]
    for stage, said in (
        ("spurious_scores", "images/eval: the images have no masks, and a score is what lies outside of them."),
        ("npca", "images/reference: no class has 3 images or more, which a covariance needs."),
    ):
        _, argv = command(stage, values)
        out, metrics = (Path(argv[argv.index(option) + 1]) for option in ("--out", "--metrics"))
        shutil.rmtree(out)
        run_stage(stage, values)
        assert read(out).attrs["skipped"].startswith(said)
        assert json.loads(metrics.read_text())["skipped"].startswith(said)
    # what needs it is skipped for its reason
    shutil.rmtree("artifacts/spurious_scores")
    run_stage("spurious_scores", values)
    assert (
        read(Path(argv[argv.index("--out") + 1].replace("npca", "spurious_scores"))).attrs["skipped"].startswith(said)
    )
