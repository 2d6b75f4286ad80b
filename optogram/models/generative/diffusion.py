"""Room models: a diffusion model as its parts (codec, denoiser, schedule, texts), and what it takes to ask it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optogram.errors import ModelError
from optogram.models.generative.codecs import Codec
from optogram.models.generative.schedules import Schedule
from optogram.models.generative.texts import Texts

CPU = torch.device("cpu")


@runtime_checkable
class Denoiser(Protocol):
    """What predicts, from noisy latents, their times and states of texts, what the schedule says it should."""

    def __call__(
        self,
        z: Float[Tensor, "image channel row column"],
        times: Float[Tensor, " image"],
        states: Float[Tensor, "image token width"],
    ) -> Float[Tensor, "image channel row column"]:
        """The prediction."""
        ...


class UNet(nn.Module):
    """diffusers' UNet2DConditionModel.

    One with a projected class embedding gets the mean state of a text there. One with two channels more in than out is
    told the row and the column of each place by them, from -1 to 1: convolutions alone hardly know where they are.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.part, self.state_width = "unet", int(unet.config["cross_attention_dim"])
        self._pooled = unet.config.get("class_embed_type") == "projection"
        self._placed = unet.config["in_channels"] == unet.config["out_channels"] + 2

    def forward(
        self,
        z: Float[Tensor, "image channel row column"],
        times: Float[Tensor, " image"],
        states: Float[Tensor, "image token width"],
    ) -> Float[Tensor, "image channel row column"]:
        """The prediction."""
        pooled = {"class_labels": states.mean(1)} if self._pooled else {}
        given = torch.cat([z, places(z)], 1) if self._placed else z
        return self.unet(given, times, encoder_hidden_states=states, **pooled).sample


class Transformer(nn.Module):
    """diffusers' PixArtTransformer2DModel (Chen et al. 2023), whose tokens are patches of the latents.

    They attend to each other and to the states of a text. What one predicts of a variance besides is left out.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        self.part, self.state_width = "transformer", int(transformer.config["caption_channels"])

    def forward(
        self,
        z: Float[Tensor, "image channel row column"],
        times: Float[Tensor, " image"],
        states: Float[Tensor, "image token width"],
    ) -> Float[Tensor, "image channel row column"]:
        """The prediction."""
        unasked = {"resolution": None, "aspect_ratio": None}
        found = self.transformer(z, encoder_hidden_states=states, timestep=times, added_cond_kwargs=unasked).sample
        return found[:, : z.shape[1]]


def places(z: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image 2 row column"]:
    """The row and the column of each place, from -1 to 1."""
    rows, columns = (torch.linspace(-1, 1, side, device=z.device, dtype=z.dtype) for side in z.shape[2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(z), -1, -1, -1)


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model with all that it needs to draw what a text asks for.

    shape: channels, rows and columns of its latents.

    Raises ModelError for parts that do not fit each other.
    """

    codec: Codec
    denoiser: Denoiser
    schedule: Schedule
    texts: Texts
    shape: tuple[int, int, int]
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if self.codec.channels != self.shape[0]:
            raise ModelError(
                f"diffusion: the codec has {self.codec.channels} channels, but the denoiser takes {self.shape[0]}. "
                "Take the codec that the denoiser was trained with."
            )
        width = getattr(self.denoiser, "state_width", self.texts.width)
        if width != self.texts.width:
            raise ModelError(
                f"diffusion: states of texts have width {self.texts.width}, but the denoiser takes {width}. Take the "
                "text encoder that the denoiser was trained with."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its images in pixels."""
        return self.shape[1] * self.codec.factor, self.shape[2] * self.codec.factor

    def states(self, prompts: Sequence[str]) -> Float[Tensor, "prompt token width"]:
        """What the denoiser is told of each prompt; of "" without a condition.

        Raises DataError for a prompt that is too long, or blank but not empty.
        """
        return self.texts.states(prompts)

    def noise(self, seeds: Sequence[int]) -> Float[Tensor, "image channel row column"]:
        """Where images start: the noise of each depends on its own seed alone, and is the same on every device."""
        drawn = [torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(drawn).to(self.device)

    def predict(
        self,
        z: Float[Tensor, "image channel row column"],
        time: float,
        states: Float[Tensor, "image token width"],
        null: Float[Tensor, "image token width"] | None = None,
        scale: float = 1.0,
    ) -> Float[Tensor, "image channel row column"]:
        """The prediction at one time, guided away from that for the states `null` (Ho & Salimans 2022, eq. 6).

        scale: 1 is the prediction for `states` alone, and asks the denoiser once.
        """
        if null is None or scale == 1:
            return self.denoiser(z, torch.full((len(z),), time, device=z.device), states)
        times = torch.full((2 * len(z),), time, device=z.device)
        free, bound = self.denoiser(torch.cat([z, z]), times, torch.cat([null, states])).chunk(2)
        return free + scale * (bound - free)
