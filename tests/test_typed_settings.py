"""KEY=VALUE settings as they are typed, and params.yaml as people leave it."""

import os
import shlex
from pathlib import Path

import pytest
from dvc.utils.serialize import load_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.errors import ParamError
from optogram.params.profiles import described, profile_params, profile_text, recipe, split_settings, write_profile
from optogram.params.root import load_params, read_mapping
from optogram.params.settings import parsed, seen_from

ODD = [
    *("cats #2.zip", "*.zip", "@home.zip", "`x`.zip", "%x", "a: b", "- a", "? a", "{a}", "[a]", "!x", "&x", "|", ">"),
    *("null", "~", "yes", "off", "1e-3", "0o7", "012", "2024-01-01", ".nan", "1_000", "true", "=", "a=b=c", ""),
    *("'quoted'", '"quoted"', 'say "x".zip', "it's.zip", "C:\\new\\x.zip", "$(touch ran)", "${photos.path}", "a\\${b}"),
    *(" x ", "x/", "-x", "ünï", "\u202fx", "写真.zip", "a, b", "#", "# x", "---", "...", "x" * 300),
]


@pytest.mark.parametrize("text", ODD)
def test_the_value_of_a_text_field_is_what_was_typed(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(profile_text("demo", [f"photos.path={text}", f"texts.files.mine={text}"]), encoding="utf-8")
    params = load_params(path)
    assert (params.photos.path, params.texts.files["mine"]) == (text, text)
    assert load_yaml(str(path))["photos"]["path"] == text, "DVC reads the same"
    assert recipe(path.read_text(encoding="utf-8"))[1] == f"photos.path={text}"


@given(text=st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30))
@settings(max_examples=60, deadline=None)
def test_so_is_any_text(text):
    assert parsed([f"photos.path={text}"]) == {"photos.path": text}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("scenes.bias=1e-3", 0.001),
        ("seed=0o7", 7),
        ("seed= 8 ", 8),
        (" seed =8", 8),
        ("vital.decay=off", False),
        ("vital.decay=yes", True),
        ("textspan.rank=null", None),
        ("textspan.rank=~", None),
        ("textspan.sizes=[1, 2]", [1, 2]),
        ("visual_scores.second=null", None),
        ('texts.files={mine: "a #1.txt"}', {"mine": "a #1.txt"}),
        ("texts.files.mine=a: b.txt", {"mine": "a: b.txt"}),
        ("activations.layers={}", {}),
    ],
)
def test_other_values_are_yaml(setting, value):
    found = profile_params("demo", [setting])
    for part in setting.partition("=")[0].strip().split(".")[:2]:
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["seed"], "'seed' is no setting; expected KEY=VALUE"),
        (["=3"], "is no setting"),
        (["textspan..size=3"], "is no setting"),
        (["seed="], "seed= has no value"),
        (["seed=1", "seed=2"], "seed is set twice, to 1 and to 2"),
        (["photos.path=a", "photos.path=b"], "photos.path is set twice"),
        (["clips=[a"], "clips=[a: this is not YAML: "),
        (["clips=*a"], "clips=*a: this is not YAML: "),
        (["clips=@a"], "clips=@a: this is not YAML: "),
        (["seed=2024-13-45"], "seed=2024-13-45: this is not YAML: month"),
        (["seed=1 # one"], "seed=1 # one: from # on it would be taken for a comment"),
        (["photos.path=a\nseed: 3"], "has a line break"),
        (["photos.path=\udcff.zip"], "has a line break or another character that cannot be shown"),
        (["seed=true"], "seed = true, expected a number"),
        (["scenes.bias=yes"], "scenes.bias: Input should be a valid number"),
        (["train_classifier.models.vit.learning_rate=1"], "learning_rate: Input should be less than 1"),
        (["load_clip.models.x.checkpoint="], "Write load_clip.models.x.checkpoint=null to leave it unset"),
        (["nosuch.thing=1"], "nosuch is not a known key"),
        (["seed.x=1"], "seed: Input should be a valid integer"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(given, message):
    with pytest.raises(ParamError) as error:
        profile_params("demo", given)
    assert message in str(error.value)


def test_an_error_says_how_to_quote():
    with pytest.raises(ParamError, match=r"for the shell: 'clips=\[\"a: #1\", b\]'"):
        parsed(["clips=[a #1]"])
    with pytest.raises(ParamError, match=r"SET=.*No closing quotation"):
        split_settings("a='b")
    assert split_settings("photos.path='a b.zip' seed=1") == ["photos.path=a b.zip", "seed=1"]


def test_a_profile_is_one_of_the_folder(tmp_path):
    (tmp_path / "evil.yaml").write_text("seed: 3\n")
    (tmp_path / "profiles").mkdir()
    for name in ("../evil", str(tmp_path / "evil"), "", "-h"):
        with pytest.raises(ParamError, match="No profile"):
            profile_params(name, [], tmp_path / "profiles")
    (tmp_path / "profiles/list.yaml").write_text("- a\n")
    with pytest.raises(ParamError, match=r"list\.yaml holds a list"):
        profile_params("list", [], tmp_path / "profiles")


@pytest.mark.parametrize(
    "line",
    [
        "# don't touch",
        '# "',
        "# optogram profile 'demo",
        "# optogram profile",
        "# optogram profiles demo",
        "",
        "seed: 1",
    ],
)
def test_an_own_first_line_is_an_edit(here, line):
    text = profile_text("demo", [])
    Path("params.yaml").write_text(f"{line}\n{text.partition('seed: 0')[0] if line else text}")
    with pytest.raises(ParamError, match="edits of your own"):
        write_profile("demo", ["seed=3"])
    assert write_profile("demo", ["seed=3"], force=True)
    assert described() == "profile demo with seed=3"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_an_editor_of_windows_saves_is_no_edit(here, mark, ending):
    Path("params.yaml").write_text(mark + profile_text("demo", []), encoding="utf-8", newline=ending)
    assert described() == "profile demo"
    assert write_profile("demo", ["seed=3"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n", "holds a list, expected `key: value` lines"),
        (b"demo\n", "holds a str"),
        (b"a: [\n", "is not YAML"),
        (b"\ta: 1\n", "is not YAML"),
        (b"seed: 1\nseed: 2\n", "is not YAML.*duplicate key"),
        (b"seed: \xff\n", "is not YAML in UTF-8"),
        (b"a: &a [*a]\n", "a is not a known key"),
        (b"1: 2\n", "1: Keys should be strings|1 is not a known key"),
        (b"photos: {path: 2024}\n", r"photos\.path: Input should be a valid string \(found 2024\)"),
        (b"a: " + b"[" * 3000, "is not YAML"),
    ],
)
def test_params_that_are_none_are_one_clear_error(here, content, message):
    Path("params.yaml").write_bytes(content)
    with pytest.raises(ParamError, match=f"(?s){message}"):
        load_params()
    with pytest.raises(ParamError, match="edits of your own"):
        write_profile("demo", [])


def test_params_that_are_a_folder_or_empty(here):
    Path("empty.yaml").write_text("")
    assert read_mapping(Path("empty.yaml")) == {}
    Path("params.yaml").mkdir()
    with pytest.raises(ParamError, match=r"params\.yaml cannot be read: Is a directory"):
        load_params()


def test_files_of_a_subfolder_are_found_from_the_root(here, monkeypatch):
    (here / "docs").mkdir()
    (here / "docs/my photos.zip").write_text("")
    monkeypatch.chdir(here / "docs")
    typed = ["photos.path=my photos.zip", "texts.files.a=my photos.zip", "photos.path=/x.zip", "device=cpu"]
    found = [f"photos.path=docs{os.sep}my photos.zip", "texts.files.a=docs/my photos.zip", *typed[2:]]
    assert seen_from(here, typed) == found
    for path in ("other.zip", "x" * 300):
        assert seen_from(here, [f"photos.path={path}"]) == [f"photos.path={path}"]


def test_a_recipe_is_one_line_that_a_shell_reads_back():
    given = ["photos.path=a 'b' \"c\" $d #e.zip", "seed=3"]
    first = profile_text("demo", given).partition("\n")[0]
    assert shlex.split(first.removeprefix("# optogram profile")) == ["demo", *given]
