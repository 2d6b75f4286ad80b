"""Room models: trains a judge on scenes: their attributes, where objects are, and what is no object of a scene."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, nll_loss

from optogram.errors import DataError, ParamError
from optogram.models.judging.judge import GROUND, Judge, as_input
from optogram.models.judging.network import FAR, JudgeNetwork, windows
from optogram.models.loading.clip_folders import pick_device
from optogram.models.training.average import Average
from optogram.models.training.checkpoint import History
from optogram.models.training.damage import Damage, Damager
from optogram.models.training.loop import Plan, Tell, check_range, descend, mixed_precision, train
from optogram.models.training.randomness import step_draw
from optogram.models.training.strangers import Halves, Strangers

SHAPE = "shape"
"""The attribute of which what is no object of a scene must not be given a value."""
UNKNOWN, NONE = -1, -2
"""Targets beside the values: unknown, from which nothing is learnt; and none, which makes all values equally likely."""
SPREAD = 2.0
"""Deviation of the Gaussian, in pixels, that marks an object's middle."""
JITTER = 2
"""Pixels by which a window is moved off the middle of its object, as the middle that is found later may be off."""
EXAMPLES = 512
"""Images whose patches' principal components a damaged picture keeps."""


@dataclass(frozen=True)
class JudgeTraining:
    """How a judge is trained.

    far, near, hidden: widths of the networks for whole pictures and for objects, and of both before their heads.
    steps: in all, of `batch` pictures each. learning_rate: after `warmup` steps of linear rise; it then falls along
    half a cosine. average: decay of the moving average of the weights, which is what is kept. maps: weight of the
    loss of the two maps, of objects and of their middles; that of the attributes, their mean, has 1.

    Raises ParamError for a hyperparameter that is out of range.
    """

    far: tuple[int, ...] = (24, 32, 64)
    near: tuple[int, ...] = (24, 48, 96)
    hidden: int = 96
    steps: int = 1300
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup: int = 100
    average: float = 0.99
    maps: float = 4.0
    damage: Damage = field(default_factory=Damage)
    strangers: Strangers = field(default_factory=Strangers)

    def __post_init__(self) -> None:
        check_range("batch", self.batch, 2, 2**16)
        check_range("weight_decay", self.weight_decay, 0, 1e3)
        check_range("maps", self.maps, 0, 1e3)
        if not 0 < self.learning_rate < 1:
            raise ParamError(
                f"training: learning_rate = {self.learning_rate}, expected between 0 and 1, say 0.004. Change it."
            )


class Batch(NamedTuple):
    """What a step learns from.

    images, inside (where objects are), centre (a Gaussian around each one's middle): in [0, 1]. middle: y, x of the
    object that is looked at from near.
    """

    images: Float[Tensor, "image rgb y x"]
    label: Int64[Tensor, "image attribute"]
    inside: Float[Tensor, "image y x"]
    centre: Float[Tensor, "image y x"]
    middle: Int64[Tensor, "image 2"]


def train_judge(
    images: xr.Dataset,
    training: JudgeTraining,
    *,
    seed: int,
    device: str = "auto",
    scratch: Path | None = None,
    save_seconds: float = 30.0,
    progress: Tell | None = None,
) -> tuple[Judge, History]:
    """A judge trained from a seed on an images/<split> artifact of scenes, whose pixels are held in memory.

    With it comes what the training told: the losses `loss`, of the maps `inside` and `centre`, and of each attribute.

    Each step draws scenes anew, some of which are damaged (`Damage`), and pictures that are no scenes (`Strangers`),
    which teach it to find nothing. Each scene shows one of its objects, drawn by lot, from near.

    scratch: folder for a checkpoint every `save_seconds`; a run that is started again continues there, to the same
    bytes.
    progress: called with (pictures done, pictures in all, loss) once before the first step (loss NaN) and after each.

    Raises ParamError for a bad hyperparameter, DataError for images without masks or labels, without objects, or whose
    objects leave no half of any image free, ModelError if the loss is not finite, and if the checkpoint is another
    run's.
    """
    attributes, size = _attributes(images), images.sizes["y"]
    plan = Plan(training.steps, training.batch, seed, training.warmup, save_seconds=save_seconds)
    counts = {name: len(values) for name, values in attributes.items()}
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        network = JudgeNetwork(size, counts, far=training.far, near=training.near, hidden=training.hidden)
    network.to(pick_device(device))
    task = _JudgeTask(network, images, attributes, training, seed)
    history = train(task, plan, scratch=scratch, progress=progress)
    network.load_state_dict(task.average.network.state_dict())
    return Judge(network.eval().requires_grad_(False), attributes, size), history


def _attributes(images: xr.Dataset) -> dict[str, tuple[str, ...]]:
    """The values of each attribute, by name."""
    for variable in ("pixels", "label", "value_name", "mask"):
        if variable not in images:
            raise DataError(
                f"training: the images have no variable {variable!r}. A judge learns from scenes: pass the artifact "
                "images/<split> of some."
            )
    if not images.sizes["image"] or not bool((images["mask"].max(("y", "x")) > 0).all()):
        raise DataError("training: there are images without an object, or none at all. A judge learns from scenes.")
    names, values = images["attribute"].values, images["value_name"].values
    return {str(name): tuple(str(one) for one in row if one) for name, row in zip(names, values, strict=True)}


class _JudgeTask:
    """Telling attributes by cross-entropy, and object from background by that of each pixel."""

    def __init__(
        self,
        network: JudgeNetwork,
        images: xr.Dataset,
        attributes: Mapping[str, tuple[str, ...]],
        training: JudgeTraining,
        seed: int,
    ) -> None:
        self._network, self._training, self._seed = network, training, seed
        self._pixels, self._mask = np.asarray(images["pixels"].values), np.asarray(images["mask"].values)
        self._label = torch.from_numpy(images["label"].values.astype(np.int64))
        self._names = [*attributes]
        self._damager = Damager(training.damage, as_input(self._pixels[:EXAMPLES]))
        self._halves = Halves(self._pixels, self._mask)
        self._where = next(network.parameters()).device
        self.average = Average(network, training.average)
        self.networks: Mapping[str, nn.Module] = {"network": network}
        self.optimizers = {"adamw": _optimizer(network, training)}
        self.averages = {"network": self.average}
        self.identity: Mapping[str, Any] = {
            "training": asdict(training),
            "attributes": [[name, *values] for name, values in attributes.items()],
            "images": list(self._pixels.shape),
        }

    def batch(self, step: int) -> Batch:
        draw, strangers = step_draw(self._seed, step), self._training.strangers
        shares = {"grounds": strangers.grounds, "clouds": strangers.clouds, "blobs": strangers.blobs}
        numbers = {kind: round(share * self._training.batch) for kind, share in shares.items()}
        parts = [self._scenes(self._training.batch - sum(numbers.values()), draw)]
        for kind, number in numbers.items():
            drawn = getattr(self._halves, kind)(number, draw)
            label, nowhere = self._label_of_stranger(drawn.scene), torch.zeros(drawn.inside.shape)
            parts.append((drawn.images, label, drawn.inside, nowhere, drawn.inside))
        images, label, inside, centre, own = (torch.cat(each) for each in zip(*parts, strict=True))
        found = Batch(self._damager(images, draw), label, inside.float(), centre, _middles(own, draw))
        return Batch(*(each.to(self._where) for each in found))

    def _scenes(self, count: int, draw: torch.Generator) -> tuple[Tensor, ...]:
        """Images, labels, where objects are, where their middles are, and where one of them is."""
        rows = torch.randint(len(self._pixels), (count,), generator=draw)
        mask = torch.from_numpy(self._mask[rows.numpy()])
        one = 1 + torch.floor(torch.rand(count, generator=draw) * mask.amax((1, 2))).to(mask.dtype)
        images, own = as_input(self._pixels[rows.numpy()]), mask == one[:, None, None]
        return images, self._label[rows], mask > 0, _centres(mask), own

    def _label_of_stranger(self, scene: Int64[Tensor, " image"]) -> Int64[Tensor, "image attribute"]:
        """Its background is that of the scene that it was made of, if any; its shape is none."""
        label = torch.full((len(scene), len(self._names)), UNKNOWN)
        for at, name in enumerate(self._names):
            if name == GROUND:
                label[:, at] = torch.where(scene >= 0, self._label[scene, at], UNKNOWN)
            elif name == SHAPE:
                label[:, at] = NONE
        return label

    def step(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        network, rows = self._network, torch.arange(len(batch.images), device=self._where)
        with mixed_precision(self._where):
            seen = network.scout(batch.images)
            near = network.glance(windows(batch.images, rows, batch.middle))
        logits = {True: iter(seen.logits), False: iter(near)}
        losses = {
            name: _loss_of_values(next(logits[name in FAR]).float(), batch.label[:, at])
            for at, name in enumerate(self._names)
        }
        inside = binary_cross_entropy_with_logits(seen.inside.float(), batch.inside)
        centre = binary_cross_entropy_with_logits(seen.centre.float(), batch.centre)
        loss = torch.stack([*losses.values()]).mean() + self._training.maps * (inside + centre)
        descend(loss, network, list(self.optimizers.values()), clip=1.0)
        return {"loss": loss, "inside": inside, "centre": centre, **losses}


def _optimizer(network: nn.Module, training: JudgeTraining) -> torch.optim.AdamW:
    """AdamW; weight decay for matrices and filters only."""
    parameters = list(network.parameters())
    groups = [
        {"params": [w for w in parameters if (w.ndim > 1) == decays], "weight_decay": training.weight_decay * decays}
        for decays in (True, False)
    ]
    return torch.optim.AdamW(groups, training.learning_rate, betas=(0.9, 0.98), fused=True)


def _loss_of_values(logits: Float32[Tensor, "image value"], label: Int64[Tensor, " image"]) -> Float32[Tensor, ""]:
    """Cross-entropy; where no value is right, with equal shares of all. Its mean is over all images."""
    chance = log_softmax(logits, 1)
    right = nll_loss(chance, label.clamp_min(0), reduction="none")
    return (right * (label >= 0) - chance.mean(1) * (label == NONE)).mean()


def _centres(mask: UInt8[Tensor, "image y x"]) -> Float32[Tensor, "image y x"]:
    """A Gaussian, of a deviation of `SPREAD` pixels, around the centre of mass of each object."""
    found = torch.zeros(mask.shape)
    for number in range(1, int(mask.max()) + 1):
        own = mask == number
        middle = _centre_of_mass(own)
        y, x = (torch.arange(side) - middle[:, at, None] for at, side in enumerate(mask.shape[1:]))
        spot = torch.exp(-(y[:, :, None] ** 2 + x[:, None] ** 2) / (2 * SPREAD**2))
        found = torch.maximum(found, spot * own.any((1, 2))[:, None, None])
    return found


def _centre_of_mass(own: Bool[Tensor, "image y x"]) -> Float32[Tensor, "image 2"]:
    """Its y and x, in pixels; 0, 0 of nothing."""
    sums = [(own.sum(3 - along) * torch.arange(own.shape[along])).sum(1) for along in (1, 2)]
    return torch.stack(sums, 1) / own.sum((1, 2)).clamp_min(1)[:, None]


def _middles(own: Bool[Tensor, "image y x"], draw: torch.Generator) -> Int64[Tensor, "image 2"]:
    """The centre of mass (y, x) of each mask, moved a little; any place of the picture where there is no mask."""
    height, width = own.shape[1:]
    moved = torch.randint(-JITTER, JITTER + 1, (len(own), 2), generator=draw)
    anywhere = torch.rand(len(own), 2, generator=draw) * torch.tensor([height, width])
    middle = torch.round(_centre_of_mass(own)) + moved
    chosen = torch.where(own.any((1, 2))[:, None], middle, anywhere).long()
    return torch.minimum(chosen.clamp_min(0), torch.tensor([height - 1, width - 1]))
