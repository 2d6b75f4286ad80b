"""Guidance: how pictures are optimised, and the two sets of options that the paper's tables name."""

import math
from dataclasses import dataclass
from typing import Literal

from optogram.errors import ParamError


@dataclass(frozen=True)
class Guidance:
    """How the inputs of a diffusion model are optimised: z_T, the states C_t of each step, and the null states O_t.

    steps: of the diffusion. scale: of guidance without a classifier, e = e_O + scale (e_C - e_O); 1 asks the denoiser
    once, and leaves O_t as it is. iterations: of Adam. latents_rate, states_rate, null_rate: learning rates of the
    three; 0 leaves one as it is. schedule: whether each of these falls along its own cosine, to a hundredth at the last
    iteration. clip: the largest component that a gradient may have, of each image and variable apart; None for no
    bound. crops: views of an image over which the loss is averaged, 1 being the image itself; noise: the deviation of
    what is added to each. finals: predicted images, of the last steps, over which the loss is weighted 1 : 2 : 3.
    renormalised: whether z_T keeps the length that it had. stop: the loss without distances, on the picture itself, at
    which an image is done. differentiated: the last so many steps through which gradients pass; None for all, which is
    exact. With fewer, earlier steps are taken as they come: quicker, and another direction.

    Source: Augustin et al., appendix A.4, and their published code for what the paper leaves open.
    """

    steps: int = 10
    scale: float = 1.0
    iterations: int = 15
    latents_rate: float = 0.03
    states_rate: float = 0.05
    null_rate: float = 0.05
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float | None = None
    crops: int = 1
    noise: float = 0.0
    finals: int = 3
    renormalised: bool = True
    stop: float | None = None
    differentiated: int | None = None

    def __post_init__(self) -> None:
        least = {"iterations": 0, "crops": 1, "finals": 1, "differentiated": 1, "steps": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ParamError(f"guidance: {name} = {value}, expected at least {bound}. Change it.")
        for name in ("latents_rate", "states_rate", "null_rate", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParamError(f"guidance: {name} = {getattr(self, name)}, expected 0 or more. Change it.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ParamError(f"guidance: clip = {self.clip}, expected above 0, or None for no bound. Change it.")

    def share(self, iteration: int) -> float:
        """The share of each learning rate at an iteration, from 0."""
        if self.schedule == "constant" or self.iterations < 2:
            return 1.0
        return 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * iteration / (self.iterations - 1)))


DISAGREEMENT = Guidance(
    steps=25,
    scale=3.0,
    iterations=15,
    latents_rate=0.00025,
    states_rate=0.025,
    null_rate=0.025,
    schedule="cosine",
    clip=0.05,
    crops=16,
    noise=0.05,
)
"""The paper's for disagreeing classifiers (table B.1)."""

COUNTERFACTUALS = Guidance(
    steps=20, scale=3.0, iterations=20, latents_rate=0.001, states_rate=0.01, null_rate=0.01, crops=16, noise=0.005
)
"""The paper's for counterfactuals, of classes and of neurons (tables D.1.5, F.2)."""
