"""The examples in docs/ and the deployments: Prefect parses and registers them."""

import subprocess
import sys

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate

from tests.flows.conftest import ROOT

pytestmark = pytest.mark.slow
# What Prefect's own template for Kubernetes pools has of the variables that the example sets.
TEMPLATE = {
    "job_configuration": {"image": "{{ image }}", "env": "{{ env }}", "resources": "{{ resources }}"},
    "variables": {
        "type": "object",
        "properties": {"image": {"type": "string"}, "env": {"type": "object"}, "resources": {"type": "object"}},
    },
}


@pytest.mark.parametrize(("file", "kind"), [("prefect.yaml", "process"), ("docs/pools/kubernetes.yaml", "kubernetes")])
def test_prefect_deploys_it(server, tmp_path, file, kind):
    text = (ROOT / file).read_text()
    pools = {name: f"{name}-{kind}" for name in ("cpu", "gpu")}
    for name, own in pools.items():  # pools of this test's own, as other tests use cpu and gpu
        text = text.replace(f"      name: {name}\n", f"      name: {own}\n")
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with SyncPrefectClient(server.api) as client:
        for own in pools.values():
            template = TEMPLATE if kind == "kubernetes" else {}
            client.create_work_pool(WorkPoolCreate(name=own, type=kind, base_job_template=template), overwrite=True)
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        declared = {entry["name"]: entry for entry in yaml.safe_load(text)["deployments"]}
        for name, own in pools.items():
            found = client.read_deployment_by_name(f"optogram-stage/{name}")
            assert found.work_pool_name == own
            assert found.entrypoint == "flows/worker.py:stage"
            assert found.description == declared[name]["description"]
            if kind == "kubernetes":
                assert found.job_variables["image"] == declared[name]["work_pool"]["job_variables"]["image"]


def test_the_slurm_script_is_bash():
    subprocess.run(["bash", "-n", str(ROOT / "docs/pools/slurm.sh")], check=True)
