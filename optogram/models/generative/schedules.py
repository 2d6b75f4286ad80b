"""Room models: how noise is mixed in and taken out, for predictions of noise, image, v and flows alike.

Whatever a scheduler is called, it mixes z_t = alpha_t z_0 + sigma_t noise. A prediction tells both parts, and one
deterministic step mixes them anew at the next time. With alpha² + sigma² = 1 this is DDIM (Song et al. 2021, eq. 12
with eta 0); with alpha = 1 - sigma, flow matching's Euler step.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from optogram.errors import ModelError, ParamError

Prediction = Literal["epsilon", "sample", "v_prediction", "flow"]

_VARIANCE_PRESERVING = (
    *("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
)
_FLOW = ("FlowMatchEulerDiscreteScheduler",)


@dataclass(frozen=True)
class Mix:
    """A time of the schedule: what the denoiser is told, and how much of the image and of the noise is in z."""

    time: float
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Schedule:
    """A scheduler of diffusers by its config, without its state.

    config: as scheduler_config.json has it. A scheduler of another solver with the same noise (PNDM, Euler, DPM …) is
    taken as DDIM with its noise.

    Raises ModelError for a kind of scheduler, or of prediction, that is not known.
    """

    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        known = (*_VARIANCE_PRESERVING, *_FLOW)
        if self.config.get("_class_name") not in known:
            raise ModelError(
                f"scheduler: {self.config.get('_class_name')!r} is of a kind that is not known; expected one of "
                f"{', '.join(known)}. Give the folder one of these."
            )
        asked = self.config.get("prediction_type", "epsilon")
        if not self.flow and asked not in ("epsilon", "sample", "v_prediction"):
            raise ModelError(f"scheduler: prediction_type = {asked!r}, expected epsilon, sample or v_prediction.")

    @property
    def flow(self) -> bool:
        """Whether noise is mixed in along straight lines."""
        return self.config.get("_class_name") in _FLOW

    @property
    def prediction(self) -> Prediction:
        """What the denoiser predicts: the noise; z_0; v = alpha noise - sigma z_0 (Salimans & Ho 2022); noise - z_0."""
        return "flow" if self.flow else self.config.get("prediction_type", "epsilon")

    @property
    def training_steps(self) -> int:
        """How many times training knows."""
        return int(self.config.get("num_train_timesteps", 1000))

    @cached_property
    def scheduler(self) -> Any:
        """A scheduler of diffusers with this config, whose tables are read and whose state is not."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        kind = FlowMatchEulerDiscreteScheduler if self.flow else DDIMScheduler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys that another solver has
            return kind.from_config({**self.config})

    def mixes(self, steps: int) -> list[Mix]:
        """Steps + 1 times from noise to image: a step goes from each to the next, with the scheduler's own spacing.

        Raises ParamError for a number of steps that the schedule does not have.
        """
        if not 1 <= steps <= self.training_steps:
            raise ParamError(f"steps = {steps}, expected 1 to {self.training_steps}. Set steps within that range.")
        self.scheduler.set_timesteps(steps)
        times = self.scheduler.timesteps.tolist()
        if self.flow:
            sigmas = self.scheduler.sigmas.tolist()
            return [Mix(t, 1 - s, s) for t, s in zip([*times, 0.0], sigmas, strict=True)]
        kept = self.scheduler.alphas_cumprod.double()
        # the scheduler's own previous time, which is negative at the end
        shift = self.training_steps // steps
        before = [*times[1:], times[-1] - shift]
        last = kept[before[-1]] if before[-1] >= 0 else self.scheduler.final_alpha_cumprod.double()
        shares = [*(kept[t] for t in times), last]
        return [
            Mix(float(t), float(share.sqrt()), float((1 - share).sqrt()))
            for t, share in zip([*times, before[-1]], shares, strict=True)
        ]

    def at(self, times: Int[Tensor, " image"] | Float[Tensor, " image"]) -> tuple[Tensor, Tensor]:
        """alpha and sigma, float32 (image, 1, 1, 1), of times from 0 to `training_steps`; whole ones but for flows."""
        if self.flow:
            sigma = times.float() / self.training_steps
            alpha = 1 - sigma
        else:
            share = self.scheduler.alphas_cumprod.to(times.device)[times.long()]
            alpha, sigma = share.sqrt(), (1 - share).sqrt()
        return alpha.float()[:, None, None, None], sigma.float()[:, None, None, None]

    def target(self, clean: Tensor, noise: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """What the denoiser should predict."""
        if self.prediction in ("epsilon", "sample"):
            return noise if self.prediction == "epsilon" else clean
        return noise - clean if self.flow else alpha * noise - sigma * clean

    def parts(self, z: Tensor, prediction: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that a prediction says `z` is mixed of; of images, where there is noise."""
        if self.prediction == "epsilon":
            return (z - sigma * prediction) / alpha, prediction
        if self.prediction == "sample":
            return prediction, (z - alpha * prediction) / sigma
        if self.flow:
            return z - sigma * prediction, z + alpha * prediction
        return alpha * z - sigma * prediction, sigma * z + alpha * prediction

    def step(self, z: Tensor, prediction: Tensor, now: Mix, then: Mix) -> Tensor:
        """From one time to another, later or earlier, without new noise."""
        clean, noise = self.parts(z, prediction, now.alpha, now.sigma)
        return then.alpha * clean + then.sigma * noise
