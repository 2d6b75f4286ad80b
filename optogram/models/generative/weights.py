"""Room models: the weights of a generative model, whose parts may come as a checkpoint each."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from optogram.errors import ModelError, nearest
from optogram.models.loading.checkpoints import fit_weights, read_checkpoint, select_weights

Checkpoints = str | Path | Mapping[str, str | Path]
"""A checkpoint of a whole module, or one for each of its parts by the part's name ("decoder", "net.encoder")."""


def fill_from(module: nn.Module, checkpoint: Checkpoints, spec: str) -> None:
    """Load a checkpoint, or one a part, into the module; types are converted, names and shapes must be the module's.

    spec: what errors call the module.

    Raises ModelError as `read_checkpoint`, `select_weights` and `fit_weights`; for a part that the module lacks, with
    the nearest names; and if parts with tensors are left without a checkpoint, before any file is read.
    """
    if not isinstance(checkpoint, Mapping):
        _fill(module, Path(checkpoint), spec)
        return
    modules = {name: part for name, part in module.named_modules() if name}
    for name in checkpoint:
        if name not in modules:
            raise ModelError(
                f"{spec} has no part {name!r}, for which there is a checkpoint. Expected some of "
                f"{', '.join(dict(module.named_children()))}.{nearest(name, list(modules))}"
            )
    given = tuple(f"{name}." for name in checkpoint)
    if left := [tensor for tensor in module.state_dict() if not tensor.startswith(given)]:
        parts = list(dict.fromkeys(tensor.partition(".")[0] for tensor in left))
        raise ModelError(
            f"{spec}: no checkpoint for {', '.join(parts)} (such as the tensor {left[0]}); given are those of "
            f"{', '.join(checkpoint) or 'nothing'}. Name one for each part."
        )
    for name, path in checkpoint.items():
        _fill(modules[name], Path(path), f"the {name} of {spec}")


def _fill(module: nn.Module, path: Path, spec: str) -> None:
    weights = select_weights(read_checkpoint(path), module.state_dict(), path)
    fit_weights(module, weights, path, spec)
