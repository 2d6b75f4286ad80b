"""Room models: trains a small GAN on images, reproducibly and resumably."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor, nn

from optogram.errors import DataError, ModelError, ParamError
from optogram.models.generative.gan_networks import Discriminators, Features, GanGenerator, check_widths
from optogram.models.generative.generators import Generator, generator_of, watching
from optogram.models.loading.clip_folders import Clip, pick_device
from optogram.models.training.average import Average
from optogram.models.training.checkpoint import History
from optogram.models.training.loop import Evaluation, Plan, Tell, check_range, descend, train
from optogram.models.training.randomness import deterministic, step_draw

SPEC = "callable:optogram.models.generative.gan_networks:GanGenerator"
"""What makes a trained generator's module anew."""

_BETAS = (0.0, 0.99)
_SETTLING = 64
"""Batches of which the averaged generator's batch norms take their statistics."""


@dataclass(frozen=True)
class GanOptions:
    """What a GAN is, and how it is trained.

    steps: in all; each takes `batch` images and as many latents. latent, widths: of `GanGenerator`, whose images are as
    large as the data's. learning_rate, discriminator_rate: of Adam with betas (0, 0.99), scaled as `Plan` has it.
    penalty: gamma of R1 (Mescheder et al. 2018), taken every `penalty_every` steps and so often weighed (Karras et al.
    2020, section 4.1). average: decay of the moving average of the generator's weights, which is what is returned.
    flips: mirror half of the images; not where left and right matter. bfloat16: products in bfloat16 on a processor
    too, as always on a GPU: other bytes by kind of processor. seed: of the weights and every draw.

    Raises ParamError for numbers that are out of range.
    """

    steps: int
    batch: int = 32
    latent: int = 64
    widths: tuple[int, ...] = (192, 128, 64, 48, 24)
    learning_rate: float = 1e-3
    discriminator_rate: float = 2.2e-3
    penalty: float = 0.1
    penalty_every: int = 8
    average: float = 0.999
    warmup: int = 0
    decay: Literal["cosine", "none"] = "none"
    flips: bool = False
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_widths(self.widths)
        check_range("batch", self.batch, 2, float("inf"))
        check_range("penalty", self.penalty, 0, float("inf"))
        check_range("penalty_every", self.penalty_every, 1, float("inf"))
        for name in ("learning_rate", "discriminator_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ParamError(
                    f"training: {name} = {getattr(self, name)}, expected between 0 and 1, say 0.001. Change it."
                )

    def plan(self, save_seconds: float) -> Plan:
        """How long it goes on. Raises ParamError as `Plan`."""
        return Plan(self.steps, self.batch, self.seed, self.warmup, self.decay, save_seconds)


def train_gan(
    images: xr.Dataset,
    options: GanOptions,
    *,
    features: Features | None = None,
    device: str = "auto",
    scratch: Path | None = None,
    save_seconds: float = 30.0,
    progress: Tell | None = None,
    evaluation: Callable[[Generator], Evaluation] | None = None,
) -> tuple[Generator, History]:
    """A generator trained from the options' seed on an images/<split> artifact, whose pixels are held in memory.

    It is the moving average of the weights; its units are the outputs of the ReLUs, `relu4`, `relu8`, …. With it comes
    what the training told: the losses `discriminator` (its penalty included, where a step has one) and `generator`.
    features: of a frozen model, by which images are told from real ones besides (`Discriminators`, `clip_features`).
    scratch: folder for a checkpoint every `save_seconds`; a run that is started again continues there, to the same
    bytes.
    progress: called with (images done, images in all, loss of the discriminator) once before the first step (loss NaN)
    and after each.
    evaluation: says what is measured on the way of the average, which it is given.

    Raises ParamError for widths that do not make the images' size, DataError for images without pixels, not square, or
    fewer than two, ModelError that names the step if a loss is not finite, and if the checkpoint is another run's.
    """
    pixels = _pixels(images)
    check_widths(options.widths, pixels.shape[1])
    where = pick_device(device)
    task = GanTask(pixels, options, where, features)
    average = task.averages["generator"].network
    arguments = {"latent": options.latent, "widths": [*options.widths]}
    found = generator_of(average, spec=SPEC, arguments=arguments)
    measured = None if evaluation is None else evaluation(found)
    plan = options.plan(save_seconds)
    history = train(task, plan, scratch=scratch, progress=progress, evaluation=measured)
    settle(average, options, where)
    return found, history


@dataclass(frozen=True)
class Round:
    """What a step learns from: images in [0, 1], latents, and whether the penalty is due."""

    real: Float32[Tensor, "image rgb y x"]
    latents: Float32[Tensor, "image latent"]
    penalised: bool


class GanTask:
    """Drawing what cannot be told from the images; the discriminator learns first, then the generator from it.

    Non-saturating losses (Goodfellow et al. 2014). Both learn from the same drawn images, which are made once.
    """

    def __init__(
        self,
        pixels: UInt8[np.ndarray, "image y x rgb"],
        options: GanOptions,
        where: torch.device,
        features: Features | None = None,
    ) -> None:
        self._pixels, self._options, self._where = pixels, options, where
        seen = self._probe(features, where)
        # layers draw their weights from the global generator: lend it a seeded one, and give the old state back
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(options.seed)
            generator = GanGenerator(options.latent, options.widths).to(where)
            discriminator = Discriminators(options.widths, features, [maps.shape[1] for maps in seen]).to(where)
        self.generator, self.discriminator = generator, discriminator
        self.networks: Mapping[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
        self.optimizers = {
            "generator": torch.optim.Adam(generator.parameters(), options.learning_rate, _BETAS),
            "discriminator": torch.optim.Adam(discriminator.parameters(), options.discriminator_rate, _BETAS),
        }
        self.averages = {"generator": Average(generator, options.average)}
        # rounded: a few places say which model it is, and the last ones which processor
        told = [(maps.shape[1], f"{float(maps.std()):.3g}") for maps in seen]
        self.identity: dict[str, Any] = {"gan": asdict(options), "images": len(pixels), "features": told}

    @torch.no_grad()
    def _probe(self, features: Features | None, where: torch.device) -> Sequence[Tensor]:
        """What the frozen model sees in an image of noise, a map a layer."""
        noise = torch.rand(1, 3, *self._pixels.shape[1:3], generator=torch.Generator().manual_seed(0))
        return [] if features is None else features(noise.to(where))

    def batch(self, step: int) -> Round:
        """Images drawn with replacement, mirrored or not, and latents: a function of the seed and the step alone."""
        draw, count = step_draw(self._options.seed, step), self._options.batch
        rows: Int64[Tensor, " image"] = torch.randint(len(self._pixels), (count,), generator=draw)
        latents = torch.randn(count, self._options.latent, generator=draw)
        real = torch.from_numpy(self._pixels[rows.numpy()]).permute(0, 3, 1, 2).float().div_(255)
        if self._options.flips:
            mirrored: Bool[Tensor, " image"] = torch.rand(count, generator=draw) < 0.5
            real = torch.where(mirrored[:, None, None, None], real.flip(3), real)
        penalised = self._options.penalty > 0 and step % self._options.penalty_every == 0
        return Round(real.to(self._where), latents.to(self._where), penalised)

    def step(self, batch: Round) -> dict[str, Tensor]:
        """Update the discriminator, then the generator."""
        with self._precision():
            drawn = self.generator(batch.latents)
            judged = self.discriminator(batch.real), self.discriminator(drawn.detach())
        loss = surprise(-judged[0].float()) + surprise(judged[1].float())
        if batch.penalised:
            weight = self._options.penalty * self._options.penalty_every
            loss = loss + weight * gradient_penalty(self.discriminator.pixels, batch.real)
        descend(loss, self.discriminator, [self.optimizers["discriminator"]])
        self.discriminator.requires_grad_(False)  # only what it makes of the images is asked for
        with self._precision():
            fooled = surprise(-self.discriminator(drawn).float())
        descend(fooled, self.generator, [self.optimizers["generator"]])
        self.discriminator.requires_grad_(True)
        return {"discriminator": loss, "generator": fooled}

    def _precision(self) -> torch.autocast:
        half = self._options.bfloat16 or self._where.type != "cpu"
        return torch.autocast(self._where.type, torch.bfloat16, enabled=half)


def surprise(logits: Float[Tensor, "image eye"]) -> Float[Tensor, ""]:
    """Mean over images of log(1 + exp(logit)), summed over what they are told by."""
    return nn.functional.softplus(logits).mean(0).sum()


def clip_features(clip: Clip) -> Features:
    """The tokens of the image tower of a CLIP of ours as maps: behind its first block, the last, and one between.

    Raises ModelError for a tower whose blocks are not to be found.
    """
    tower: Any = clip.model.visual
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if not blocks:
        raise ModelError(
            f"{type(tower).__name__} has no transformer.resblocks, whose tokens a discriminator could see."
        )
    mean, std = (
        torch.tensor(of, device=clip.device)[:, None, None] for of in (clip.preprocess.mean, clip.preprocess.std)
    )
    watched = {str(at): blocks[at] for at in sorted({0, len(blocks) // 3, len(blocks) - 1})}
    size = clip.preprocess.image_size

    def features(images: Tensor) -> list[Tensor]:
        sized = images
        if images.shape[2:] != (size, size):
            sized = nn.functional.interpolate(images, (size, size), mode="bilinear")
        with watching(watched) as seen:
            tower((sized - mean) / std)
        found = []
        for (tokens,) in seen.values():
            side = math.isqrt(tokens.shape[1])  # the class token is the first
            found.append(tokens[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side)))
        return found

    return features


def gradient_penalty(discriminator: nn.Module, real: Float[Tensor, "image rgb y x"]) -> Float[Tensor, ""]:
    """R1 (Mescheder et al. 2018, eq. 9) without its gamma: half the mean squared gradient at real images.

    In units of images from -1 to 1, as papers have them; these are from 0 to 1.
    """
    seen = real.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(seen).sum(), seen, create_graph=True)
    return (slope / 2).square().sum((1, 2, 3)).mean() / 2


@torch.no_grad()
def settle(generator: nn.Module, options: GanOptions, where: torch.device) -> None:
    """Give the batch norms of an averaged generator the statistics of its own maps, in place.

    Those that it has are of the weights before averaging, whose maps are others. They come from the seed alone.
    """
    norms = [part for part in generator.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    with deterministic():
        for at in range(_SETTLING):
            draw = step_draw(options.seed, options.steps + at)  # numbers that no step has drawn from
            generator(torch.randn(options.batch, options.latent, generator=draw).to(where))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _pixels(images: xr.Dataset) -> UInt8[np.ndarray, "image y x rgb"]:
    if "pixels" not in images:
        raise DataError("training: the images have no variable 'pixels'. Pass an images/<split> artifact.")
    pixels = np.asarray(images["pixels"].values)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or len(pixels) < 2:
        raise DataError(
            f"training: pixels are {pixels.dtype} of shape {pixels.shape}; expected two or more square images, uint8 "
            "(image, y, x, rgb). Take an images/<split> artifact with enough images."
        )
    return pixels
