"""The ssh server that other tests use: a checkout pushes to it and a clone pulls from it, with nothing but the key."""

import os
import subprocess


def run(folder, *words, ok=True):
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"}
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_push_and_pull_over_ssh_with_the_key_kept_out_of_git(ssh_server, tmp_path):
    origin, clone, remote = tmp_path / "origin", tmp_path / "clone", tmp_path / "remote"
    origin.mkdir()
    run(origin, "git", "init", "-q", "-b", "main")
    run(origin, "dvc", "init", "-q")
    ssh_server.add_remote(origin, "lab", remote)
    (origin / "data.txt").write_text("hello")
    run(origin, "dvc", "add", "data.txt")
    run(origin, "git", "add", "-A")
    run(origin, "git", "-c", "user.email=a@b.c", "-c", "user.name=a", "commit", "-qm", "data")
    run(origin, "dvc", "push")
    assert [p.read_text() for p in remote.rglob("*") if p.is_file()] == ["hello"]
    assert str(ssh_server.keyfile) not in run(origin, "git", "grep", "-h", "", "HEAD")

    run(tmp_path, "git", "clone", "-q", str(origin), str(clone))
    # a clone has the address but not the key: it is refused
    run(clone, "dvc", "remote", "modify", "--local", "lab", "keyfile", str(ssh_server.keyfile.with_name("host_key")))
    run(clone, "dvc", "pull", ok=False)
    run(clone, "dvc", "remote", "modify", "--local", "lab", "user", ssh_server.user)
    run(clone, "dvc", "remote", "modify", "--local", "lab", "keyfile", str(ssh_server.keyfile))
    run(clone, "dvc", "pull")
    assert (clone / "data.txt").read_text() == "hello"
