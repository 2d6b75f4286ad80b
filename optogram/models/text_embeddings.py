"""Room models: text pools and zero-shot classifiers, as a CLIP embeds them."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from optogram.data.pools import is_random, random_vectors
from optogram.errors import DataError
from optogram.models.loading.clip_folders import Clip, encode_texts


def embed_pool(clip: Clip, pool: xr.Dataset, *, batch: int = 256, seed: int = 0) -> xr.Dataset:
    """A texts/<pool> dataset as embeddings/<model>/<pool>: unit `embedding` (text, embed), `attribute`, `value`.

    The names of the `random` pool become Gaussian directions drawn from `seed`, not embeddings of the names.
    Raises DataError for a text that is too long for the model, or that it maps to no finite direction.

    >>> from optogram.data import pool
    >>> from optogram.models import embed_pool
    >>> found = embed_pool(clip, pool("class").isel(text=slice(3)))
    >>> found.embedding.dims, found.embedding.shape
    (('text', 'embed'), (3, 16))
    """
    texts = [str(text) for text in pool["text"].values]
    if is_random(texts):
        width = encode_texts(clip, ["a"]).shape[1]
        embedding = random_vectors(len(texts), width, seed)
    else:
        embedding = encode_texts(clip, texts, batch).numpy()
    finite = np.isfinite(embedding).all(1)
    if not finite.all():
        raise DataError(f"text {texts[int(np.argmin(finite))]!r} has no finite embedding. Check the model's weights.")
    return pool[["attribute", "value"]].assign(embedding=(("text", "embed"), embedding))


def embed_zeroshot(clip: Clip, prompts: Sequence[tuple[str, str, Sequence[str]]], *, batch: int = 256) -> xr.Dataset:
    """(attribute, value, prompts) for each class as embeddings/<model>/zeroshot: `classifier` (class, embed).

    A class's row is the mean over its prompts of their unit embeddings, scaled to unit norm (Radford et al. 2021,
    section 3.1.4). Raises DataError if there are no classes or a prompt is too long for the model.

    >>> from optogram.models import embed_zeroshot
    >>> found = embed_zeroshot(clip, [("shape", "star", ["a star", "one star"]), ("shape", "ring", ["a ring"])])
    >>> found.classifier.shape, found.value.values.tolist()
    ((2, 16), ['star', 'ring'])
    """
    if not prompts or not all(texts for *_, texts in prompts):
        raise DataError("zero-shot classifier: expected at least one class, and a prompt for each.")
    texts = sorted({text for *_, texts in prompts for text in texts})
    place = {text: row for row, text in enumerate(texts)}
    embedding = encode_texts(clip, texts, batch).double()
    means = torch.stack([embedding[[place[text] for text in texts]].mean(0) for *_, texts in prompts])
    classifier = torch.nn.functional.normalize(means, dim=-1).float().numpy()
    attributes, values = ([row[k] for row in prompts] for k in range(2))
    names = [f"{attribute}:{value}" for attribute, value in zip(attributes, values, strict=True)]
    return xr.Dataset(
        {
            "classifier": (("class", "embed"), classifier),
            "attribute": ("class", np.array(attributes, str)),
            "value": ("class", np.array(values, str)),
        },
        coords={"class": ("class", np.array(names, str))},
    )
