"""For the stage adversarial: scenes as params ask for them, drawn for the CLIP that is to be misled."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from optogram.data.describing import describer
from optogram.data.image_makers import SceneMaker, stated_values
from optogram.data.scenes import ATTRIBUTES
from optogram.methods.neurons.adversarial import binary_accuracy
from optogram.models.loading.clip_folders import Clip, encode_images
from optogram.params.neurons import Adversarial


def refused_texts(pool: xr.Dataset, options: Adversarial) -> np.ndarray:
    """Which texts may be no phrase of a task, (task, text): those that state nothing, or a value of the classes."""
    stated = [stated_values(text) for text in pool.text.values.tolist()]
    refused = np.array([not values or options.attribute in values for values in stated])
    return np.tile(refused, (len(options.pairs), 1))


def what_attack_asks(options: Adversarial, clip: Clip, side: int) -> tuple[Callable[..., Any], ...]:
    """What `attack` calls: descriptions of a task's phrases, images of descriptions, embeddings of images."""
    pairs = [[SceneMaker(options.attribute, value, side) for value in pair] for pair in options.pairs]
    write = describer(options.generator, device=clip.device)
    return (
        lambda task, phrases, count, key: write(phrases, pairs[task][0].noun, pairs[task][1].words, count, key),
        lambda task, texts, count, key: pairs[task][0](texts, count, key),
        lambda pixels: encode_images(clip, pixels).numpy(),
    )


def accuracy_on(images: xr.Dataset, options: Adversarial, clip: Clip, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How often the CLIP tells the classes of each pair apart on the images that are of them, (task,)."""
    values = np.array(ATTRIBUTES[options.attribute])[images.label.sel(attribute=options.attribute).values]
    of = np.isin(values, np.ravel(options.pairs))
    embeddings = encode_images(clip, images.pixels[of].values).numpy()
    return binary_accuracy(embeddings, values[of], options.pairs, own, other)
