"""What a stage imports before it works: a pipeline is some forty processes, and torch takes seconds in each."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIGHT = ["scenes", "photos", "texts", "text_file", "ablation", "roles", "spurious", "figures", "report"]
TENSORS = ["textspan", "concepts", "neuron_ablation"]
CLASSIFIERS = ["prototypes", "vital", "baselines"]
# One process: each group is imported on top of those before it. sympy comes with torch's compiler alone.
CODE = """
import sys
from importlib import import_module

clip = {"open_clip", "timm", "transformers"}
for names, heavy in zip(sys.argv[1:], ({"torch"}, {"torchvision", *clip}, clip, set())):
    for name in names.split():
        import_module(f"stages.{name}")
        found = (heavy | {"sympy"}) & sys.modules.keys()
        assert not found, f"stages.{name} imports {found}"

import torch

weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([weight], lr=0.5, weight_decay=0)
(2 * weight).sum().backward()
optimizer.step()
assert torch.allclose(weight, torch.full((2,), 0.5)) and "sympy" not in sys.modules

# what was put off is there for whoever wants more of it
stands_in, compiled = torch._dynamo, []
from torch._dynamo.exc import Unsupported

assert torch._dynamo is not stands_in and torch._dynamo is sys.modules["torch._dynamo"] and torch._dynamo.__file__
assert stands_in.optimize is torch._dynamo.optimize and Unsupported is torch._dynamo.exc.Unsupported
twice = torch.compile(lambda x: 2 * x, backend=lambda graph, _: compiled.append(graph) or graph.forward)
assert twice(torch.ones(1)).item() == 2 and len(compiled) == 1
from torchvision.ops import roi_align

assert roi_align.__globals__["is_compile_supported"]("cpu") is True
"""


def test_stages_import_no_more_than_they_need():
    stages = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__", *LIGHT, *TENSORS, *CLASSIFIERS}
    groups = [" ".join(names) for names in (LIGHT, TENSORS, CLASSIFIERS, sorted(stages))]
    done = subprocess.run([sys.executable, "-c", CODE, *groups], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
