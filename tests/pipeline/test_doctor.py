"""What `optogram doctor` says about DVC remotes, and the extras that their plugins come with."""

import tomllib
from pathlib import Path

import pytest

from optogram.catalog.remote import EXTRAS
from optogram.pipeline.doctor import remotes

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def config(tmp_path):
    """Writes .dvc/config and .dvc/config.local, and gives what doctor finds: (state, remote, text)."""

    def write(shared, local=""):
        (tmp_path / "config").write_text(shared)
        (tmp_path / "config.local").write_text(local)
        return [(finding.state, finding.what, finding.found) for finding in remotes(tmp_path)]

    return write


def test_a_remote_that_is_not_verified_is_noted_with_the_command(config):
    unverified = "['remote \"lab\"']\n    url = /shared\n"
    ((state, what, found),) = config(unverified)
    assert (state, what) == ("note", "remote lab")
    assert "`dvc remote modify lab verify true`" in found
    assert config(unverified + "    verify = true\n") == []
    assert config(unverified, "['remote \"lab\"']\n    verify = true\n") == []
    assert len(config(unverified + "    verify = false\n")) == 1


@pytest.mark.parametrize(
    "option",
    [
        "password",
        "passphrase",
        "access_key_id",
        "secret_access_key",
        "session_token",
        "sas_token",
        "account_key",
        "connection_string",
        "client_secret",
    ],
)
def test_a_secret_in_the_committed_config_is_bad_and_never_printed(config, option):
    shared = "['remote \"lab\"']\n    url = s3://bucket/x\n    verify = true\n"
    secret = f"    {option} = hunter2\n"
    ((state, what, found),) = config(shared + secret)
    assert (state, what) == ("bad", "remote lab")
    assert f"`dvc remote modify --local lab {option}" in found
    assert "hunter2" not in found
    assert config(shared, "['remote \"lab\"']\n" + secret) == []


def test_a_password_in_the_url_is_bad_and_asking_for_one_is_not(config):
    shared = "['remote \"lab\"']\n    verify = true\n    ask_password = true\n    url = ssh://alice{}@host:22/x\n"
    assert config(shared.format("")) == []
    assert [state for state, _, _ in config(shared.format(":hunter2"))] == ["bad"]


def test_no_repository_no_remotes(tmp_path):
    assert remotes(tmp_path / "nowhere") == []


def test_every_cloud_has_an_extra_of_the_dvc_extra_of_its_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    clouds = {name: extras[name] for name in extras if name not in ("pipeline", "dev")}
    assert clouds == {name: [f"dvc[{name}]"] for name in EXTRAS}
