"""Room models: local checkpoints, read without running any code in them, and fitted to a model exactly or refused."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from optogram.errors import ModelError, nearest

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Left by DataParallel, torch.compile and Lightning; dropped where every tensor has them and the model has not."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a PyTorch file read with `weights_only=True`, by name, on the CPU.

    Raises ModelError if the file is missing, damaged, holds no tensors, or holds Python objects beside them.
    """
    if not path.is_file():
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(
            f"checkpoint {path} {what}; expected a .safetensors or .pt file.{nearest(path.name, siblings)}"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the format, which is checked here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        kind = f" (first: {found[1]})" if found else ""
        raise ModelError(
            f"checkpoint {path} is refused: it holds more than tensors{kind}, and to load Python objects can run any "
            "code. If you trust its source, convert it once with torch.load(..., weights_only=False) and "
            "safetensors.torch.save_file, and give the .safetensors file."
        ) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise ModelError(
                f"checkpoint {path} is a TorchScript program, as OpenAI's own files are, and is refused. If you trust "
                "its source, convert it once: safetensors.torch.save_file(torch.jit.load(...).state_dict(), ...)."
            ) from error
        raise _damaged(path, error) from error
    except (SafetensorError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return _unwrap(content, path)


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0] if str(error) else "it ends too early"
    return ModelError(f"checkpoint {path} is damaged or no checkpoint ({reason}). Download or save it again.")


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = (
            f"the entries {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else type(content)
        )
        raise ModelError(
            f"checkpoint {path}: expected a state dict (tensors by name, perhaps under {', '.join(_WRAPPERS)}), "
            f"found {found}. Save model.state_dict()."
        )
    return dict(content)


def strip_prefixes(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights without a prefix that training code has put before every name."""
    expected = model.state_dict().keys()
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(n.startswith(prefix) for n in weights) and not any(n.startswith(prefix) for n in expected):
                weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    return weights


def fit_weights(model: nn.Module, weights: dict[str, Tensor], checkpoint: Path, spec: str) -> None:
    """Load the weights into the model; types are converted, shapes and names must be the model's.

    Raises ModelError that names the first tensor of another shape, else the missing and the unexpected ones.
    """
    expected = model.state_dict()
    differ = [name for name, tensor in expected.items() if name in weights and weights[name].shape != tensor.shape]
    # counters that PyTorch before 0.4.1 did not save; they matter to training only
    missing = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = sorted(name for name in weights if name not in expected)
    if differ:
        name = differ[0]
        more = f" ({len(differ) - 1} more tensors differ)" if len(differ) > 1 else ""
        problem = f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}{more}"
    elif missing or unexpected:
        lists = (("missing", missing), ("unexpected", unexpected))
        problem = "; ".join(f"{len(names)} tensors {what}: {_some(names)}" for what, names in lists if names)
    else:
        if any(weights[name].is_floating_point() != expected[name].is_floating_point() for name in weights):
            problem = "quantised weights; expected floating-point ones"
        else:
            model.load_state_dict(weights, strict=False)
            return
    raise ModelError(
        f"checkpoint {checkpoint} does not fit {spec}: {problem}. Give the spec of the model that the checkpoint was "
        "saved from, or another checkpoint."
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
