"""Room models: what trainings share: schedule, draws, deterministic kernels, and a checkpoint to resume from."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from optogram.errors import ModelError, ParamError

_CHECKPOINT = "checkpoint.safetensors"


def check_numbers(
    count: int, epochs: int, batch: int, learning_rate: float, warmup: int, **others: tuple[float, float, float]
) -> None:
    """Raises ParamError for a hyperparameter that does not fit `count` images; others: name -> (value, low, high)."""
    bounds = {
        "epochs": (epochs, 1, math.inf),
        "batch": (batch, 2, count),
        **others,
        "warmup": (warmup, 0, epochs * (count // max(batch, 1))),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise ParamError(f"training: {name} = {value}, expected {low} to {high} ({count} images). Change {name}.")
    if not 0 < learning_rate < 1:
        raise ParamError(f"training: learning_rate = {learning_rate}, expected between 0 and 1, say 0.001.")


def set_rate(optimizers: Sequence[Optimizer], learning_rate: float, step: int, steps: int, warmup: int) -> None:
    """Give all parameters the learning rate of a step: a linear rise over `warmup` steps, then a cosine decay to 0."""
    if step < warmup:
        share = (step + 1) / warmup
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = learning_rate * share


def check_finite(loss: float, step: int, epoch: int, learning_rate: float, warmup: int) -> None:
    """Raises ModelError, with what to do, if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise ModelError(
            f"training: the loss is {loss} at step {step} of epoch {epoch}. Lower learning_rate (now"
            f" {learning_rate}) or raise warmup (now {warmup} steps)."
        )


def epoch_draw(seed: int, epoch: int) -> torch.Generator:
    """What an epoch's random choices are drawn from: a function of the seed and the epoch alone."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


@torch.no_grad()
def set_places(place: Float[Tensor, "patch channel"], rows: int, columns: int) -> None:
    """Let a position embedding start from waves over the grid of patches (Beyer et al. 2022, section 2), in place."""
    waves = place.shape[1] // 4
    rate = 2 * math.pi / torch.logspace(math.log2(4), math.log2(64), waves, base=2)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([y.reshape(-1, 1) * rate, x.reshape(-1, 1) * rate], 1)
    place[:, : 4 * waves] = 0.7 * torch.cat([angles.sin(), angles.cos()], 1)


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels inside, whatever was set before outside."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # a module with properties, which pyright does not see
    fill = settings.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # it only helps to find reads of what was never written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = fill


def save_checkpoint(
    scratch: Path | None, model: nn.Module, optimizers: Sequence[Optimizer], recipe: dict[str, Any], epochs: int
) -> None:
    """Write weights, optimizer state and the number of epochs behind them, whole or not at all; without scratch none.

    recipe: what the run is, as JSON types; `resume` takes no checkpoint of another.
    """
    if scratch is None:
        return
    scratch.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": w.detach().cpu().contiguous() for name, w in model.state_dict().items()}
    name_of: dict[Any, str] = {w: name for name, w in model.named_parameters()}
    for w, state in (item for optimizer in optimizers for item in optimizer.state.items()):
        tensors |= {f"{key}.{name_of[w]}": value.detach().cpu().contiguous() for key, value in state.items()}
    part = scratch / f"{_CHECKPOINT}.part"
    save_file(tensors, part, {"epochs": str(epochs), "recipe": json.dumps(recipe, sort_keys=True)})
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(scratch / _CHECKPOINT)


def resume(scratch: Path | None, model: nn.Module, optimizers: Sequence[Optimizer], recipe: dict[str, Any]) -> int:
    """Put the checkpoint's weights and optimizer state (Muon's, AdamW's) in place; returns the epochs behind it.

    0 where there is no checkpoint. Raises ModelError for the checkpoint of another recipe.
    """
    path = scratch / _CHECKPOINT if scratch else None
    if path is None or not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        said = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if said["recipe"] != json.dumps(recipe, sort_keys=True):
        raise ModelError(f"{path} is the checkpoint of a run with other parameters. Remove it, or use another scratch.")
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    name_of = {w: name for name, w in model.named_parameters()}
    for optimizer in optimizers:
        for w in (w for group in optimizer.param_groups for w in group["params"]):
            keys = (
                ("momentum_buffer",) if isinstance(optimizer, torch.optim.Muon) else ("step", "exp_avg", "exp_avg_sq")
            )
            optimizer.state[w] = {key: tensors[f"{key}.{name_of[w]}"].to(w.device) for key in keys}
    return int(said["epochs"])


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context for the forward pass: in bfloat16 where the device computes in it, else in float32.

    Processors without bfloat16 emulate it, ten to twenty times slower than float32 (measured).
    """
    native = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=native)
