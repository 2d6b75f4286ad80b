"""`optogram lineage`: what led to an artifact, as dvc.lock has it, and what is not so any more."""

import io
import re
import shutil

import pytest
import tiny
from rich.console import Console
from typer.testing import CliRunner

from optogram.cli.main import app
from optogram.errors import ArtifactError
from optogram.pipeline.graph_layout import HEIGHT, WIDTH, layered
from optogram.pipeline.lineage import Lineage, Made, lineage, mermaid, tree, write_lineage

HOSTILE = '<script>alert("1")</script>]:::x --> n0'


def printed(found):
    console = Console(width=200, file=io.StringIO())
    console.print(tree(found))
    return console.file.getvalue()


def test_the_chain_of_a_locked_artifact(tiny_repository):
    found = lineage("total")
    assert list(found.made) == ["source@a", "source@b", "total"], "inputs first"
    total, source = found.made["total"], found.made["source@a"]
    assert total.inputs == ("source@a", "source@b")
    assert total.artifacts == ("total", "metrics/total.json")
    assert total.params == {"textspan.size": 16}
    assert list(total.code) == ["stages/total.py"]
    assert source.title.startswith("<script>")
    lock = (tiny_repository / "dvc.lock").read_text()
    assert all(made.digest in lock and made.digest.endswith(".dir") for made in found.made.values())
    assert not any(made.notes for made in found.made.values())


def test_an_artifact_inside_an_out_and_names_as_paths(tiny_repository):
    assert lineage("artifacts/source/a").root == "source@a"
    assert lineage("metrics/total.json").root == "total"


def test_unknown_names_get_the_nearest(tiny_repository):
    with pytest.raises(ArtifactError, match=r"no stage that makes 'totl'.*Did you mean 'total'"):
        lineage("totl")
    with pytest.raises(ArtifactError, match="at revision HEAD names no stage"):
        lineage("textspan/demo", rev="HEAD")


def test_edited_stale_and_missing_are_said(tiny_repository):
    chunk = tiny_repository / "artifacts/source/a/z/c/0/0"
    data = chunk.read_bytes()
    chunk.unlink()  # it is a hardlink into the cache
    chunk.write_bytes(data[:-1] + b"!")
    notes = lineage("total").made["source@a"].notes
    assert notes == ("artifacts/source/a was edited: it is not the one that dvc.lock describes",)
    assert any("artifacts/source" in note for note in lineage("total").made["total"].notes)
    assert lineage("total").made["total"].notes[-1] == "`dvc repro` would remake it: stale or edited is source/a"
    code = tiny_repository / "stages/source.py"
    code.write_text(code.read_text() + "\n")
    params = tiny_repository / "params.yaml"
    params.write_text(re.sub(r"^  size: 16", "  size: 15", params.read_text(), flags=re.M))
    found = lineage("total")
    assert "stale: changed since it was made: stages/source.py" in found.made["source@b"].notes
    assert any("textspan.size" in note for note in found.made["total"].notes)
    shutil.rmtree(tiny_repository / "artifacts/total")
    assert "artifacts/total is not in the working tree" in lineage("total").made["total"].notes
    assert not any(made.notes for made in lineage("total", rev="HEAD").made.values()), "a revision is what it is"


def test_another_revision(tiny_repository):
    params = tiny_repository / "params.yaml"
    params.write_text(re.sub(r"^  size: 16", "  size: 15", params.read_text(), flags=re.M))
    tiny.dvc(tiny_repository, "repro", "total")
    assert lineage("total").made["total"].params == {"textspan.size": 15}
    assert lineage("total", rev="HEAD").made["total"].params == {"textspan.size": 16}


def diamond():
    def made(key, *inputs, **more):
        values = {"digest": "0123456789abcdef.dir", "title": "", "params": {}, "code": {}, **more}
        return Made(key, "" if key == "out/side" else key, (key,), inputs=inputs, **values)

    found = [
        made("out/side"),
        made("a", "out/side", title=HOSTILE, params={"x": HOSTILE}, code={HOSTILE: "1"}),
        made("b", "a"),
        made(HOSTILE, "a", notes=(HOSTILE,)),
        made("root", "b", HOSTILE, "a"),
    ]
    return Lineage(HOSTILE, None, "root", {m.key: m for m in found})


def test_the_tree_shows_shared_ancestors_once():
    text = printed(diamond())
    assert text.count("out/side") == 1
    assert text.count("a 01234567") == 3
    assert text.count("↑ above") == 2
    assert "from outside the pipeline" in text


def test_mermaid_labels_are_escaped():
    lines = mermaid(diamond()).splitlines()
    assert lines[0] == "flowchart LR"
    assert "  n1 --> n2" in lines
    assert len(lines) == 1 + 5 + 6
    label = next(line for line in lines if "script" in line)
    assert label == (
        '  n3["#60;script#62;alert#40;#34;1#34;#41;#60;/script#62;#93;#58;#58;#58;x --#62; n0<br/>01234567"]'
    )


def test_the_page_is_one_file_and_escapes_everything(tmp_path):
    write_lineage(tmp_path / "page.html", diamond())
    text = (tmp_path / "page.html").read_text()
    assert "alert(" in text
    assert "<script>alert" not in text
    assert 'data-key="<' not in text
    assert not re.search(r'(src|href)="(https?:|//)', text)
    assert text.count('class="line"') == 6
    with pytest.raises(ArtifactError, match=r"ends in \.html"):
        write_lineage(tmp_path / "params.yaml", diamond())


def test_boxes_do_not_overlap_and_inputs_stand_to_the_left():
    inputs = {"a": (), "b": ("a",), "c": ("b", "a"), "d": ("a",), "e": ("c", "d", "a"), "alone": ()}
    drawing = layered(inputs)
    for key, below in inputs.items():
        assert all(drawing.boxes[other][0] + WIDTH < drawing.boxes[key][0] for other in below)
    corners = list(drawing.boxes.values())
    for k, (x, y) in enumerate(corners):
        assert 0 <= x <= drawing.width - WIDTH
        assert 0 <= y <= drawing.height - HEIGHT
        assert not any(x == left and abs(y - top) < HEIGHT for left, top in corners[k + 1 :])
    assert {line[:2] for line in drawing.lines} == {(below, key) for key, many in inputs.items() for below in many}


def test_the_command(tiny_repository, tmp_path):
    done = CliRunner().invoke(app, ["lineage", "total", "--html", str(tmp_path / "x.html"), "--mermaid"])
    assert done.exit_code == 0
    assert done.stdout.startswith("flowchart LR")
    assert (tmp_path / "x.html").is_file()
    assert "source/b" in CliRunner().invoke(app, ["lineage", "total", "--rev", "HEAD"]).stdout
