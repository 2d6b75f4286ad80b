"""A tiny generator with random weights, for tests of whatever asks one."""

import torch

from optogram.models.generative.gan_networks import GanGenerator
from optogram.models.generative.generators import generator_of

SPEC = "callable:optogram.models.generative.gan_networks:GanGenerator"


def tiny_generator(latent, widths):
    """Images of twice the side with each width after the first, from 4 x 4 on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GanGenerator(latent, widths)
    return generator_of(model, spec=SPEC, arguments={"latent": latent, "widths": list(widths)})
