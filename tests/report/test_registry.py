"""The sections as declared: their order, what they need, and a family that was added."""

import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from optogram.params.families import FAMILIES
from optogram.report import registry
from optogram.report.build import build_report
from optogram.report.panels import Panel, Table, Tile
from optogram.report.section import Part, Section
from stages.report import STAGE


def test_keys_are_distinct_and_in_the_order_of_families():
    keys = [section.key for section in registry.sections()]
    assert len(set(keys)) == len(keys)
    assert (keys[0], keys[-1]) == ("images", "neuron_pictures")
    assert keys.index("heads") < keys.index("spurious") < keys.index("neurons")
    assert len(set(FAMILIES)) == len(FAMILIES)


def test_the_stage_opens_what_sections_need():
    kinds = {template.split("/")[0] for template in registry.needs()}
    assert kinds == {opened.name for opened in STAGE.inputs}
    assert list(registry.needs()) == sorted(registry.needs())


def test_every_section_is_of_one_subject():
    for section in registry.sections():
        assert section.subject in ("run", "model", "classifier", "prior", "group")
        named = set(re.findall(r"\{\w+\}", " ".join(section.needs)))
        assert len(named & {"{model}", "{classifier}", "{prior}", "{group}"}) <= 1


@pytest.fixture
def added(monkeypatch):
    """A family that only this test has, whose section needs no template of its own."""

    def build(context, model):
        table = Table(["k", "v"], [["<row>", "7"]], "A caption")
        return Panel(model, says="It says so.", tables=[table], folded=[Table(["a"], [["deeper"]])])

    def unit(context, of):
        return [Part("What the new one says", "So it reads.", Panel(tables=[Table(["n"], [[of.name]])]))]

    new = Section(
        "new",
        "A new family",
        "How to read it.",
        ("new/{model}",),
        build,
        tiles=lambda context, model: [Tile("A tile", "42", "beside")],
        headline=lambda context, models: [f"{models[0].name} has 42."],
        unit=unit,
    )
    module = ModuleType("optogram.report.sections.new")
    vars(module).update(SECTIONS=(new,), __spec__=ModuleSpec(module.__name__, None))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "FAMILIES", (*FAMILIES, "new"))
    registry.sections.cache_clear()
    yield
    registry.sections.cache_clear()


def test_a_new_family_s_section_needs_nothing_of_the_others(added, scenes, tmp_path):
    assert "new/{model}" in registry.needs()
    images, models = scenes
    few = {"textspan": models["demo"]["textspan"].isel(layer=[0], head=[0, 1])}
    build_report(tmp_path / "report", images, {"demo": few})
    page = (tmp_path / "report/index.html").read_text()
    section = page[page.index('<section id="new">') : page.index('<section id="provenance">')]
    for text in ("It says so.", "A tile", "42", "&lt;row&gt;", "A caption", '<details class="rest">', "deeper"):
        assert text in section
    assert 'demo has 42. <a href="#new">A new family</a>' in page
    head = (tmp_path / "report/heads/demo-L1H0.html").read_text()
    assert "What the new one says" in head
    assert '<th scope="row">L1.H0</th>' in head
