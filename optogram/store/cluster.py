"""Shards made by the workers of a Dask cluster: each computes, writes and marks its own, on a disk that all share."""

import pickle
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import xarray as xr

from optogram.errors import ArtifactError
from optogram.progress import say
from optogram.store.digests import bytes_digest
from optogram.store.rounding import Threads, environment, kernels, use_threads
from optogram.store.shards import Compute, Work, make, seal
from optogram.store.write import Run, Runner

CONNECT_SECONDS = 20


class Once:
    """`compute(start, stop)` of what `build(*arguments)` returns: built at the first call, and not pickled.

    So that what is heavy (a model) is loaded by each process that computes, and no other; `build` is a function that
    a worker can import, `arguments` are small.
    """

    def __init__(self, build: Callable[..., Compute], *arguments: Any) -> None:
        self.build, self.arguments = build, arguments
        self._compute: Compute | None = None

    def __call__(self, start: int, stop: int) -> xr.Dataset:
        """The rows."""
        if self._compute is None:
            self._compute = self.build(*self.arguments)
        return self._compute(start, stop)

    def __reduce__(self) -> tuple[Any, ...]:
        return Once, (self.build, *self.arguments)


def on_cluster(
    *, processes: int = 0, address: str | None = None, threads: Threads = 1, check: Callable[[], None] | None = None
) -> Runner:
    """A runner for `write_sharded`: `processes` on this machine, or the workers of the scheduler at `address`.

    threads: how many a worker computes with. check: called once in each worker before it computes, to refuse it.

    A worker that dies costs the shard that it was at: the others, or the one that Dask starts in its place, make it
    again. What `compute` raises in a worker is raised here. Raises ArtifactError if the scheduler cannot be reached or
    is lost, if a worker does not see the scratch folder, or if workers die again and again on one shard.
    """

    @contextmanager
    def runner(work: Work, compute: Compute) -> Iterator[Run]:
        task = work.folder / "task.pickle"
        # the random part tells a folder of this run from one of the same name on another disk, or of an earlier run
        content = pickle.dumps((work, compute, check, threads, kernels(), uuid.uuid4().hex))
        if b"__main__" in content:
            raise TypeError(f"{compute} is defined in __main__, where no worker can import it: move it to a module.")
        task.write_bytes(content)
        digest = bytes_digest(content)
        with ExitStack() as stack:
            client = stack.enter_context(_client(processes, address, threads))
            yield lambda numbers: _run(client, work, str(task), digest, [*numbers], address)

    return runner


@contextmanager
def _client(processes: int, address: str | None, threads: Threads) -> Iterator[Any]:
    from dask import config
    from distributed import Client, LocalCluster

    cluster: Any
    if address is not None:
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"dask.address = {address}: no scheduler answers there ({error}). Start one with `dask scheduler`, "
                "correct the address, or set dask.address to null."
            ) from None
        with client:
            yield client
        return
    local = "127.0.0.1:0"  # without an address, Dask's dashboard listens on port 8787 of every interface
    surroundings = {
        **environment(threads),
        # Dask has glibc return freed memory at once, and a worker computes in a thread, whose own heap is small: this
        # spares a forward pass the page faults (meant so; measured only on a busy machine, where it is not certain)
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    }
    with (
        config.set({"distributed.nanny.pre-spawn-environ": surroundings}),
        LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=local,
            silence_logs=50,
            preload=__name__,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        say(f"Dask: {processes} processes at {cluster.scheduler_address}, threads: {threads} each")
        yield client


def dask_setup(_: Any) -> None:
    """Called by Dask in each local worker as it starts, as its `preload`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the one that waits closes the others


def _run(client: Any, work: Work, task: str, digest: str, numbers: list[int], address: str | None) -> Iterator[int]:
    from distributed import CancelledError, KilledWorker, as_completed

    futures = client.map(_make, numbers, task=task, digest=digest, pure=False)
    made = {future.key: number for future, number in zip(futures, numbers, strict=True)}
    try:
        for future in as_completed(futures, loop=client.loop):
            # the mark is the result: Dask's own is lost with a worker that dies, and may then be waited for in vain
            if not work.mark(made[future.key]).is_file():
                future.result()
            future.release()
            yield made[future.key]
    except KilledWorker as error:
        raise ArtifactError(
            f"Dask workers died {error.allowed_failures + 1} times on the same shard, likely for lack of memory. Set "
            "contributions.batch or dask.processes lower; what was finished is kept, and the same command resumes."
        ) from None
    except CancelledError:
        raise ArtifactError(
            f"The Dask scheduler{f' at {address}' if address else ''} was lost. What was finished is kept: start it "
            "again, and the same command resumes."
        ) from None
    finally:
        client.cancel(futures)


def _make(number: int, task: str, digest: str) -> int:
    work, compute = _opened(task, digest)
    seal(work, number, make(work, compute, number))
    return number


@lru_cache(1)
def _opened(task: str, digest: str) -> tuple[Work, Compute]:
    """What this worker is to make; kept, with the model that `compute` has loaded, for the shards that follow."""
    path = Path(task)
    content = path.read_bytes() if path.is_file() else b""  # once: what was hashed is what is loaded
    if bytes_digest(content) != digest:
        raise ArtifactError(
            f"A Dask worker does not see the scratch folder {path.parent} of this run. Workers must share the disk: "
            "start them on this machine, or mount the same folder at the same place."
        )
    try:
        work, compute, check, threads, rounding, _ = pickle.loads(content)
    except (ImportError, AttributeError) as error:
        raise ArtifactError(f"A Dask worker has other code than this run ({error}). Restart the workers.") from None
    if kernels() != rounding:
        settings = [f"{name}={value}" for name, value in rounding.items()]
        settings += [f"no {name}" for name in sorted(kernels().keys() - rounding.keys())]
        setting = " ".join(settings)
        raise ArtifactError(f"A Dask worker would round otherwise than this run. Start the workers with {setting}.")
    if check:
        check()
    import torch  # noqa: F401  so that it is there to be told its threads

    use_threads(threads)
    return work, compute
