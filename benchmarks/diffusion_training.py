"""A training step of a diffusion model of the default size, as it is taken, beside diffusers' own kernels.

Part of the gain is bfloat16, which a processor with AMX tiles multiplies faster. The rest is the attention: torch's
fused kernel for processors, which diffusers asks for, has a slow backward pass in bfloat16, the slower the more heads
there are. The third row is that kernel, in bfloat16. The last is what two cores gain if each takes half of the batch.
"""

import time
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from benchmarks.sampling import untrained
from optogram.models.training.parts import Parts

IMAGES, STEPS, CORES = 64, 4, 2


def rows() -> list[dict[str, Any]]:
    """CPU-seconds of one thread for a step's forward and backward pass."""
    torch.set_num_threads(1)
    ours, plain = step(fused=False, half=True), step(fused=False, half=False)
    theirs, rounded = step(fused=True, half=False), step(fused=True, half=True)
    kinds = {
        "training step, bfloat16, plain attention": (ours, theirs),
        "training step, float32, plain attention": (plain, theirs),
        "training step, bfloat16, fused attention": (rounded, theirs),
    }
    single = {"unit": "CPU-s", "sizes": f"{IMAGES} images of 64 x 64; theirs: float32, fused attention"}
    device = torch.backends.cpu.get_cpu_capability()
    found = [
        {"claim": claim, "ours": mine, "theirs": other, "ratio": other / mine, "device": f"cpu, 1 thread, {device}"}
        | single
        for claim, (mine, other) in kinds.items()
    ]
    halves, whole = at_once(2), at_once(1)
    found.append(
        {
            "claim": "training step, bfloat16, two halves of the batch at once, against the batch as one",
            "ours": halves,
            "theirs": whole,
            "ratio": whole / halves,
            "unit": "seconds",
            "sizes": f"{IMAGES} images of 64 x 64",
            "device": f"cpu, {CORES} threads, {device}",
        }
    )
    return found


def step(*, fused: bool, half: bool) -> float:
    """The shortest of a few steps."""
    diffusion = untrained()
    network: Any = diffusion.denoiser
    network.requires_grad_(True).train()
    network.unet.set_attn_processor(AttnProcessor2_0() if fused else AttnProcessor())
    z = diffusion.noise(range(IMAGES))
    states, times = diffusion.states(["a photo of a red star on grass"] * IMAGES), torch.full((IMAGES,), 500.0)
    found = []
    for _ in range(STEPS):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = network(z, times, states).float().square().mean()
        loss.backward()
        found.append(time.process_time() - start)
    return min(found)


def at_once(parts: int) -> float:
    """The shortest wall time of a few steps with two threads."""
    torch.set_num_threads(CORES)
    diffusion = untrained()
    network: Any = diffusion.denoiser
    network.requires_grad_(True).train()
    network.unet.set_attn_processor(AttnProcessor())
    z = diffusion.noise(range(IMAGES))
    states, times = diffusion.states(["a photo of a red star on grass"] * IMAGES), torch.full((IMAGES,), 500.0)

    def loss_of(part: slice) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(z[part], times[part], states[part]).float().square().mean()

    taking, found = Parts(parts, diffusion.device), []
    for _ in range(STEPS):
        start = time.perf_counter()
        taking.backward(loss_of, IMAGES, network)
        found.append(time.perf_counter() - start)
    torch.set_num_threads(1)
    return min(found)
