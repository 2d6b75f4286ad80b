"""Artifacts in DVC's object stores (cache, shipped, remote), read in place, with every check that a read allows.

DVC keeps a folder as a listing (a `.dir` object) and one object a file, each named by its md5. What is read whole is
checked against that name: listings, metadata, coordinates, arrays of one chunk. Of a shard only ranges are read, so
its md5 cannot be checked; its index has a crc32c and ranges have a length, and these are. See docs/remotes.md.
"""

import asyncio
import contextlib
import hashlib
import json
import math
import re
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import google_crc32c
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from optogram.errors import ArtifactError

SHIPPED = ".dvc/shipped"
EXTRAS = ("s3", "gs", "azure")  # of optogram itself, in pyproject.toml
# libgit2's objects may not be used by two threads at once
_ONE_READER_OF_GIT = threading.Lock()
ADVICE = "docs/remotes.md, 'A corrupted object', says how to repair it."


@contextlib.contextmanager
def dvc_errors(what: str, advice: str = "") -> Iterator[None]:
    """Turns DVC's and git's errors into an ArtifactError that starts with `what` and ends with the advice."""
    from dvc.exceptions import DvcException
    from dvc_objects.errors import ObjectFormatError
    from dvc_objects.fs.errors import AuthError, RemoteMissingDepsError
    from scmrepo.exceptions import SCMError

    try:
        yield
    except (ImportError, RemoteMissingDepsError) as error:
        plugin = re.search(r"requires 'dvc-(\w+)'", str(error))  # DVC has these words only
        scheme = error.protocol if isinstance(error, RemoteMissingDepsError) else plugin and plugin[1]
        if not scheme:
            raise
        package = f"optogram[{scheme}]" if scheme in EXTRAS else f"dvc[{scheme}]"
        raise ArtifactError(
            f"{what}: remotes at {scheme}:// need a plugin of DVC that is not installed. "
            f"Install it with `pip install '{package}'`."
        ) from None
    except (DvcException, ObjectFormatError, AuthError, SCMError) as error:
        # DVC calls a repository that is not there "SCM error"
        said = error.__cause__ if error.__cause__ and str(error) == "SCM error" else error
        raise ArtifactError(f"{what}: {str(said).rstrip('.')}.{advice}") from None


@dataclass
class Place:
    """A folder of objects, each named by its md5: the cache, what a revision ships, a remote. Can be pickled.

    `git` names the repository and the commit where the folder is one of a commit's, and not of a disk.
    """

    kind: str
    path: str
    files: Any = None
    git: tuple[str, str] | None = None

    @cached_property
    def fs(self) -> Any:
        """DVC's file system."""
        from dvc.fs import GitFileSystem

        return self.files if self.git is None else GitFileSystem(*self.git)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "fs"}

    def where(self, oid: str) -> str:
        """The object's path."""
        return self.fs.join(self.path, oid[:2], oid[2:])

    def exists(self, oid: str) -> bool:
        """Whether the object is there."""
        with self._alone():
            return self.fs.exists(self.where(oid))

    def read(self, oid: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes of an object, from `start` to `stop`."""
        if self.git:  # git streams its objects, which cannot be entered in the middle
            with self._alone():
                return self.fs.fs.cat_file(self.where(oid))[start:stop]
        if self.fs.protocol != "ssh" or (start is None and stop is None):
            # one range request; a file opened on a cloud would read megabytes ahead
            return self.fs.fs.cat_file(self.where(oid), start=start, end=stop)
        with self.fs.open(self.where(oid), "rb") as file:  # sshfs has ranges of files only (kept open, they hang exit)
            file.seek(start or 0)
            return file.read(-1 if stop is None else stop - (start or 0))

    def address(self, oid: str) -> str:
        """The object's address, for people."""
        path = self.where(oid)
        if self.git:
            return f"{self.kind}, {path.lstrip('/')} of commit {self.git[1][:10]}"
        return f"{self.kind}, {path if self.fs.protocol == 'local' else self.fs.unstrip_protocol(path)}"

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        return _ONE_READER_OF_GIT if self.git else contextlib.nullcontext()


def shipped_places(repo: Any, home: str | None) -> list[Place]:
    """What the repository ships: as the revision at hand has it, and in the checkout `home`, if it is one.

    DVC itself looks for the folder of a revision on the disk, where it is not, and only if an out names the remote.
    """
    from dvc.fs import GitFileSystem
    from dvc_objects.fs.local import LocalFileSystem

    places = []
    if isinstance(repo.fs, GitFileSystem):
        git = (str(repo.scm.root_dir), repo.fs.rev)
        # the pipeline may lie in a folder of the git repository
        places.append(Place("what the revision ships", repo.fs.join(repo.root_dir, SHIPPED, "files/md5"), git=git))
    if home:
        places.append(Place("what this checkout ships", str(Path(home, SHIPPED, "files/md5")), LocalFileSystem()))
    return [place for place in places if place.fs.exists(place.path)]


class Objects:
    """The objects of one DVC out: where they are, and their bytes, checked.

    `home` is the checkout that the out belongs to, if it is on this disk; `advice` says how to come by what is nowhere.
    Raises ArtifactError, naming the object and its address, for one that is missing, cut off or has other bytes.
    """

    def __init__(
        self, out: Any, name: str, remote: str | None = None, *, home: str | None = None, advice: str = ""
    ) -> None:
        from dvc.config import NoRemoteError

        self.name = name
        self.advice = advice
        self.root: str = out.hash_info.value
        self.cache: Any = out.cache
        self.remote: Any = None
        with dvc_errors(f"{name}: the remote cannot be used"), contextlib.suppress(NoRemoteError):
            self.remote = out.repo.cloud.get_remote_odb(remote or out.remote, hash_name=out.hash_name)
        self.shipped = shipped_places(out.repo, home)
        self.places = [Place("the cache", self.cache.path, self.cache.fs), *self.shipped]
        # a remote may be the cache (DVC's own for another checkout) or what is shipped
        if self.remote is not None and self.remote.path not in [place.path for place in self.places]:
            self.places.append(Place("the remote", self.remote.path, self.remote.fs))
        self._places: dict[str, Place] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which reads only: where objects are, without DVC's stores, which cannot be pickled."""
        return vars(self) | {"cache": None, "remote": None}

    def listing(self) -> dict[str, str]:
        """{path in the out: object}, its own md5 checked. DVC itself believes any listing that is valid JSON."""
        return {entry["relpath"]: entry["md5"] for entry in json.loads(self.whole(self.root))}

    def whole(self, oid: str) -> bytes:
        """All bytes of an object, its md5 checked."""
        data = self.place(oid).read(oid)
        found = hashlib.md5(data).hexdigest()
        if found != oid.removesuffix(".dir"):
            raise self.damaged(oid, f"its {len(data):,} bytes have the md5 {found}")
        return data

    def damaged(self, oid: str, found: str) -> ArtifactError:
        """The error for an object whose bytes are not those it is named after."""
        return ArtifactError(
            f"{self.name}: object {oid} is corrupted in {self.place(oid).address(oid)}: {found}. Nothing of it was "
            f"used. {ADVICE}"
        )

    def prepare_cache(self) -> None:
        """Before DVC pulls: drop damaged objects of this out from the cache; put what is shipped and the listing there.

        DVC takes a read-only object in its cache to be right, and any listing that it can parse.
        """
        for oid in (self.root, *self.listing().values()):
            if self.cache.exists(oid) and self._md5(self.cache, oid) != oid.removesuffix(".dir"):
                self.cache.delete(oid)
                self._places.pop(oid, None)
            if not self.cache.exists(oid) and (oid == self.root or any(place.exists(oid) for place in self.shipped)):
                self.cache.add_bytes(oid, self.whole(oid))

    def missing(self) -> list[str]:
        """Objects that the cache lacks."""
        return [oid for oid in dict.fromkeys((self.root, *self.listing().values())) if not self.cache.exists(oid)]

    def check_remote(self, *, only_missing: bool) -> None:
        """Raise ArtifactError for the first object that is damaged in the remote, of those not in the cache or all."""
        for oid in dict.fromkeys(self.listing().values()):
            if not (only_missing and self.cache.exists(oid)):
                self.whole(oid)

    def repair_remote(self) -> list[str]:
        """Replace what is damaged or missing in the remote by what the cache has; return the objects replaced."""
        if self.remote is None:
            raise ArtifactError(f"{self.name}: no remote to repair. Name one, or `dvc remote add -d NAME URL`.")
        replaced, remote = [], self.remote
        self.places = [place for place in self.places if place.path != remote.path]  # whole() reads none of it
        self._places.clear()
        for oid in dict.fromkeys((*self.listing().values(), self.root)):
            there = remote.exists(oid)
            if there and self._md5(remote, oid) == oid.removesuffix(".dir"):
                continue
            self.whole(oid)
            if there:
                remote.delete(oid)
            remote.add(self.cache.oid_to_path(oid), self.cache.fs, oid, check_exists=False)
            replaced.append(oid)
        return replaced

    def _md5(self, store: Any, oid: str) -> str:
        return hashlib.md5(store.fs.fs.cat_file(store.oid_to_path(oid))).hexdigest()

    def place(self, oid: str) -> Place:
        """The first place that has the object; ArtifactError if none has."""
        if oid not in self._places:
            found = next((place for place in self.places if place.exists(oid)), None)
            if found is None:
                looked = " nor in ".join(place.path for place in self.places)
                raise ArtifactError(
                    f"{self.name}: object {oid} is neither in the cache nor in a remote ({looked}). {self.advice}"
                )
            self._places[oid] = found
        return self._places[oid]


class ObjectStore(Store):
    """A Zarr store that reads an artifact, lying at `prefix` in a DVC out, from the out's objects; read-only.

    Unlike zarr's own FsspecStore it raises for a chunk that is listed but missing, where that gives zeros.
    """

    def __init__(self, objects: Objects, prefix: str) -> None:
        super().__init__(read_only=True)
        start = f"{prefix}/" if prefix else ""
        self.objects = objects
        self.prefix = prefix
        self.files = {
            path.removeprefix(start): oid for path, oid in objects.listing().items() if path.startswith(start)
        }
        self._indexes: dict[str, int] | None = None
        self._shard_indexes: dict[str, bytes] = {}  # zarr asks for a shard's index again for every chunk

    def __dask_tokenize__(self) -> tuple[str, str]:
        # dask would pickle and open it again to name it, with another connection to its remote
        return self.objects.root, self.prefix

    def read(self, key: str, start: int | None = None, stop: int | None = None) -> bytes | None:
        """The bytes at `key`, all or from `start` to `stop`, checked; None if the artifact has no such file."""
        oid = self.files.get(key)
        if oid is None:
            return None
        if start is None:
            return self.objects.whole(oid)
        is_index = start == 0 and stop == self._index_bytes(key)
        if is_index and oid in self._shard_indexes:
            return self._shard_indexes[oid]
        data = self.objects.place(oid).read(oid, start, stop)
        if stop is not None and len(data) != stop - start:
            raise self.objects.damaged(oid, f"{key} ends at byte {start + len(data):,}, expected at least {stop:,}")
        if is_index:
            found, expected = google_crc32c.value(data[:-4]), int.from_bytes(data[-4:], "little")
            if found != expected:
                raise self.objects.damaged(
                    oid, f"the crc32c of the shard index in {key} is {found:08x}, expected {expected:08x}"
                )
            self._shard_indexes[oid] = data
        return data

    def _index_bytes(self, key: str) -> int | None:
        """Bytes of the index at the start of the shards of key's array, by the root's consolidated metadata."""
        if self._indexes is None:
            arrays = json.loads(self.read("zarr.json") or b"{}").get("consolidated_metadata", {}).get("metadata", {})
            self._indexes = {name: size for name, meta in arrays.items() if (size := _shard_index_bytes(meta))}
        return self._indexes.get(key.partition("/c/")[0])

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """What `read` gives, in a thread: the file systems are synchronous."""
        match byte_range:
            case None:
                bounds = (None, None)
            case RangeByteRequest():
                bounds = (byte_range.start, byte_range.end)
            case OffsetByteRequest():
                bounds = (byte_range.offset, None)
            case SuffixByteRequest():
                raise ArtifactError(
                    f"{self.objects.name}: the shards of {key.partition('/c/')[0]} have their index at the end, "
                    "expected at the start, where Optogram writes it. Make the artifact again (`dvc repro`)."
                )
        data = await asyncio.to_thread(self.read, key, *bounds)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As zarr asks of a store."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether the artifact has the file, by its listing."""
        return key in self.files

    async def list(self) -> AsyncIterator[str]:  # type: ignore[override]
        """All files."""
        for key in self.files:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """All files whose path starts with `prefix`."""
        for key in self.files:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """Names directly in the folder `prefix`."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        for child in sorted({key[len(start) :].partition("/")[0] for key in self.files if key.startswith(start)}):
            yield child

    def __eq__(self, value: object) -> bool:
        return isinstance(value, ObjectStore) and (value.objects.root, value.files) == (self.objects.root, self.files)

    @property
    def supports_writes(self) -> bool:
        """No."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Yes."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refused, with zarr's own ValueError."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refused, with zarr's own ValueError."""
        self._check_writable()


def _shard_index_bytes(meta: dict[str, Any]) -> int | None:
    codec = next(iter(meta.get("codecs", ())), {})
    settings = codec.get("configuration", {})
    if codec.get("name") != "sharding_indexed" or settings.get("index_location") != "start":
        return None
    if [c["name"] for c in settings["index_codecs"]] != ["bytes", "crc32c"]:
        return None
    shard = meta["chunk_grid"]["configuration"]["chunk_shape"]
    return 16 * math.prod(n // k for n, k in zip(shard, settings["chunk_shape"], strict=True)) + 4


def out_of(repo: Any, path: PurePosixPath) -> tuple[Any, str] | None:
    """The DVC-tracked folder that holds `path`, and the path in it; None if there is none, or it was never made."""
    for out in repo.index.outs:
        if not (out.is_in_repo and out.use_cache and out.hash_info and out.hash_info.isdir):
            continue
        if out.stage.is_import:
            continue  # its data lie elsewhere, and DVC knows where
        folder = PurePosixPath(*repo.fs.relparts(out.fs_path, repo.root_dir))
        if path.is_relative_to(folder):
            inside = path.relative_to(folder).as_posix()
            return out, "" if inside == "." else inside
    return None
