"""What is asked of the disk: locks, forced writes, moves; and what is said where it refuses."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from optogram.errors import ArtifactError

# what disks answer that know no forced writes of this file or folder; an answer such as EIO is a failure
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
REFUSED = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your quota on this disk is used up: free some space",
    errno.EROFS: "the disk is read-only: work in a checkout on another",
    errno.EACCES: "you have no access: see who owns it (`ls -ld`)",
    errno.EPERM: "you have no access: see who owns it (`ls -ld`)",
    errno.ENAMETOOLONG: "that is too long a name for this disk: choose a shorter one in params.yaml",
    errno.EEXIST: "something else has that name, a file or a link that leads nowhere: remove it",
    errno.ENOTEMPTY: "a folder that is not empty has that name: remove it, or move it away",
    errno.ENOTDIR: "something else has that name, a file or a link that leads nowhere: remove it",
    errno.EIO: "the disk fails: see what the system says of it (`dmesg`)",
    errno.ESTALE: "the network disk was lost: mount it again",
}


def open_lock(path: Path) -> IO[str]:
    """The lock file at `path`, made with its folder where it is missing; what it holds stays."""
    with refusals_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def try_lock(file: IO[str]) -> bool:
    """Take the exclusive lock of an open file, without waiting; False if another process holds it.

    Raises ArtifactError where the disk cannot lock: without locks two runs would write into one folder.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        folder = Path(file.name).absolute().parent
        raise ArtifactError(
            f"{folder}: files cannot be locked on this disk ({error.strerror or error}), as on some network disks. "
            "Locks keep two runs out of one folder. Work in a checkout on a local disk; or make that folder a link to "
            f"one on a local disk: `mkdir -p /tmp/scratch`, remove {folder.name}, `ln -s /tmp/scratch {folder.name}`, "
            "and for DVC's own locks `dvc config --local core.hardlink_lock true`."
        ) from None
    return True


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, to the disk; nothing on disks that cannot (some network disks)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def put(made: Path, out: Path) -> None:
    """Move a finished folder to `out`, which appears whole or not at all, also from one disk to another."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = out.with_name(f".{out.name}.part")
        with suppress(FileNotFoundError):  # of a run that was cut off here
            shutil.rmtree(part)
        try:
            shutil.copytree(made, part)
            for path in part.rglob("*"):
                sync(path)
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(made)
    sync(out.parent)


@contextmanager
def refusals_explained(path: Path) -> Iterator[None]:
    """Turn what a disk refuses while `path` is made into an ArtifactError that says where, why and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        where = error.filename2 or error.filename or path
        place = f" at {where}" if str(where) != str(path) else ""
        raise ArtifactError(
            f"{path} cannot be made: {error.strerror}{place}; {REFUSED[error.errno]}. What was finished is kept, and "
            "the same command goes on."
        ) from None
