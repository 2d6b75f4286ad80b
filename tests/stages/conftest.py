"""Micro-inputs for every stage, made by the stages before it, once a session."""

import pytest
from micro import INSTANCES, ROOT, SETTINGS, run_stage

from optogram.params.profiles import profile_text


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """`workspace(stage)` = a folder where every stage before `stage` has run, and `stage` too if `itself`."""
    folder = tmp_path_factory.mktemp("micro")
    (folder / "params.yaml").write_text(profile_text("smoke", SETTINGS, ROOT / "profiles"))
    order = list(INSTANCES)
    done = []

    def before(stage, *, itself=False):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for name in order[: order.index(stage) + itself]:
                if name not in done:
                    for values in INSTANCES[name]:
                        run_stage(name, values)
                    done.append(name)
        return folder

    return before
