"""Methods, guidance: what classifiers say of pictures as they are stored."""

import numpy as np
import torch
from jaxtyping import Float, UInt8

from optogram.models.loading.classifiers import Classifier

BATCH = 64


def probabilities(
    classifier: Classifier, pixels: UInt8[np.ndarray, "image y x rgb"]
) -> Float[np.ndarray, "image class"]:
    """What a classifier says of pictures, by its own preprocessing."""
    where = next(classifier.model.parameters()).device
    with torch.no_grad():
        parts = [
            classifier.model(classifier.preprocess(pixels[at : at + BATCH]).to(where)).softmax(1).float().cpu()
            for at in range(0, len(pixels), BATCH)
        ]
    return torch.cat(parts).numpy()
