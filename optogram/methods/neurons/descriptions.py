"""Method room, descriptions of neurons: direction, texts, top images, groups, and whether texts and images agree."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float32, Int

from optogram.decompose.activations import token_activations
from optogram.decompose.effects import effect_norms
from optogram.errors import DataError
from optogram.methods.neurons.effects import rank_one, through_heads
from optogram.methods.neurons.groups import separated
from optogram.methods.neurons.labels import named_values, shared_values, value_agreement
from optogram.methods.neurons.texts import neuron_texts
from optogram.models.loading.clip_folders import Clip

_SETS = 256
"""Sets of images whose embeddings are held at once."""
_DRAWN = 512
"""Sets of images drawn at random, to tell how often these form groups."""


def describe_neurons(
    effects: xr.Dataset,
    pools: Mapping[str, xr.Dataset],
    labels: xr.DataArray,
    value_name: xr.DataArray,
    *,
    largest: int,
    percentile: float,
    sizes: Sequence[int],
    sparsity: int,
    texts: int,
    grouped: int,
    separation: float,
    seed: int,
    permutations: int,
) -> xr.Dataset:
    """What the neurons of one MLP write: neurons/<model>/<layer> of docs/artifacts, all but the activation maps.

    effects: `second_order/<model>/<split>/<layer>` with a coordinate `image`. pools: name -> `embeddings/<model>/…`, of
        which the first names the neurons. labels (image, attribute), value_name (attribute, value): of these images.
    The other arguments are params (`neurons`, `concepts.percentile`). Raises as `rank_one` and `neuron_texts`.
    """
    norms = effect_norms(effects)
    form = rank_one(effects, largest, norms=norms)
    top = form["top"].values
    told = neuron_texts(form["r"], pools, sizes, sparsity=sparsity, steps=texts)
    found = form.drop_vars("top").drop_attrs(deep=False).assign({name: told[name] for name in told.data_vars})
    found = found.assign(
        top_image=(("neuron", "rank"), effects["image"].values.astype(str)[top]),
        threshold=("neuron", np.percentile(norms.values, percentile, axis=0).astype(np.float32)),
        through=through_heads(effects, form),
    )
    pool = next(iter(pools.values()))
    beyond = _beyond_mean(effects["embedding"].values)
    groups, counts = _groups(beyond, top[:, :grouped], separation)
    found = found.assign(image_group=(("neuron", "grouped"), groups), image_groups=("neuron", counts))
    groups, counts = _text_groups(pool, told.isel(pool=0), separation)
    found = found.assign(text_group=(("neuron", "step"), groups), text_groups=("neuron", counts))
    # as many images drawn anyhow: how often the same rule finds groups among them
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(np.arange(len(beyond)), (min(len(top), _DRAWN), 1)), axis=1)[
        :, : min(grouped, top.shape[1])
    ]
    found.attrs["polysemantic"] = float((found["image_groups"] > 1).mean())
    found.attrs["polysemantic_chance"] = float((_groups(beyond, drawn, separation)[1] > 1).mean())
    found.attrs["polysemantic_drawn"] = len(drawn)
    shared = shared_values(top, labels, value_name)
    found = found.assign(image_attribute=shared["image_attribute"], image_value=shared["image_value"])
    named = named_values(*(told[name][0] for name in ("weight", "text_attribute", "text_value")))
    try:
        truth = value_agreement(
            *(shared["image_attribute"], shared["image_value"], named["attribute"], named["value"]),
            seed=seed,
            permutations=permutations,
        )
        found.attrs |= truth._asdict()
    except DataError as error:
        found.attrs["truth_skipped"] = str(error)
    return found


def top_maps(
    clip: Clip, pixels: xr.DataArray, layer: int, top: Int[np.ndarray, "shown k"], neurons: Sequence[int], *, batch: int
) -> Float32[np.ndarray, "shown k gy gx"]:
    """Activation maps of each of these neurons on its own k images; each image goes through the model once.

    pixels: (image, y, x, rgb) uint8, `top`: positions along it. Raises as `token_activations`.
    """
    chosen, place = np.unique(top, return_inverse=True)
    place = place.reshape(top.shape)
    found = None
    for start in range(0, len(chosen), batch):
        rows = chosen[start : start + batch]
        images = clip.preprocess(pixels.isel(image=rows).values)
        maps = token_activations(clip.model, images, layer, neurons=neurons).values
        found = np.zeros((*top.shape, *maps.shape[2:]), np.float32) if found is None else found
        neuron, k = np.nonzero((place >= start) & (place < start + len(rows)))
        found[neuron, k] = maps[place[neuron, k] - start, neuron]
    assert found is not None
    return found


def _beyond_mean(embeddings: Float32[np.ndarray, "image embed"]) -> Float32[np.ndarray, "image embed"]:
    """Unit embeddings less their mean, which all images share."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit - unit.mean(0)


def _groups(
    vectors: Float32[np.ndarray, "image embed"], sets: Int[np.ndarray, "set item"], separation: float
) -> tuple[np.ndarray, np.ndarray]:
    parts = [separated(vectors[sets[at : at + _SETS]], separation=separation) for at in range(0, len(sets), _SETS)]
    return np.concatenate([groups for groups, _ in parts]), np.concatenate([counts for _, counts in parts])


def _text_groups(pool: xr.Dataset, told: xr.Dataset, separation: float) -> tuple[np.ndarray, np.ndarray]:
    embedded, texts = pool["embedding"].values, pool["text"].values.astype(str).tolist()
    centred, place = embedded - embedded.mean(0), {text: row for row, text in enumerate(texts)}
    rows = np.array([[place.get(text, 0) for text in row] for row in told["text"].values.tolist()])
    return separated(centred[rows], valid=told["weight"].values > 0, separation=separation)
