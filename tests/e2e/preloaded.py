"""A `python` for pipelines of many short stages: each is a fork of one process that has loaded the libraries.

`preloaded(folder)` is a folder for the front of PATH. Only libraries are shared; a stage's own modules are imported in
its fork, from the checkout that it runs in, with the environment, the folder and the output of whoever called `python`.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1] != "-m" or not sys.argv[2].startswith("stages."):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(int(server.recv(8) or b"70"))
"""
SERVER = """
import atexit, json, os, runpy, socket, sys, traceback
import stages  # what each stage does first
import jinja2, matplotlib.figure, open_clip, pydantic, rich.console, ruamel.yaml, scipy.cluster.hierarchy, scipy.sparse
import torch, xarray, zarr, zennit.canonizers

for name in [name for name in sys.modules if name.split(".")[0] in ("stages", "optogram")]:
    del sys.modules[name]
sys.path.pop(0)  # this folder

def run(words, folder, environment):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[:0] = words, [folder]
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as stopped:
        return stopped.code or 0
    except BaseException:
        traceback.print_exc()
        return 1

with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    while True:
        client, _ = listener.accept()
        with client:
            size, descriptors, *_ = socket.recv_fds(client, 8, 3)
            request = client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
            if not (child := os.fork()):
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                status = run(*json.loads(request))
                atexit._run_exitfuncs()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
            for descriptor in descriptors:
                os.close(descriptor)
            client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
"""


@contextlib.contextmanager
def preloaded(folder: Path) -> Iterator[Path]:
    """A folder with a `python` that runs stages in forks while the context lasts; anything else as Python itself."""
    folder.mkdir()
    address = folder / "socket"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(address)], cwd=ROOT, env=environment)
    client = folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    try:
        while not address.exists():
            assert process.poll() is None, "the server of stages did not start"
            time.sleep(0.1)
        yield folder
    finally:
        process.terminate()
        process.wait()
