"""The warm parent: it has imported the libraries, and stages are forks of it (`python -m stages.warm_parent SOCKET`).

Nothing else has happened in it: no CUDA context, no thread of its own, no module of ours that a stage would share. A
fork imports the stage from the checkout that it was asked from. Standard input is the tether: when it closes, the
parent ends, and all forks with it. A fork whose client goes is killed with all that it has started.
"""

import atexit
import contextlib
import ctypes
import gc
import hashlib
import importlib
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from optogram.errors import FlowError
from optogram.pipeline.child_process import end_session
from optogram.pipeline.warm_client import SIGNALS, circumstances, peer_user, receive, send
from optogram.store.rounding import FOREIGN, Threads, environment, settle_environment, threads_in

# What stages import as they load; a test holds this to be all of it.
LIBRARIES = (
    *("PIL.Image", "google_crc32c", "jaxtyping", "jinja2", "matplotlib.backends.backend_agg", "matplotlib.style"),
    *("numpy", "open_clip", "pandas", "plotly.offline", "psutil", "pydantic", "rich.console", "ruamel.yaml"),
    *("safetensors.torch", "scipy.cluster.hierarchy", "scipy.optimize", "scipy.sparse", "scipy.spatial.distance"),
    *("scipy.stats", "sklearn.cluster", "sklearn.decomposition", "sklearn.manifold", "sklearn.metrics"),
    *("threadpoolctl", "timm", "torch", "torchvision", "xarray", "zarr", "zennit.canonizers"),
)
OURS = ("optogram", "stages")
# Names that libraries read as they load, of which a fork cannot have others than its parent.
READ_AT_LOAD = (
    *("ATEN_", "CUBLAS_", "CUDNN_", "DNNL_", "GLIBC_", "GOMP_", "GOTO_", "HF_", "HOME", "KMP_", "LANG", "LC_"),
    *("LD_", "MALLOC_", "MKL_", "MPL", "NPY_", "NUMEXPR_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYDANTIC_"),
    *("PYTHON", "PYTORCH_", "SCIPY_", "SKLEARN_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TZ", "XDG_", "ZARR_"),
)
# Names among these that a fork can have as its client has them, or that matter to no import.
FREE = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "XDG_SESSION_ID", "XDG_RUNTIME_DIR")
PR_SET_PDEATHSIG = 1
# A client sends its request at once.
PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Loaded:
    """What this process has loaded and under which circumstances: our own files by content, libraries by their stamp.

    `files` maps libraries' files to (time of change, size); `own` our modules' files, relative to the root of their
    checkout, to digests; `path` are the places that modules are searched in, checkouts aside; `settings` are what the
    environment said that libraries read, and `added` what they added to it themselves.
    """

    files: dict[str, tuple[int, int]]
    own: dict[str, str]
    path: list[str]
    circumstances: dict[str, Any]
    settings: dict[str, str]
    threads: Threads
    added: dict[str, str]

    @classmethod
    def now(cls, before: Mapping[str, str]) -> "Loaded":
        """Of this process, as it is; `before` is its environment as the libraries found it."""
        root = Path(__file__).resolve().parents[1]
        places = {name: Path(found) for name, module in [*sys.modules.items()] if (found := _file(module))}
        own = sorted(place for name, place in places.items() if name.split(".")[0] in OURS)
        own.append(Path(__file__))
        libraries = [str(place) for name, place in places.items() if name.split(".")[0] not in (*OURS, "__main__")]
        threads = threads_in()
        return cls(
            {name: _stamp(name) for name in libraries},
            {place.resolve().relative_to(root).as_posix(): _digest(place) for place in own},
            _libraries_of(sys.path),
            circumstances(),
            _settings(before, threads),
            threads,
            {name: value for name, value in os.environ.items() if name not in before},
        )

    def differs(self, request: dict[str, Any]) -> str:
        """Why a stage that is asked for would not run in a fork as it does cold; "" if it would."""
        theirs = request["circumstances"]
        for name, mine in self.circumstances.items():
            if theirs.get(name) != mine:
                return f"its {name} differ"
        if _libraries_of(request["path"]) != self.path:
            return "its modules are searched elsewhere"
        threads = threads_in(Path(request["folder"], "params.yaml"))
        if threads != self.threads:
            return f"its params say threads: {threads}"
        if _settings(request["environment"], threads) != self.settings:
            return "its environment asks otherwise"
        for name, digest in self.own.items():
            if _digest(Path(request["root"], name)) != digest:
                return f"{name} is not what was loaded"
        for name, stamp in self.files.items():
            if _stamp(name) != stamp:
                return f"{name} has changed"
        return ""


@dataclass
class Fork:
    """A stage at work: its process, a handle on it, and the connection to the client that it stands for."""

    process: int
    handle: int
    client: socket.socket | None

    def kill(self) -> None:
        """End it, and all that it has started."""
        os.kill(self.process, signal.SIGKILL)  # it may not lead a session yet
        end_session(self.process)


def main(listening: int) -> None:
    """Load the libraries, then fork for each client of a listening socket, until standard input closes."""
    sys.path.remove(str(Path.cwd()))
    loaded = load()
    with socket.socket(fileno=listening) as listener:
        _serve(loaded, listener)


def load() -> Loaded:
    """Import the libraries and drop our own modules. FlowError if anything but imports has happened."""
    before = dict(os.environ)
    # pyarrow's allocator else has a thread that tidies up
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    for name in LIBRARIES:
        importlib.import_module(name)
    del os.environ["JE_ARROW_MALLOC_CONF"]
    loaded = Loaded.now(before)
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    tempfile.tempdir = None
    gc.collect()
    gc.freeze()  # what is here is never garbage: forks share its pages
    # OpenBLAS starts its threads as it loads, ends them before a fork, and starts them where they are needed next
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)
    if (threads := len([*Path("/proc/self/task").iterdir()])) != 1:
        raise FlowError(
            f"A process that imported {', '.join(LIBRARIES)} has {threads} threads; "
            "expected one, as it is to be forked. Stages run cold; leave the library that starts threads out."
        )
    return loaded


def _serve(loaded: Loaded, listener: socket.socket) -> None:
    forks: dict[int, Fork] = {}
    while True:
        waiting = [0, listener.fileno()]
        waiting += [fork.handle for fork in forks.values()]
        waiting += [fork.client.fileno() for fork in forks.values() if fork.client]
        ready, _, _ = select.select(waiting, [], [])
        if 0 in ready and not os.read(0, 1):
            for fork in forks.values():
                fork.kill()
            return
        for fork in [*forks.values()]:
            if fork.client and fork.client.fileno() in ready:
                _hear(fork)
            if fork.handle in ready:
                _report(fork)
                del forks[fork.process]
        if listener.fileno() in ready:
            client, _ = listener.accept()
            held = [listener, *(fork.client for fork in forks.values() if fork.client)]
            handles = [fork.handle for fork in forks.values()]
            if fork := _answer(loaded, client, held, handles):
                forks[fork.process] = fork


def _answer(loaded: Loaded, client: socket.socket, held: list[socket.socket], handles: list[int]) -> Fork | None:
    """Fork for a client, or tell it to run cold."""
    client.settimeout(PATIENCE_SECONDS)
    descriptors: list[int] = []
    try:
        if peer_user(client) != os.getuid():
            raise ConnectionError("not our user")
        request, descriptors = receive(client)
        if request is None or len(descriptors) != 3:
            raise ConnectionError("no request")
        if why := loaded.differs(request):
            send(client, {"cold": why})
            raise ConnectionError(why)
    except OSError:
        client.close()
        for descriptor in descriptors:
            os.close(descriptor)
        return None
    client.settimeout(None)
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a fork must not take an exception for the parent's
    if not (child := os.fork()):
        _become(request, descriptors, parent, [*held, client], handles, loaded.added)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with contextlib.suppress(OSError):  # that it has gone will be heard
        send(client, {"started": child})
    for descriptor in descriptors:
        os.close(descriptor)
    return Fork(child, os.pidfd_open(child), client)


def _hear(fork: Fork) -> None:
    """Pass on the signals that a client got; without a client the fork has nobody to work for."""
    assert fork.client
    try:
        numbers = fork.client.recv(64)
    except OSError:
        numbers = b""
    if not numbers:
        fork.client.close()
        fork.client = None
        fork.kill()
    for number in numbers:
        try:
            os.killpg(fork.process, number)
        except ProcessLookupError:  # it has not come to lead a group yet
            os.kill(fork.process, number)


def _report(fork: Fork) -> None:
    """A fork has ended: so does what it left behind, and its client."""
    end_session(fork.process)  # before its number is given to another process
    status = os.waitstatus_to_exitcode(os.waitpid(fork.process, 0)[1])
    os.close(fork.handle)
    if fork.client:
        with contextlib.suppress(OSError):
            send(fork.client, {"status": status})
        fork.client.close()


def _become(
    request: dict[str, Any],
    descriptors: list[int],
    parent: int,
    held: Iterable[socket.socket],
    handles: Iterable[int],
    added: dict[str, str],
) -> Never:
    """Be the stage that was asked for, from here to the end of this process."""
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(70)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for connection in held:
            connection.close()
        for handle in handles:
            os.close(handle)
        _settle(request, added)
        runpy.run_module(request["words"][0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stopped:
        status = _status(stopped.code)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()  # type: ignore[attr-defined]  as Python ends: threads, then exit functions
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _settle(request: dict[str, Any], added: dict[str, str]) -> None:
    """Take over the client's folder, environment, streams and places of modules."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(added | request["environment"])
    settle_environment(threads_in())
    sys.path[:] = request["path"]
    sys.path_importer_cache.clear()
    sys.argv = list(request["words"])
    sys.orig_argv = [sys.executable, "-m", *request["words"]]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.reconfigure(  # type: ignore[union-attr]
            line_buffering=descriptor == 2 or os.isatty(descriptor), write_through=at_once
        )


def _status(code: object) -> int:
    """The exit status that Python gives for what SystemExit carries."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def _settings(values: Mapping[str, str], threads: Threads) -> dict[str, str]:
    """What libraries find in such an environment as they load, once a stage has settled it."""
    found = {name: value for name, value in values.items() if name.startswith(READ_AT_LOAD) and value}
    foreign = () if threads == "auto" else FOREIGN
    return {name: value for name, value in found.items() if name not in (*FREE, *foreign)} | environment(threads)


def _libraries_of(path: Iterable[str]) -> list[str]:
    """The places in a module search path that are no checkouts of ours."""
    return [place for place in path if place and not Path(place, "stages/__init__.py").is_file()]


def _file(module: Any) -> str | None:
    found = getattr(module, "__dict__", {}).get("__file__")
    return found if isinstance(found, str) else None


def _stamp(name: str) -> tuple[int, int]:
    try:
        found = Path(name).stat()
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


if __name__ == "__main__":
    main(int(sys.argv[1]))
