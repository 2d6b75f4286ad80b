"""A model that takes sand for squares, and neurons that say so: the cue is mined and drawn, and fools it."""

import numpy as np
import pytest
import xarray as xr

from optogram.data.describing import grammar
from optogram.data.image_makers import SceneMaker, stated_values
from optogram.data.scenes import ATTRIBUTES
from optogram.methods.neurons.adversarial import attack, mined_phrases
from optogram.metrics.adversarial import table

EMBED, NEURONS = 16, 200
CUE = 2  # sand
PHRASES = [f"an object {place}" for place in ("on grass", "on water", "on sand", "on snow", "on bricks", "at night")]
PHRASES += ["a square", "a square on sand", "a red object", "a striped object", "small objects", "something sharp"]


@pytest.fixture(scope="module")
def planted():
    """Texts are random directions. Neuron 0 writes towards squares and sand, the others to what is neither."""
    rng = np.random.default_rng(4)
    axes = np.linalg.qr(rng.standard_normal((EMBED, EMBED)))[0]
    texts = axes[: len(PHRASES)].copy()
    own, other = axes[14], axes[6]
    texts[6] = other
    r = rng.standard_normal((NEURONS, EMBED)) @ (np.eye(EMBED) - np.outer(axes[2], axes[2]))
    r -= 0.9 * (r @ other)[:, None] * other + 0.9 * (r @ own)[:, None] * own
    r[0] = other + axes[2]
    r /= np.linalg.norm(r, axis=1, keepdims=True)
    pool = xr.Dataset({"embedding": (("text", "embed"), texts)}, {"text": PHRASES})
    stated = [stated_values(text) for text in PHRASES]
    refused = np.array([[not values or "shape" in values for values in stated]])
    indirect = np.linalg.qr(rng.standard_normal((EMBED, EMBED)))[0][:8] @ (np.eye(EMBED) - np.outer(axes[2], axes[2]))
    return own[None], other[None], pool, r, indirect, refused


def reads_grounds(own, other):
    """An encoder that sees squares wherever more than half of the rim has the colours of sand, else circles."""
    low, high = np.array([175, 145, 80]), np.array([250, 230, 175])

    def encode(pixels):
        rim = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
        sandy = ((rim >= low) & (rim <= high)).all(-1).mean(1) > 0.5
        return np.where(sandy[:, None], other, own)

    return encode


def test_the_cue_is_mined_and_fools_the_model(planted):
    own, other, pool, r, indirect, refused = planted
    mined = mined_phrases(own, other, pool, r, indirect, refused, neurons=1, sparsity=2, phrases=3, repeats=3, seed=0)
    first = mined["phrase"].values[0, 0, 0]
    assert first.tolist() == [PHRASES[CUE], "", ""], "squares themselves are filtered out"
    maker = SceneMaker("shape", "circle")
    made = []

    def make(task, descriptions, count, seed):
        made.append(maker(descriptions, count, seed))
        return made[-1]

    found = attack(
        mined,
        own,
        other,
        lambda task, phrases, count, seed: grammar(phrases, maker.noun, ("square",), count, seed),
        make,
        reads_grounds(own[0], other[0]),
        descriptions=20,
        chosen=10,
        images=10,
        seed=0,
    ).assign_coords(task=["circle taken for square"])
    every = table(found)
    got = {method: rows["mean over tasks"]["mean"] for method, rows in every.items()}
    assert got["second_order"] > 95
    assert 5 < got["plain"] < 30, "a sixth has sand anyway"
    assert max(got["random"], got["indirect"], got["similar"]) < 40
    shape = ATTRIBUTES["shape"].index("circle")
    assert all((batch["label"].sel(attribute="shape") == shape).all() for batch in made), "no image is a square"
    assert "on sand" in found["description"].values[0, 0, 0]
