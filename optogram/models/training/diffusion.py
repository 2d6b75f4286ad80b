"""Room models: trains a diffusion model on images and their captions, reproducibly and resumably."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from optogram.errors import DataError
from optogram.models.generative.codecs import Codec
from optogram.models.generative.diffusion import Diffusion, UNet
from optogram.models.generative.schedules import Schedule
from optogram.models.generative.texts import Texts
from optogram.models.training.average import Average
from optogram.models.training.checkpoint import History
from optogram.models.training.loop import Evaluation, Plan, Tell, check_range, train
from optogram.models.training.parts import Parts
from optogram.models.training.randomness import epoch_draw, step_draw

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "sample",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
"""The image is what is predicted: a narrow network can't pass on noise that fills all channels (Li & He 2025).

Linear noise (Ho et al. 2020), as shapes of many pixels are made out where the cosine schedule has few of its times
(Hoogeboom et al. 2023).
"""

STEEPEST = 4.0
"""The most that an image nearly without noise weighs."""


@dataclass(frozen=True)
class DiffusionOptions:
    """How a diffusion model is trained.

    learning_rate: of AdamW, for biases, norms, the first and the last layer, and what takes the text's mean state.
    matrix_rate: of Muon, for all other weights (Jordan et al. 2024), scaled to the size of AdamW's steps (Liu et al.
    2025); it rounds to bfloat16 whatever `bfloat16` is.
    widths: channels of the UNet's levels, the last with attention. layers: residual blocks a level.
    unconditional: share of the images that are learned without their caption, for guidance without a classifier.
    average: decay of the moving average that is kept of the weights. bfloat16: products in bfloat16 on a processor too,
    as always on a GPU: about twice as fast where there are AMX tiles, and other bytes where there are none. focus: of
    images with masks, how many times more an object's places weigh in the loss than others do. parts: of a batch, whose
    gradients are taken at the same time on a processor, a thread each (`Parts`).
    """

    steps: int
    batch: int = 48
    learning_rate: float = 1e-3
    matrix_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 200
    widths: tuple[int, ...] = (32, 64, 112)
    layers: int = 1
    unconditional: float = 0.1
    average: float = 0.999
    bfloat16: bool = False
    focus: float = 8.0
    parts: int = 1
    seed: int = 0


def train_diffusion(
    images: xr.Dataset,
    options: DiffusionOptions,
    *,
    codec: Codec,
    texts: Texts,
    device: torch.device,
    scratch: Path | None = None,
    save_seconds: float = 30.0,
    every: int = 0,
    measure: Any = None,
    progress: Tell | None = None,
) -> tuple[Diffusion, History]:
    """A diffusion model trained from the options' seed on an images/<split> artifact, whose latents are in memory.

    codec, texts: frozen. What is returned has the moving average of the weights.
    measure: called with the diffusion model as it is every `every` steps and at the end; returns figures by name.
    scratch: folder for a checkpoint every `save_seconds`; a run that is started again continues there, to the same
    bytes. progress: called with (images done, images in all, loss).

    Raises ParamError for a bad number, DataError for images without captions, ShapeError for sides that the codec does
    not take, ModelError, naming the step, if the loss is not finite, and if the checkpoint is another run's.
    """
    for name in ("pixels", "caption"):
        if name not in images:
            raise DataError(f"training: the images have no variable {name!r}. Pass an images/<split> artifact.")
    check_range("unconditional", options.unconditional, 0, 1)
    check_range("batch", options.batch, 1, images.sizes["image"])
    check_range("focus", options.focus, 0, math.inf)
    check_range("matrix_rate", options.matrix_rate, 0, 1)
    check_range("parts", options.parts, 1, options.batch)
    plan = Plan(options.steps, options.batch, options.seed, options.warmup, save_seconds=save_seconds)
    task = _DiffusionTask(images, options, codec, texts, device)
    evaluation = Evaluation(every, lambda: measure(task.diffusion)) if measure else None
    history = train(task, plan, scratch=scratch, evaluation=evaluation, progress=progress)
    return task.diffusion, history


@dataclass(frozen=True)
class _Noisy:
    """A batch: latents with noise mixed in, when, what of, and what is said of them."""

    z: Float[Tensor, "image channel row column"]
    times: Float[Tensor, " image"]
    target: Float[Tensor, "image channel row column"]
    weight: Float[Tensor, "image 1 row column"]
    states: Float[Tensor, "image token width"]


class _DiffusionTask:
    """Predicting an image at a random time, from latents and a caption that is drawn anew each time."""

    def __init__(
        self, images: xr.Dataset, options: DiffusionOptions, codec: Codec, texts: Texts, device: torch.device
    ) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        self._options, self._texts, self._where = options, texts, device
        self._schedule = Schedule(SCHEDULER)
        self._latents = encode(codec, np.asarray(images["pixels"].values), device)
        self._captions = images["caption"].values.astype(str)
        self._weight = loss_weights(images, codec, self._latents, options.focus)
        count, *shape = self._latents.shape
        self._null = texts.states([""])
        unet = build_unet(options, tuple(shape), texts.width).to(device).train()
        self._network = UNet(unet)
        # an epoch's order is drawn once, not at each of its steps
        self._order = lru_cache(maxsize=1)(
            lambda epoch: torch.randperm(count, generator=epoch_draw(options.seed, epoch))
        )
        self.networks: Mapping[str, nn.Module] = {"denoiser": self._network}
        self._matrices = Matrices(unet)
        muon = torch.optim.Muon(
            self._matrices.flat, options.matrix_rate, options.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        adamw = torch.optim.AdamW(
            self._matrices.others,
            options.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.optimizers = {"muon": muon, "adamw": adamw}
        self.averages = {"denoiser": Average(self._network, options.average)}
        # the products as such: torch 2.15's fused attention on a processor has a slow backward pass in bfloat16
        unet.set_attn_processor(AttnProcessor())
        self._parts = Parts(options.parts, device)
        self.identity = {"options": asdict(options), "images": count}
        average: Any = self.averages["denoiser"].network
        self.diffusion = Diffusion(codec, average, self._schedule, texts, tuple(shape), device)  # type: ignore[arg-type]

    def batch(self, step: int) -> _Noisy:
        options, count = self._options, len(self._latents)
        epoch, at = divmod(step, count // options.batch)
        rows = self._order(epoch)[at * options.batch : (at + 1) * options.batch]
        draw = step_draw(options.seed, step)
        variant = torch.randint(self._captions.shape[1], (len(rows),), generator=draw)
        silent = torch.rand(len(rows), generator=draw) < options.unconditional
        times = torch.randint(self._schedule.training_steps, (len(rows),), generator=draw)
        clean = self._latents[rows]
        noise = torch.randn(clean.shape, generator=draw).to(self._where)
        prompts = [
            "" if dropped else str(text)
            for text, dropped in zip(self._captions[rows.numpy(), variant.numpy()], silent.tolist(), strict=True)
        ]
        clean, (alpha, sigma) = clean.to(self._where), self._schedule.at(times.to(self._where))
        target = self._schedule.target(clean, noise, alpha, sigma)
        # the error of v = alpha noise - sigma image is that of the image over sigma
        weight = self._weight[rows].to(self._where) * (sigma**-2).clamp(max=STEEPEST)
        noisy, when = alpha * clean + sigma * noise, times.to(self._where).float()
        return _Noisy(noisy, when, target, weight, self._texts.states(prompts))

    def step(self, batch: _Noisy) -> dict[str, Tensor]:
        loss = self._parts.backward(lambda part: self._loss(batch, part), len(batch.times), self._network)
        nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._matrices.take_gradients()
        self._parts.alone(self.optimizers["muon"].step)
        self.optimizers["adamw"].step()
        return {"velocity": loss}

    def _loss(self, batch: _Noisy, part: slice) -> Tensor:
        half = self._options.bfloat16 or self._where.type != "cpu"
        with torch.autocast(self._where.type, torch.bfloat16, enabled=half):
            found = self._network(batch.z[part], batch.times[part], batch.states[part])
        return (batch.weight[part] * (found.float() - batch.target[part]) ** 2).mean()


class Matrices:
    """A network's hidden weights as the matrices that Muon takes: the same memory, a row for each output.

    flat: of convolutions and linear layers between the first and the last. others: all other weights.
    """

    def __init__(self, unet: nn.Module) -> None:
        ends = ("conv_in.", "conv_out.", "class_embedding.")
        self.others: list[nn.Parameter] = []
        self._inner: list[nn.Parameter] = []
        for name, w in unet.named_parameters():
            (self.others if w.ndim < 2 or name.startswith(ends) else self._inner).append(w)
        self.flat = [nn.Parameter(w.detach().flatten(1)) for w in self._inner]

    def take_gradients(self) -> None:
        """Give the matrices the gradients that their weights have."""
        for matrix, w in zip(self.flat, self._inner, strict=True):
            matrix.grad = None if w.grad is None else w.grad.flatten(1)


def loss_weights(
    images: xr.Dataset, codec: Codec, latents: Float[Tensor, "image channel row column"], focus: float
) -> Float[Tensor, "image 1 row column"]:
    """What the loss weighs places by: those of objects 1 + focus; the mean is 1.

    All else equal, most of the loss is that of fine texture, which no model can foresee, and what a caption says of an
    object is a hundredth of it: its gradient drowns. Images without masks have no objects.
    """
    place = torch.ones(len(latents), 1, *latents.shape[2:])
    if focus and "mask" in images:
        for start in range(0, len(latents), 1024):
            mask = torch.from_numpy(np.asarray(images["mask"][start : start + 1024].values > 0)).float()
            place[start : start + 1024] += focus * nn.functional.avg_pool2d(mask[:, None], codec.factor)
    return place / place.mean()


def build_unet(options: DiffusionOptions, shape: tuple[int, ...], width: int) -> Any:
    """A UNet of diffusers with random weights from the options' seed, attention to texts on its last level.

    The mean state of a text is added to the embedding of the time besides: alone, attention is slow to learn colours.
    Two more channels in than out are for rows and columns (`optogram.models.generative.diffusion.UNet`).
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    levels = len(options.widths)
    down = (*["DownBlock2D"] * (levels - 1), "CrossAttnDownBlock2D")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        return UNet2DConditionModel(
            sample_size=shape[1:],  # type: ignore[arg-type]
            in_channels=shape[0] + 2,
            out_channels=shape[0],
            block_out_channels=options.widths,
            down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
            layers_per_block=options.layers,
            cross_attention_dim=width,
            # what diffusers calls so is their number, of each level
            attention_head_dim=tuple(heads(level) for level in options.widths),  # type: ignore[arg-type]
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="projection",
            projection_class_embeddings_input_dim=width,
        )


def heads(width: int) -> int:
    """How many attention heads a level of this width has: such that each is about 28 to 40 channels wide."""
    return next(count for count in range(max(1, width // 28), 0, -1) if not width % count)


@torch.no_grad()
def encode(
    codec: Codec, pixels: np.ndarray, device: torch.device, batch: int = 256
) -> Float[Tensor, "image channel row column"]:
    """The latents of uint8 pixels (image, y, x, rgb), in float32 on the CPU."""
    parts = []
    for start in range(0, len(pixels), batch):
        part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch])).to(device)
        parts.append(codec.encode(part.permute(0, 3, 1, 2).float() / 255).cpu())
    return torch.cat(parts)
