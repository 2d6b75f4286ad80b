"""Room models: a classifier as a folder on disk (config.json, model.safetensors), saved and loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from optogram.errors import ModelError
from optogram.models.loading.architectures import build_architecture, told_by_model
from optogram.models.loading.classifiers import Classifier, load_classifier
from optogram.models.loading.clip_folders import Preprocess
from optogram.models.loading.model_files import classifier_config, misfit, new_folder, write_model


def save_classifier(
    classifier: Classifier,
    path: Path | str,
    *,
    spec: str,
    arguments: dict[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the folder, whole or not at all; weights as `dtype`.

    spec, arguments: what `build_architecture` makes the same module of; what torchvision's builders set because of the
    weights is added (`told_by_model`). Of a preprocessing other than our own, size,
    mean and std are kept, not how it crops: torchvision's may scale an image to 232 and cut out 224.

    Raises ModelError if `path` exists, if spec and arguments give another module, if the number of classes is not that
    of the logits, and for images that are not square.
    """
    path, size, preprocess = Path(path), classifier.size, classifier.preprocess
    arguments = told_by_model(spec, arguments, classifier.model)
    if size is not None and size[0] != size[1]:
        raise ModelError(f"{spec} takes images of {size[0]} x {size[1]}; a model folder holds square sizes only.")
    _check_classes(classifier, spec)
    if not isinstance(preprocess, Preprocess) and size is not None:
        preprocess = Preprocess(size[0], classifier.mean, classifier.std)
    kept = vars(preprocess) if isinstance(preprocess, Preprocess) else {"mean": classifier.mean, "std": classifier.std}
    config = {
        "kind": "classifier",
        "spec": spec,
        "arguments": arguments,
        "classes": list(classifier.classes),
        "attribute": classifier.attribute,
        "preprocess": kept,
    }
    _check_rebuilt(classifier, spec, arguments)
    with new_folder(path) as part:
        write_model(part, config, classifier.model, dtype)


def _check_rebuilt(classifier: Classifier, spec: str, arguments: dict[str, Any]) -> None:
    """Raises ModelError unless the rebuilt module has the same tensors, and makes the same logits of them."""
    model = build_architecture(spec, arguments).eval()
    if problem := misfit(model, classifier.model.state_dict()):
        raise ModelError(f"{spec} with {arguments} is not the model to be saved: {problem}.")
    where = next(classifier.model.parameters()).device
    model.load_state_dict(classifier.model.state_dict())
    height, width = classifier.size or (64, 64)
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    images = classifier.preprocess(noise).to(where)
    with torch.no_grad():
        expected, found = classifier.model(images), model.to(where)(images)
    if not torch.allclose(expected, found, rtol=1e-3, atol=1e-5):
        raise ModelError(
            f"{spec} with {arguments} has the tensors of the model to be saved, but makes other logits of them "
            f"({found.flatten()[0]:.4g} for {expected.flatten()[0]:.4g}). Name what was set after it was built in "
            "`arguments`."
        )


def _check_classes(classifier: Classifier, spec: str) -> None:
    height, width = classifier.size or (64, 64)
    grey = classifier.preprocess(np.full((1, height, width, 3), 128, np.uint8))
    logits = classifier.model(grey.to(next(classifier.model.parameters()).device)).shape[-1]
    if classifier.classes and len(classifier.classes) != logits:
        raise ModelError(
            f"{spec} has {logits} logits, but {len(classifier.classes)} classes are named "
            f"({', '.join(classifier.classes[:5])}, …). Name one class a logit, in their order."
        )


def load_classifier_folder(path: Path, device: str = "auto") -> Classifier:
    """The classifier of a model folder, in eval mode, float32, without gradients. `auto` is CUDA where there is one.

    Its architecture is rebuilt from the spec, without a network. Raises ModelError if a file is missing or damaged, or
    a tensor does not fit the architecture.
    """
    classifier_config(Path(path))
    return load_classifier(str(path), device=device)
