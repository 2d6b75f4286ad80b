"""Caching direct contributions beside the plain forward pass, the expanded form, and hooks that keep every term."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import torch
import xarray as xr
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from optogram.decompose.contributions import contributions
from optogram.decompose.expand import heads

MODEL, BATCH, THREADS, REPEATS = "ViT-B-32", 32, 2, 9
LITERAL_BATCH, LITERAL_REPEATS = 8, 3
LARGE = "ViT-L-14"


def rows() -> list[dict[str, Any]]:
    """Time and memory of caching (ratio ours/theirs: a cost), then sizes and time beside the literal forms (a gain)."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return [*_cost(), *_sizes(), _against_hooks()]
    finally:
        torch.set_num_threads(before)


def _cost() -> Iterator[dict[str, Any]]:
    model, images = _model(MODEL), torch.randn(BATCH, 3, 224, 224)
    works = [lambda: _plain(model, images), lambda: contributions(model, images)]
    for work in works:
        work()
    pairs = [[_seconds(work) for work in works] for _ in range(REPEATS)]
    theirs, ours = (statistics.median(pair[which] for pair in pairs) for which in (0, 1))
    sizes = {"model": MODEL, "images": BATCH, "dtype": "float32"}
    device = f"cpu, {THREADS} threads"
    yield {
        "claim": "caching all contributions, time over a plain forward pass (to stay under 1.3)",
        "ours": ours / BATCH,
        "theirs": theirs / BATCH,
        # runs side by side see the same load, so the median of their ratios is steadier than the ratio of medians
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
        "unit": "seconds an image",
        "sizes": sizes,
        "seconds": ours,
        "peak_memory": None,
        "device": device,
    }
    for claim, live, key in (
        ("live memory above the loaded model", True, "above"),
        ("peak resident memory of the whole process", False, "whole"),
    ):
        peaks = {who: min(_peak_in_subprocess(who, live)[key] for _ in range(2)) for who in ("ours", "theirs")}
        yield {
            "claim": f"caching all contributions, {claim}, over a plain forward pass (to stay under 1.5)",
            "ours": peaks["ours"] / 1e6,
            "theirs": peaks["theirs"] / 1e6,
            "ratio": peaks["ours"] / peaks["theirs"],
            "unit": "MB",
            "sizes": sizes,
            "seconds": None,
            "peak_memory": peaks,
            "device": device,
        }


def _sizes() -> Iterator[dict[str, Any]]:
    ds = contributions(_model(LARGE), torch.randn(1, 3, 224, 224))
    expanded = heads(ds).nbytes
    every = expanded * ds.sizes["token"]
    compact, rest, token = _bytes(ds, "z", "scale", "mean"), _bytes(ds, "mlp", "embedding"), _bytes(ds, "token")
    shared = _bytes(ds, "basis", "bias", "gain", "offset")
    sizes = {str(name): size for name, size in ds.sizes.items() if name != "image"}
    for claim, ours, theirs in (
        ("storing every head's contribution: z, scale, mean against expanded heads", compact, expanded),
        ("whole artifact without tokens against expanded heads, MLPs, embedding", compact + rest, expanded + rest),
        ("whole artifact with tokens against every c_(i,l,h), MLPs, embedding", compact + rest + token, every + rest),
    ):
        yield {
            "claim": claim,
            "ours": ours,
            "theirs": theirs,
            "ratio": theirs / ours,
            "unit": "bytes an image",
            "sizes": {"model": LARGE, **sizes, "bytes once a model (basis and biases), not counted": shared},
            "seconds": None,
            "peak_memory": None,
            "device": "cpu",
        }


def _against_hooks() -> dict[str, Any]:
    model, images = _model(MODEL), torch.randn(LITERAL_BATCH, 3, 224, 224)
    ds = contributions(model, images)
    by_head, by_token = _literal(model, images)
    for found, expected in ((heads(ds).values, by_head), (ds.token.values, by_token)):
        assert (torch.from_numpy(found) - expected).norm() < 1e-4 * expected.norm()
    pairs = [
        (_seconds(lambda: contributions(model, images)), _seconds(lambda: _literal(model, images)))
        for _ in range(LITERAL_REPEATS)
    ]
    ours, theirs = (min(pair[which] for pair in pairs) / LITERAL_BATCH for which in (0, 1))
    return {
        "claim": "all contributions against hooks that keep (tokens x heads x width) a layer, then project and sum",
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs / ours,
        "unit": "seconds an image",
        "sizes": {"model": MODEL, "images": LITERAL_BATCH, "dtype": "float32"},
        "seconds": ours * LITERAL_BATCH,
        "peak_memory": None,
        "device": f"cpu, {THREADS} threads",
    }


@torch.no_grad()
def _literal(model: CLIP, images: Tensor) -> tuple[Tensor, Tensor]:
    """Heads (image, layer, head, embed) and tokens (image, token, embed) by hooks and eq. 2.6, A.2 term by term."""
    visual: Any = model.visual
    blocks = list(visual.transformer.resblocks)
    count = blocks[0].attn.num_heads
    kept: list[Tensor] = []
    final: list[Tensor] = []

    def attend(attention: Any, inputs: tuple[Tensor, ...], _: Any) -> None:
        x = inputs[0]
        packed = torch.nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = packed.unflatten(2, (3, count, -1)).permute(2, 0, 3, 1, 4)
        alpha = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)[:, :, 0]
        out = attention.out_proj.weight.unflatten(1, (count, -1))
        written = torch.einsum("nhtd,whd->nthw", alpha[..., None] * v, out)
        kept.append(written + attention.out_proj.bias / (written.shape[1] * count))

    hooks = [block.attn.register_forward_hook(attend) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(lambda _, __, out: final.append(out[:, 0])))
    try:
        model.encode_image(images)
    finally:
        for hook in hooks:
            hook.remove()
    c, norm = torch.stack(kept, 1), visual.ln_post
    variance, mean = (s[:, None, None, None, None] for s in torch.var_mean(final[0], 1, correction=0))
    scale = (variance + norm.eps).rsqrt()
    terms = c.shape[1] * c.shape[2] * c.shape[3]
    c = (c * (norm.weight * scale) + (norm.bias - mean * scale * norm.weight) / terms) @ visual.proj
    return c.sum(2), c.sum((1, 3))


def _model(name: str) -> CLIP:
    """A random open_clip model with a small text tower, which nothing here uses."""
    config = open_clip.get_model_config(name)
    assert config is not None
    text = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)
    return CLIP(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), text).eval()


def _plain(model: CLIP, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.encode_image(images)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _bytes(ds: xr.Dataset, *names: str) -> int:
    return sum(ds[name].nbytes for name in names)


def _peak_in_subprocess(who: str, live: bool) -> dict[str, int]:
    """Peak resident bytes of one run in a fresh process: of all of it, and above what the loaded model holds.

    `live` has glibc hand freed blocks back at once (a fixed mmap threshold), so that the peak is of memory in use;
    without it the heap's fragmentation is part of the figure.
    """
    threshold = {"MALLOC_MMAP_THRESHOLD_": "65536"} if live else {}
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "benchmarks.contributions", who]
    done = subprocess.run(command, cwd=root, env=os.environ | threshold, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _measure_peak(who: str) -> dict[str, int]:
    torch.set_num_threads(THREADS)
    model, images = _model(MODEL), torch.randn(BATCH, 3, 224, 224)
    work = {"ours": lambda x: contributions(model, x), "theirs": lambda x: _plain(model, x)}[who]
    work(images[:1])  # kernels and libraries load on first use
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak that VmHWM reports
    before = _status("VmRSS")
    work(images)
    peak = _status("VmHWM")
    return {"above": peak - before, "whole": peak}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


if __name__ == "__main__":
    print(json.dumps(_measure_peak(sys.argv[1])))
