"""A training that is cut off anywhere and started again ends with the bytes of one that was not."""

import os
import random
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_gan import PLAN, ToyGan

import optogram.models.training
from optogram.data.scenes import Scenes
from optogram.errors import ArtifactError, ModelError
from optogram.models.training.classifier import train_classifier
from optogram.models.training.clip import train_clip
from optogram.models.training.loop import Recipe, train

BATCH, STEPS = 32, 15  # five an epoch
RECIPE = Recipe(epochs=3, batch=BATCH, learning_rate=2e-3, weight_decay=0.1, warmup=2, seed=5)
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 40, "vocab_size": 1514, "width": 16, "heads": 2, "layers": 1},
}
# a dropout draws from torch's own generator
CLASSIFIER = {
    "spec": "timm:resnet10t",
    "arguments": {"channels": [8, 8, 8, 16], "stem_width": 8, "drop_rate": 0.3},
    "flips": True,
}
TRAINING = str(Path(optogram.models.training.__file__).parent)
ROOT = Path(__file__).parents[3]
# A process of its own: a fork of this one, whose libraries have threads, may wait for ever for a lock of theirs.
CHILD = """
import sys
import stages  # settles how sums round
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_resume import RUNS, drawn
RUNS[sys.argv[1]](drawn(), Path(sys.argv[2]), lambda *_: print(flush=True))
"""


def drawn():
    return Scenes("train", 160, 0, size=32).read(0, 160)


@pytest.fixture(scope="module")
def images():
    return drawn()


def run_clip(images, scratch=None, tell=None, save_seconds=0.0):
    others = {"scratch": scratch, "progress": tell, "save_seconds": save_seconds, "device": "cpu"}
    return state(train_clip(images, RECIPE, architecture=CLIP, texts_per_image=2, **others).model)


def run_classifier(images, scratch=None, tell=None, save_seconds=0.0):
    others = {"scratch": scratch, "progress": tell, "save_seconds": save_seconds, "device": "cpu"}
    return state(train_classifier(images, RECIPE, **CLASSIFIER, **others).model)


def run_gan(images=None, scratch=None, tell=None, save_seconds=0.0, measured=lambda: None, every=5):
    task, plan = ToyGan(), replace(PLAN, steps=STEPS, batch=BATCH, save_seconds=save_seconds)
    history = train(task, plan, scratch=scratch, progress=tell, evaluation=task.evaluation(every, measured))
    return task.state(history)


# an evaluation writes a checkpoint of its own; here it comes at the end only
RUNS = {"clip": run_clip, "classifier": run_classifier, "gan": partial(run_gan, every=STEPS)}


@pytest.fixture(scope="module", params=RUNS)
def training(request, images):
    """A training as a function of (scratch, progress, seconds between checkpoints), and what it ends with."""
    run = partial(RUNS[request.param], images)
    return run, run()


def state(model):
    return b"".join(w.numpy().tobytes() for w in model.state_dict().values())


def interrupt(at):
    """A progress that sends this process Ctrl-C's signal after a step."""
    return lambda done, *_: done == at * BATCH and signal.raise_signal(signal.SIGINT)


def test_a_run_interrupted_at_random_steps_ends_the_same(training, tmp_path):
    """Before there is any checkpoint, right behind one, and some steps behind it."""
    run, whole = training
    first, second, third = sorted(random.Random(7).sample(range(2, STEPS), 3))
    for at, seconds in ((1, 0), (first, 0), (third, 1e9), (second, 1e9)):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, interrupt(at), seconds)
    told = []
    assert run(tmp_path, lambda done, *_: told.append(done)) == whole
    assert told == [BATCH * step for step in range(first - 1, STEPS + 1)], "steps behind the checkpoint are not redone"
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_run_whose_process_is_killed_ends_the_same(request, training, tmp_path):
    run, whole = training
    places = (ROOT, ROOT / "tests/helpers", Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, "-c", CHILD, request.node.callspec.params["training"], str(tmp_path)]
    for steps in (3, 6):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            for _ in range(steps):
                assert child.stdout.readline()
            child.kill()
        assert child.returncode == -signal.SIGKILL
    told = []
    assert run(tmp_path, lambda done, *_: told.append(done)) == whole
    assert told[0] >= 5 * BATCH, "two steps of the first, four of the second"


def test_a_run_interrupted_at_any_line_ends_the_same(tmp_path):
    """Lines of the loop, of a checkpoint that is being written or taken up, of an evaluation, of an average."""
    whole, lines = run_gan(), lines_of(lambda: run_gan(scratch=tmp_path / "counted"))
    for trial, line in enumerate(random.Random(1).sample(range(1, lines + 1), 25)):
        scratch = tmp_path / str(trial)
        with pytest.raises(KeyboardInterrupt):
            lines_of(lambda: run_gan(scratch=scratch), line)  # noqa: B023
        # what comes between setting the kernels and the `try` that unsets them leaves them set
        torch.use_deterministic_algorithms(False)
        assert run_gan(scratch=scratch) == whole, line


def lines_of(work, stop=None):
    """How many lines of the trainings' modules `work` runs; at line number `stop` comes Ctrl-C's signal."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(TRAINING):
            return None
        if event == "line":
            count += 1
            if count == stop:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_a_run_interrupted_while_it_is_evaluated_ends_the_same(tmp_path):
    """The checkpoint was written before, and the evaluation is made again."""
    seen = []

    def stop():
        seen.append((tmp_path / "checkpoint.safetensors").stat().st_ino)
        signal.raise_signal(signal.SIGINT)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_gan(scratch=tmp_path, save_seconds=1e9, measured=stop)
    assert len(seen) == 2
    told = []
    assert run_gan(scratch=tmp_path, tell=lambda done, *_: told.append(done)) == run_gan()
    assert told[0] == 5 * BATCH


@pytest.mark.parametrize("left", [0, 5, 0.5, -1])
def test_a_checkpoint_that_is_cut_short_is_said_and_passed_over(tmp_path, capsys, left):
    whole = run_gan()
    with pytest.raises(KeyboardInterrupt):
        run_gan(scratch=tmp_path, tell=interrupt(9))
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left) if isinstance(left, float) else left])
    assert run_gan(scratch=tmp_path) == whole
    assert "is damaged" in capsys.readouterr().err


def test_what_was_being_written_is_no_checkpoint(tmp_path):
    whole = run_gan()
    with pytest.raises(KeyboardInterrupt):
        run_gan(scratch=tmp_path, tell=interrupt(9))
    (tmp_path / "checkpoint.part").write_bytes((tmp_path / "checkpoint.safetensors").read_bytes()[:300])
    told = []
    assert run_gan(scratch=tmp_path, tell=lambda done, *_: told.append(done)) == whole
    assert told[0] == 8 * BATCH


def test_a_full_disk_is_an_error_and_the_checkpoint_before_stays(tmp_path):
    whole = run_gan()
    with pytest.raises(KeyboardInterrupt):
        run_gan(scratch=tmp_path, tell=interrupt(9))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # no file of this process may be longer
    try:
        with pytest.raises(ArtifactError, match=r"could not be written at step 8: .*Free some space"):
            run_gan(scratch=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = []
    assert run_gan(scratch=tmp_path, tell=lambda done, *_: told.append(done)) == whole
    assert told[0] == 8 * BATCH


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    train(ToyGan(), PLAN, scratch=tmp_path)
    with pytest.raises(ModelError, match="other parameters"):
        train(ToyGan(decay=0.5), PLAN, scratch=tmp_path)
    with pytest.raises(ModelError, match="other parameters"):
        train(ToyGan(), replace(PLAN, warmup=3), scratch=tmp_path)
    changed = ToyGan()
    changed.networks["generator"] = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="other networks or optimisers"):
        train(changed, PLAN, scratch=tmp_path)


def test_weights_that_two_names_share_are_kept(tmp_path):
    def shared():
        task = ToyGan()
        task.networks["again"] = task.networks["generator"]
        return task

    first, second = shared(), shared()
    history = train(first, PLAN, scratch=tmp_path)
    assert first.state(history) == second.state(train(second, PLAN, scratch=tmp_path))
    assert not torch.equal(second.networks["again"][0].weight, ToyGan().networks["generator"][0].weight)
