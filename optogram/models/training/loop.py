"""Room models: the one training loop, for one network or several, that resumes at any step to the same bytes."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from optogram.errors import ModelError, ParamError
from optogram.models.training.average import Average
from optogram.models.training.checkpoint import Checkpoint, History
from optogram.models.training.randomness import deterministic, step_draw

Batch = TypeVar("Batch")
Tell = Callable[[int, int, float], None]
"""Progress: called with (examples done, examples in all, loss), the loss NaN before the first step."""


@runtime_checkable
class Task(Protocol[Batch]):
    """What is trained: the loop asks it for each step's batch and has it take the step.

    A step must follow from its batch, the networks and the optimisers alone. The task therefore keeps no counter and no
    generator from step to step: what a step needs of either is in its batch. Then a resumed run gives the same bytes.
    """

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """What learns, by name; in training mode."""
        ...

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """By name. The learning rates that they are made with are those that the schedule scales."""
        ...

    @property
    def averages(self) -> Mapping[str, Average]:
        """Moving averages of networks, by the network's name; the loop updates them after each step."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the run is, beside its plan, as JSON types: a checkpoint of another one is refused."""
        ...

    def batch(self, step: int) -> Batch:
        """What step `step`, from 0, learns from: a function of the number alone (`epoch_draw`, `step_draw`)."""
        ...

    def step(self, batch: Batch) -> Mapping[str, Float[Tensor, ""]]:
        """Update the networks (`descend`), one after the other where they are rivals; returns scalar losses by name.

        The names are the same at every step. The first loss is the one that progress tells.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """How long a training goes on, and how its learning rates go.

    steps: in all. batch: examples a step, in which progress is counted. seed: what layers such as dropout draw from.
    warmup: steps of linear rise. decay: after these, along half a cosine to 0, or not at all.
    save_seconds: between checkpoints; at the end, and before each evaluation, one is written anyway.

    Raises ParamError for numbers that are out of range.
    """

    steps: int
    batch: int
    seed: int
    warmup: int = 0
    decay: Literal["cosine", "none"] = "cosine"
    save_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1, math.inf)
        check_range("batch", self.batch, 1, math.inf)
        check_range("warmup", self.warmup, 0, self.steps)

    def share(self, step: int) -> float:
        """The share of their learning rates that optimisers have at a step, from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.decay == "none":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training that goes over its images epoch by epoch.

    warmup: steps of linear rise before the cosine decay of the learning rate.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup: int
    seed: int

    def fitted(self, count: int) -> "Recipe":
        """The recipe for `count` images, which may be fewer than a batch, or make fewer steps than the warmup."""
        batch = min(self.batch, count)
        steps = self.epochs * (count // max(batch, 1))
        return replace(self, batch=batch, warmup=min(self.warmup, max(1, steps // 10)))

    def plan(self, count: int, save_seconds: float) -> Plan:
        """The plan for `count` images. Raises ParamError for a hyperparameter that does not fit them."""
        images = f" ({count} images)"
        check_range("epochs", self.epochs, 1, math.inf, images)
        check_range("batch", self.batch, 2, count, images)
        steps = self.epochs * (count // self.batch)
        check_range("warmup", self.warmup, 0, steps, images)
        if not 0 < self.learning_rate < 1:
            raise ParamError(
                f"training: learning_rate = {self.learning_rate}, expected between 0 and 1, say 0.001. Change it."
            )
        return Plan(steps, self.batch, self.seed, self.warmup, save_seconds=save_seconds)


@dataclass(frozen=True)
class Evaluation:
    """What is measured on the way: `measure` every `every` steps and at the end.

    It is called without gradients, the networks in eval mode; which figures it returns is the same each time.
    """

    every: int
    measure: Callable[[], Mapping[str, float]]

    def __post_init__(self) -> None:
        check_range("every", self.every, 1, math.inf)


def train(
    task: Task[Any],
    plan: Plan,
    *,
    scratch: Path | None = None,
    evaluation: Evaluation | None = None,
    progress: Tell | None = None,
) -> History:
    """Train the task's networks in place; returns the losses of all steps and what evaluations found.

    scratch: folder for the checkpoint. A run that is started again there, with a task made anew, goes on behind it and
    ends with the same bytes as one that was never cut off, wherever that was. Without it there is no checkpoint.
    Kernels are deterministic; the state of torch outside, global generators included, is the same after as before.

    Raises ModelError, naming the step, if a loss is not finite; if weights are not at the end; and for a checkpoint of
    another run. Raises ArtifactError if a checkpoint cannot be written.
    """
    tell = progress or (lambda done, total, loss: None)
    identity = [task.identity, plan.steps, plan.batch, plan.seed, plan.warmup, plan.decay]
    checkpoint = Checkpoint(scratch, task.networks, task.optimizers, task.averages, identity)
    for group in _groups(task.optimizers.values()):
        group.setdefault("initial_lr", group["lr"])  # torch's own schedules keep the scaled rate's origin so
    history = checkpoint.resume()
    tell(history.steps * plan.batch, plan.steps * plan.batch, math.nan)
    device = next(w.device for network in task.networks.values() for w in network.parameters())
    written = time.monotonic()
    with deterministic(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        while True:
            done = history.steps
            last = done == plan.steps
            due = evaluation is not None and done > 0 and (last or done % evaluation.every == 0)
            if last or due or (done > 0 and time.monotonic() - written >= plan.save_seconds):
                checkpoint.save(history)
                written = time.monotonic()
            if evaluation is not None and due and done not in history.metrics:
                history.metrics[done] = _measured(task, evaluation, device, plan.seed, done)
            if last:
                break
            loss = _advance(task, plan, device, history)
            tell(history.steps * plan.batch, plan.steps * plan.batch, loss)
    _check_weights(task, plan)
    return history


def descend(
    loss: Float[Tensor, ""], network: nn.Module, optimizers: Sequence[Optimizer], *, clip: float | None = None
) -> None:
    """One update of a network: the gradient of the scalar `loss`, its norm at most `clip`, and a step of `optimizers`.

    Gradients that a rival's update has left in the network are dropped before.
    """
    network.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context for the forward pass: in bfloat16 on a GPU, in float32 on a processor.

    Processors differ in whether they have bfloat16, and so would the weights. On one with AMX tiles, torch 2.15 gives a
    strided convolution over a single point another bfloat16 gradient each time, NaN among them.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu")


def check_range(name: str, value: float, low: float, high: float, context: str = "") -> None:
    """Raises ParamError for a hyperparameter that is not between two bounds, both included."""
    if not low <= value <= high:
        raise ParamError(f"training: {name} = {value}, expected {low} to {high}{context}. Change {name}.")


def _advance(task: Task[Any], plan: Plan, device: torch.device, history: History) -> float:
    """Take the next step and note its losses; returns the first of these."""
    step = history.steps
    for group in _groups(task.optimizers.values()):
        group["lr"] = group["initial_lr"] * plan.share(step)
    _seed(device, plan.seed, step)
    losses = {name: float(loss.detach()) for name, loss in task.step(task.batch(step)).items()}
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise ModelError(f"training: the loss {name} is {loss} at step {step} of {plan.steps}. {_fix(task, plan)}")
    for name, average in task.averages.items():
        average.update(task.networks[name], step)
    history.add(losses)
    return next(iter(losses.values()))


@torch.no_grad()
def _measured(task: Task[Any], evaluation: Evaluation, device: torch.device, seed: int, step: int) -> dict[str, float]:
    _seed(device, seed, step)
    with _evaluating(task.networks.values()):
        return {name: float(value) for name, value in evaluation.measure().items()}


@contextmanager
def _evaluating(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Networks in eval mode inside, and each of their modules as it was after."""
    before = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


def _seed(device: torch.device, seed: int, step: int) -> None:
    """Let what draws from torch's global generators, such as dropout, draw from the step's number.

    `torch.manual_seed` would keep a stack trace a step for a GPU that is never used.
    """
    state = step_draw(seed, step).initial_seed()
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        torch.cuda.manual_seed(state)


def _check_weights(task: Task[Any], plan: Plan) -> None:
    for name, network in task.networks.items():
        for key, w in network.state_dict().items():
            if not torch.isfinite(w).all():
                raise ModelError(f"training: {key} of the {name} is not finite after the last step. {_fix(task, plan)}")


def _fix(task: Task[Any], plan: Plan) -> str:
    rates = ", ".join(sorted({f"{group['initial_lr']:g}" for group in _groups(task.optimizers.values())}))
    return f"Lower learning_rate (now {rates}) or raise warmup (now {plan.warmup} steps)."


def _groups(optimizers: Iterable[Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
