"""Room models: all of a training's state in one file, written whole or not at all, and taken up again."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from optogram.errors import ArtifactError, ModelError
from optogram.models.training.average import Average
from optogram.progress import say

_FILE = "checkpoint.safetensors"


@dataclass
class History:
    """What a training told: a list of losses a name, one a step, and steps done -> what an evaluation found then."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(next(iter(self.losses.values()), []))

    def add(self, losses: Mapping[str, float]) -> None:
        """Note a step's losses, of the same names as the steps before."""
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss)


class Checkpoint:
    """The file in a scratch folder that a run leaves, and goes on behind.

    It holds networks, optimisers, averages and the history. Random choices follow from the number of the step, which is
    the length of the history, so that no generator's state is in it. Learning rates follow from it too.
    scratch: None writes nothing. identity: what the run is, as JSON types.
    """

    def __init__(
        self,
        scratch: Path | None,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        averages: Mapping[str, Average],
        identity: list[Any],
    ) -> None:
        self._path = scratch / _FILE if scratch else None
        self._optimizers = optimizers
        self._modules = {f"network/{name}": network for name, network in networks.items()}
        self._modules |= {f"average/{name}": average.network for name, average in averages.items()}
        self._identity = json.dumps(identity, sort_keys=True)

    def save(self, history: History) -> None:
        """Write the state after the history's last step, in place of the file before, which stays if that fails.

        Raises ArtifactError if the disk is full or cannot be written to.
        """
        if self._path is None:
            return
        # copies, as safetensors refuses weights that two names share
        tensors = {name: value.detach().cpu().clone().contiguous() for name, value in self._tensors().items()}
        part = self._path.with_suffix(".part")
        said = json.dumps({"losses": history.losses, "metrics": history.metrics})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, part, {"history": said, "identity": self._identity})
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self._path)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                f"{self._path} could not be written at step {history.steps}: {error}. Free some space, and the same "
                "command resumes."
            ) from error

    def resume(self) -> History:
        """Put the file's state in place and return its history; an empty one where there is no file.

        A file that is cut short is said and passed over. Raises ModelError for another run's.
        """
        if self._path is None or not self._path.exists():
            return History()
        try:
            with safe_open(self._path, "pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            say(f"{self._path} is damaged ({error}) and passed over: training starts from its first step.")
            return History()
        if said.get("identity") != self._identity:
            raise ModelError(
                f"{self._path} is the checkpoint of a run with other parameters. Remove it, or use another scratch."
            )
        try:
            self._put(tensors)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"{self._path} is the checkpoint of other networks or optimisers: {error}. Remove it, or use another "
                "scratch."
            ) from error
        history = json.loads(said["history"])
        return History(history["losses"], {int(step): found for step, found in history["metrics"].items()})

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{at}/{key}": w for at, module in self._modules.items() for key, w in module.state_dict().items()}
        for name, optimizer in self._optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{index}/{key}": value for key, value in state.items()}
        return tensors

    def _put(self, tensors: dict[str, Tensor]) -> None:
        def below(at: str) -> dict[str, Tensor]:
            return {name.removeprefix(f"{at}/"): w for name, w in tensors.items() if name.startswith(f"{at}/")}

        for at, module in self._modules.items():
            module.load_state_dict(below(at))
        for name, optimizer in self._optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for place, value in below(f"optimizer/{name}").items():
                index, key = place.split("/", 1)
                state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
