"""A GAN of two small networks on points of a ring, with all that a training may have: two rates, EMA, buffers, dropout,
and a penalty at every fourth step only."""

import torch
from torch import nn

from optogram.models.training.average import Average
from optogram.models.training.loop import Evaluation, Plan, descend
from optogram.models.training.randomness import step_draw

PLAN = Plan(steps=12, batch=16, seed=3, warmup=2, decay="none", save_seconds=0)
RATES = {"generator": 1e-3, "discriminator": 2.2e-3}


def seeded(seed, *layers):
    """The layers, their weights drawn from a seed."""
    network, draw = nn.Sequential(*layers), torch.Generator().manual_seed(seed)
    for w in network.parameters():
        nn.init.normal_(w, 0.0, 0.3, generator=draw)
    return network


class ToyGan:
    """Both networks learn in one step, the generator from what the discriminator has just become."""

    def __init__(self, decay=0.7, breaks_at=None):
        generator = seeded(1, nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        discriminator = seeded(2, nn.Linear(2, 8), nn.Dropout(0.25), nn.Tanh(), nn.Linear(8, 1))
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), RATES[name], betas=(0.0, 0.99))
            for name, network in self.networks.items()
        }
        self.averages = {"generator": Average(generator, decay)}
        self.identity = {"decay": decay}
        self.breaks_at = breaks_at

    def batch(self, step):
        """Real points, noise, and whether the penalty is due."""
        draw = step_draw(PLAN.seed, step)
        angle = torch.rand(PLAN.batch, generator=draw) * 6.28
        real = torch.stack([angle.cos(), angle.sin()], 1)
        noise = torch.randn(2, PLAN.batch, 2, generator=draw)
        return real * (float("nan") if step == self.breaks_at else 1), noise, step % 4 == 0

    def step(self, batch):
        """Non-saturating losses, with R1 (Mescheder et al. 2018) where it is due."""
        real, noise, penalised = batch
        generator, discriminator = (self.networks[name] for name in RATES)
        judge = nn.functional.softplus
        real.requires_grad_(penalised)
        told = discriminator(real)
        loss = (judge(-told) + judge(discriminator(generator(noise[0]).detach()))).mean()
        if penalised:
            (slope,) = torch.autograd.grad(told.sum(), real, create_graph=True)
            loss = loss + 0.1 * slope.square().sum(1).mean()
        descend(loss, discriminator, [self.optimizers["discriminator"]], clip=1.0)
        fooled = judge(-discriminator(generator(noise[1]))).mean()
        descend(fooled, generator, [self.optimizers["generator"]])
        return {"discriminator": loss, "generator": fooled}

    def evaluation(self, every=5, told=lambda: None):
        """How far from the ring what the average makes lies; it draws from torch's own generator."""

        def measure():
            told()
            made = self.averages["generator"].network(torch.randn(32, 2))
            return {"off": float((made.norm(dim=1) - 1).abs().mean())}

        return Evaluation(every, measure)

    def state(self, history):
        """All that a run leaves, as bytes."""
        modules = [*self.networks.values(), self.averages["generator"].network]
        states = [module.state_dict() for module in modules]
        kept = [s[key] for o in self.optimizers.values() for s in o.state_dict()["state"].values() for key in sorted(s)]
        tensors = [*(w for state in states for w in state.values()), *kept]
        return b"".join(w.numpy().tobytes() for w in tensors) + repr(history).encode()
