"""Decompose: whether modules whose work is done by hand here do just what their kind does, and nothing beside."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from optogram.errors import ModelError

_KNOWN = ("torch.nn.", "open_clip.", "timm.")


def check_own_work(modules: Mapping[str, nn.Module]) -> None:
    """Raises ModelError for a module, by its name, that a hook, a wrapper or another forward lets do something else.

    The decomposition computes what these modules compute, from their weights, and would pass such work by.
    """
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        raise ModelError(
            "a global forward hook is registered on all modules, which the decomposition would pass by. Remove it "
            "(handle.remove()) before the model is decomposed."
        )
    for name, module in modules.items():
        # a module of TorchScript has no forward of Python
        own = getattr(getattr(type(module), "forward", None), "__module__", "")
        known = f"{own}.".startswith(_KNOWN)
        found = {
            "a forward hook": bool(module._forward_hooks),
            "a forward pre-hook": bool(module._forward_pre_hooks),
            "a forward of its own": "forward" in vars(module),
            f"the forward of {type(module).__module__}.{type(module).__name__}": not known,
        }
        if any(found.values()):
            raise ModelError(
                f"Cannot decompose this model: {name} ({type(module).__name__}) has "
                f"{next(what for what, there in found.items() if there)}, which the decomposition would pass by; "
                "expected the library's own module, without hooks. Remove the hook or wrapper (merge adapters first), "
                "or hook an MLP, which is run as it is."
            )


@torch.no_grad()
def check_embedding(model: nn.Module, images: Tensor, embedding: np.ndarray) -> None:
    """Raises ModelError unless the model itself gives the first image this embedding, to half of its digits."""
    own = getattr(model, "encode_image", model)(images[:1])
    own = (own[0] if isinstance(own, tuple) else own)[0]
    found = torch.from_numpy(embedding).to(own.device)
    off, size = float((own.float() - found).abs().max()), float(own.abs().max())
    if off > torch.finfo(images.dtype).eps ** 0.5 * size:
        raise ModelError(
            f"Cannot decompose this model: its own embedding of the first image differs from the sum of its parts by "
            f"{off:.2g}, where its largest entry is {size:.2g}. Something in it does more than its architecture says: "
            "remove hooks, wrappers and changed methods."
        )
