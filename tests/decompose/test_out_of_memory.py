"""A device without the memory for a batch: halved, wherever images go through a model, with the same result."""

import numpy as np
import pytest
import torch
from random_models import demo_clip, pictures
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optogram.decompose.activations import token_activations
from optogram.decompose.contributions import contributions, token_scores
from optogram.errors import ModelError
from optogram.methods.attribution.heatmaps import METHODS, heatmaps
from optogram.methods.neurons.maps import neuron_heatmaps
from optogram.models import batches
from optogram.models.loading.clip_folders import build_clip, encode_images, encode_texts

IMAGES = 11
FULL = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 is full. If reserved but unallocated memory is large try"


class Small(TorchDispatchMode):
    """A device on which no tensor larger than `limit` bytes can be allocated."""

    def __init__(self, limit=1 << 40):
        super().__init__()
        self.limit, self.refused, self.largest = limit, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        taken = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for made in tree_leaves(out):
            if not isinstance(made, torch.Tensor) or made.untyped_storage().data_ptr() in taken:
                continue
            self.largest = max(self.largest, made.untyped_storage().nbytes())
            if made.untyped_storage().nbytes() > self.limit:
                self.refused += 1
                raise torch.OutOfMemoryError(FULL)
        return out


MODEL = demo_clip(layers=2)
INPUTS = pictures(IMAGES)
TARGETS = torch.nn.functional.normalize(pictures(IMAGES, 8).flatten(1)[:, :128], dim=1)
DIRECTIONS = {0: pictures(11, 64).flatten()[: 512 * 128].reshape(512, 128)}
CLIP = build_clip(
    {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 514 + 50, "width": 16, "heads": 2, "layers": 1},
    },
    seed=0,
)
PIXELS = np.random.default_rng(0).integers(0, 255, (IMAGES, 16, 16, 3), np.uint8)


def variables(dataset):
    return [dataset[name].values for name in sorted(map(str, dataset.variables))]


WORKS = {
    "contributions": lambda: variables(contributions(MODEL, INPUTS)),
    "token_scores": lambda: [token_scores(MODEL, INPUTS, TARGETS[:2]).values],
    "token_activations": lambda: [token_activations(MODEL, INPUTS, 0, neurons=range(8)).values],
    "neuron_heatmaps": lambda: [neuron_heatmaps(MODEL, INPUTS, TARGETS, DIRECTIONS, batch=IMAGES)],
    **{name: lambda name=name: [heatmaps(name, MODEL, INPUTS, TARGETS, batch=IMAGES)] for name in METHODS},
    "encode_images": lambda: [encode_images(CLIP, PIXELS).numpy()],
    "encode_texts": lambda: [encode_texts(CLIP, ["a", "red thing"] * 5).numpy()],
}


@pytest.mark.parametrize("name", WORKS)
def test_the_batch_is_halved_and_the_result_is_the_same(name, capfd):
    batches._say_once.cache_clear()
    with Small() as ample:
        whole = WORKS[name]()
    with Small(int(ample.largest * 0.4)) as small:
        halved = WORKS[name]()
    assert small.refused >= 2  # 11 images, then 5, and it goes on with 2
    for one, other in zip(whole, halved, strict=True):
        # some processors round a product otherwise when it has fewer rows
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(one).max())
    said = capfd.readouterr().err
    count = 10 if name == "encode_texts" else IMAGES
    assert said.count(f"Out of memory with a batch of {count}: the batch is now {count // 2}.") == 1
    assert said.count("the batch is now") == 2


@pytest.mark.parametrize("name", WORKS)
def test_no_memory_for_a_single_image_is_said_with_what_was_needed(name):
    needed = r"batch of 1: .*allocate 20\.00 MiB\. GPU 0 is full\. Free it .* cpu"
    # more than the model's own maps take, less than one image's activations
    with Small(1000 if "encode" in name else 132_000), pytest.raises(ModelError, match=needed):
        WORKS[name]()


def test_any_other_error_passes():
    def work(rows):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(batches.in_batches(4, 2, work))


def test_rows_come_once_and_in_order_whatever_is_refused():
    for limit in (1, 2, 3, 5):
        seen = []

        def work(rows, limit=limit, seen=seen):
            if rows.stop - rows.start > limit:
                raise torch.OutOfMemoryError(FULL)
            return seen.extend(range(rows.start, rows.stop))

        found = [rows for rows, _ in batches.in_batches(23, None, work)]
        assert seen == list(range(23))
        assert max(rows.stop - rows.start for rows in found) <= limit
