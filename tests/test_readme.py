"""The lines of README and docs/notebook.md run as they are written, in a fresh clone in which nothing was run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from PIL import Image

from benchmarks.pictures import PAGES, report_digest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
CHECKS = {
    "README.md": """
assert len(spans.sel(pool="descriptions", layer=3, head=3)[["text", "variance"]].to_dataframe())
assert not model.training
""",
    "docs/notebook.md": """
import numpy as np
np.testing.assert_allclose(whole, cache.embedding, atol=1e-4)
assert len(found.indices) == 5
assert spans.sizes["pool"] > 1
""",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    tiny.git(folder, "clone", "-q", "--shared", str(ROOT), "clone")
    return folder / "clone"


@pytest.mark.parametrize(("document", "blocks"), [("README.md", 2), ("docs/notebook.md", 3)])
def test_the_lines_run_in_a_fresh_clone_where_nothing_was_run(document, blocks, clone):
    """Needs the findings of HEAD's dvc.lock: after a change of the demo, run it, `optogram ship`, and commit both."""
    found = BLOCK.findall((ROOT / document).read_text())
    assert len(found) == blocks
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    lines = [sys.executable, "-c", "".join(found) + CHECKS[document]]
    done = subprocess.run(lines, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short_and_begins_with_code():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert text[: text.index("```python")].count("\n") < 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(document):
    for path, heading in LINK.findall(document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), path
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert heading in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, heading


@pytest.mark.parametrize("name", PAGES)
def test_pictures_of_the_documents_are_of_the_report_that_is_locked(name):
    with Image.open(ROOT / f"docs/{name}.png") as picture:
        assert picture.text["report"] == report_digest(ROOT / "dvc.lock"), "run `python -m benchmarks.pictures`"
