"""Run inside a network namespace of its own: `optogram run` in this folder, and what listens while it goes on.

Prints a JSON object: the run's status and text, the ports that listened, the flow runs of the server at "Watch at".
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main() -> None:
    """Start the run, look at it from outside while its stage is at work, and let it end."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    taken = socket.create_server(("127.0.0.1", int(os.environ["TAKE"]))) if "TAKE" in os.environ else None
    with Path("said").open("w") as said:
        run = subprocess.Popen([sys.executable, "-m", "flows", "run"], stdout=said, stderr=subprocess.STDOUT)
    while run.poll() is None and not Path("marks/a").exists():
        time.sleep(0.05)
    address = re.search(r"Watch at (http\S+)", Path("said").read_text())
    flows = []
    if address and run.poll() is None:
        request = urllib.request.Request(
            f"{address[1]}/api/flow_runs/filter", data=b"{}", headers={"Content-Type": "application/json"}
        )
        with DIRECT.open(request, timeout=20) as answer:
            flows = [flow["name"] for flow in json.load(answer)]
    ports = sorted({one.laddr.port for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN})
    Path("go").touch()
    code = run.wait()
    if taken:
        taken.close()
    print(json.dumps({"code": code, "said": Path("said").read_text(), "ports": ports, "flows": flows}))


main()
