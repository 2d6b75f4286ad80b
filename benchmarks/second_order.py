"""All neurons' second-order effects of one layer, norms and projections on r_n, beside materialising every vector."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from optogram.decompose.effects import NeuronSpace, tensor
from optogram.decompose.second_order import directions, second_order
from optogram.decompose.towers import tower
from optogram.methods.neurons.effects import rank_one

MODEL, LAYER, IMAGES, THREADS, REPEATS = "ViT-B-32", 9, 8, 2, 5


def rows() -> list[dict[str, Any]]:
    """Time beside the literal form, the forward pass that both need left out; then the one-off parts, and memory."""
    with threads(THREADS):
        return _rows()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many torch threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rows() -> list[dict[str, Any]]:
    model, images = random_clip(), torch.randn(IMAGES, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ds = second_order(model, images, LAYER)
    form = rank_one(ds)
    r, d, constant = tensor(form.r), tensor(ds.D), tensor(ds.constant)
    caught = _caught(model, images)
    space = NeuronSpace.of(d)

    def ours() -> tuple[Tensor, Tensor]:
        c = _coefficients(caught).flatten(1, 2)
        return space.norms(c, constant), space.project(c, constant, r)

    one_off = _best(lambda: directions(model, LAYER)), _best(lambda: NeuronSpace.of(d)), _best(lambda: rank_one(ds))
    ours()
    pairs, expected = [], []
    for image in range(IMAGES):
        # side by side both see the same load; the literal form goes image by image anyway
        spent = _seconds(ours)
        literally = _seconds(lambda i=image: expected.append(_literal(model, caught, constant, r, i)))
        pairs.append((spent, IMAGES * literally))
    seconds, literal = (statistics.median(pair[which] for pair in pairs) for which in (0, 1))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    both = zip(ours(), map(torch.stack, zip(*expected, strict=True)), strict=True)
    errors = [float((a - b).norm() / b.norm()) for a, b in both]
    assert max(errors) < 1e-5, errors
    ahead = _best(lambda: _expanded(_coefficients(caught), d, constant, r))
    peak = _peak_in_subprocess()
    common = {"device": f"cpu, {THREADS} threads", "unit": "seconds a batch", "peak_memory": None}
    sizes = {"model": MODEL, "layer": LAYER, "images": IMAGES, **{str(n): ds.sizes[n] for n in ("neuron", "embed")}}
    return [
        {
            "claim": "second-order effects: all norms and projections on r_n against every vector as in eq. 3.3, B.5",
            "ours": seconds,
            "theirs": literal,
            "ratio": ratio,
            "sizes": sizes | {"relative errors (norms, projections)": errors},
            "seconds": seconds,
            **common,
        },
        {
            "claim": "the same, the one-off directions and Gram matrices counted in as if for this batch only",
            "ours": seconds + one_off[0] + one_off[1],
            "theirs": literal,
            "ratio": literal / (seconds + one_off[0] + one_off[1]),
            "sizes": sizes | {"seconds: D, Gram, rank-1 form of these images": one_off},
            "seconds": seconds + one_off[0] + one_off[1],
            **common,
        },
        {
            "claim": "the same against expanding our own c D to vectors, their tokens already summed",
            "ours": seconds,
            "theirs": ahead,
            "ratio": ahead / seconds,
            "sizes": sizes,
            "seconds": seconds,
            **common,
        },
        {
            "claim": "second-order effects: peak resident memory, model and D and r_n included (to stay under 2 GB)",
            "ours": peak / 1e6,
            "theirs": 2000.0,
            "ratio": peak / 2e9,
            "sizes": sizes,
            "seconds": None,
            **common,
            "unit": "MB",
            "peak_memory": {"ours": peak},
        },
    ]


def _caught(model: CLIP, images: Tensor) -> dict[str, Any]:
    """What one forward pass gives both sides: activations, attention of the class token, LayerNorm statistics."""
    found: dict[str, Any] = {"attention": {}, "scale": {}, "mean": {}}
    target, blocks = tower(model), list(model.visual.transformer.resblocks)  # pyright: ignore

    def norm(index: int) -> Callable[..., None]:
        def see(_: Any, inputs: tuple[Tensor, ...]) -> None:
            variance, mean = torch.var_mean(inputs[0], 2, correction=0)
            found["scale"][index], found["mean"][index] = torch.rsqrt(variance + blocks[index].ln_1.eps), mean

        return see

    hooks = [blocks[index].ln_1.register_forward_pre_hook(norm(index)) for index in range(LAYER + 1, len(blocks))]
    hooks.append(blocks[LAYER].mlp.c_proj.register_forward_pre_hook(lambda _, x: found.update(p=x[0])))
    try:
        with torch.no_grad():
            out = target.forward(images, lambda index, a, _: found["attention"].update({index: a}))
    finally:
        for hook in hooks:
            hook.remove()
    return found | {"final": out.scale}


def _coefficients(caught: dict[str, Any]) -> Tensor:
    """c (image, layer, head, neuron), as `second_order` computes it during its pass."""
    each = [(caught["attention"][at] * caught["scale"][at][:, None]) @ caught["p"] for at in sorted(caught["scale"])]
    return torch.stack(each, 1) * caught["final"][:, None, None, None]


@torch.no_grad()
def _literal(model: CLIP, caught: dict[str, Any], constant: Tensor, r: Tensor, image: int) -> tuple[Tensor, Tensor]:
    """Eq. 3.3 with B.2 to B.5 for one image: each neuron's write at each token through each later head, then summed.

    Kind to it: values have 64 dimensions, so that W_VO is never a width x width matrix, products are batched over all
    tokens and neurons, and the shifts' shares, which are the same for all neurons, are ours and cost nothing.
    """
    visual: Any = model.visual
    blocks, post, p = visual.transformer.resblocks, visual.ln_post, caught["p"]
    w = blocks[LAYER].mlp.c_proj.weight.T
    phi = torch.zeros(p.shape[2], visual.proj.shape[1])
    for later, scales in caught["scale"].items():
        block = blocks[later]
        a = block.ln_1.weight * scales[image][:, None]
        e = p[image][..., None] * w * a[:, None]  # (token, neuron, width)
        heads = block.attn.num_heads
        values = block.attn.in_proj_weight.chunk(3)[2].chunk(heads)
        out = block.attn.out_proj.weight.chunk(heads, 1)
        for head in range(heads):
            through = e @ values[head].T
            mixed = torch.einsum("t,tkd->kd", caught["attention"][later][image, head], through)
            phi += (mixed @ out[head].T * post.weight * caught["final"][image]) @ visual.proj
    phi += constant[image]
    return phi.norm(dim=1), (phi * r).sum(1)


def _expanded(c: Tensor, d: Tensor, constant: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    phi = torch.einsum("blhn,lhne->bne", c, d) + constant[:, None]
    return phi.norm(dim=2), (phi * r).sum(2)


def random_clip(name: str = MODEL) -> CLIP:
    """A random open_clip model with a small text tower, which nothing here uses; biases and gains not neutral."""
    config = open_clip.get_model_config(name)
    assert config is not None
    text = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), text).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def _best(work: Callable[[], object]) -> float:
    """The shortest of some runs, after one that is not counted."""
    work()
    return min(_seconds(work) for _ in range(REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _peak_in_subprocess() -> int:
    """Peak resident bytes of a fresh process that loads the model and does all of ours, the forward pass too."""
    command = [sys.executable, "-m", "benchmarks.second_order"]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, env=os.environ.copy(), check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _measure_peak() -> int:
    torch.set_num_threads(THREADS)
    ds = second_order(random_clip(), torch.randn(IMAGES, 3, 224, 224), LAYER)
    form = rank_one(ds)
    space, c, constant = NeuronSpace.of(tensor(ds.D)), tensor(ds.c).flatten(1, 2), tensor(ds.constant)
    space.norms(c, constant)
    space.project(c, constant, tensor(form.r))
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


if __name__ == "__main__":
    print(json.dumps(_measure_peak()))
