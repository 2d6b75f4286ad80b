"""Room models: local checkpoints, read without running any code in them, and fitted to a model exactly or refused."""

import pickle
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from optogram.errors import ModelError, nearest
from optogram.models.loading.file_kinds import SAFETENSORS, TORCH, TORCHSCRIPT, file_kind
from optogram.progress import say

StateDicts = dict[str, dict[str, Tensor]]
"""The state dicts of a file by where they are in it: "" for the file itself, else such as "['model_ema']"."""

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Where training code usually puts the weights; they go before other state dicts where names tell nothing."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Left by DataParallel, torch.compile and Lightning; dropped where every tensor has them and the model has not."""

_COUNTERS = ("num_batches_tracked", "n_averaged")
"""Of batches and averaged models: they matter to training only, and PyTorch before 0.4.1 did not save the first."""

_FOREIGN = (
    (r"(text|vision)_model\.", "Hugging Face transformers has for a CLIP", "Give the file for open_clip instead"),
    (r"embeddings\.patch_embeddings\.", "Hugging Face transformers has", "Give the file for timm instead"),
    (r"lora_[AB]\.", "an adapter (LoRA) has", "Merge it into its model first, and save that"),
)


def read_checkpoint(path: Path) -> StateDicts:
    """The state dicts in a safetensors file, or in a PyTorch file read with `weights_only=True`, on the CPU.

    Raises ModelError if the file is missing, damaged, something else, holds no tensors, or Python objects beside them.
    """
    try:
        _check_exists(path)
    except OSError as error:
        raise ModelError(
            f"checkpoint {path} cannot be reached ({error.strerror}). Expected a .safetensors or .pt file: check its "
            "name and the permissions of the folders above it."
        ) from error
    try:
        kind, advice = file_kind(path)
        if kind == SAFETENSORS:
            return {"": load_file(path)}
        if kind == TORCHSCRIPT:
            raise ModelError(
                f"checkpoint {path} is a TorchScript program, as OpenAI's own files are, and is refused. If you trust "
                "its source, convert it once: safetensors.torch.save_file(torch.jit.load(...).state_dict(), ...)."
            )
        if kind != TORCH:
            reason = f": it is {kind}" if kind else ""
            raise ModelError(f"checkpoint {path} is damaged or no checkpoint{reason}. {advice}.")
        with warnings.catch_warnings(), path.open("rb") as file:  # of a path, torch.load goes by the suffix
            warnings.simplefilter("ignore")  # on the format, which is checked here
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _not_only_tensors(path, error) from error
    except PermissionError as error:
        raise ModelError(f"checkpoint {path} cannot be read ({error.strerror}). Change its permissions.") from error
    except (RuntimeError, SafetensorError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as e:
        reason = str(e).splitlines()[0] if str(e) else "it ends too early"
        raise ModelError(f"checkpoint {path} is damaged or no checkpoint ({reason}). Download or save it again.") from e
    return _state_dicts(content, path)


def _check_exists(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        inside = [f.name for f in sorted(path.iterdir()) if f.suffix in (".safetensors", ".pt", ".pth", ".bin")]
        advice = f" Give one in it: {', '.join(inside[:5])}." if inside else ""
        raise ModelError(f"checkpoint {path} is a folder; expected a .safetensors or .pt file.{advice}")
    if path.is_symlink():
        raise ModelError(f"checkpoint {path} is a link to {path.readlink()}, which is not there. Download it again.")
    if re.match(r"\w+:/", str(path)):
        raise ModelError(f"checkpoint {path} is an address; expected a file. Download it, and give its path.")
    if path.exists():
        raise ModelError(
            f"checkpoint {path} is a pipe or a device; expected a .safetensors or .pt file. Save it as one."
        )
    siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ModelError(
        f"checkpoint {path} does not exist; expected a .safetensors or .pt file.{nearest(path.name, siblings)}"
    )


def _not_only_tensors(path: Path, error: Exception) -> ModelError:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return ModelError(
            f"checkpoint {path} is damaged or no checkpoint, or saved with a pickle protocol above 3, which cannot be "
            "read without running code. Download it again, or save it again with torch.save's own protocol."
        )
    return ModelError(
        f"checkpoint {path} is refused: it holds more than tensors (first: {found[1]}), and to load Python objects can "
        "run any code. Convert it once where it was made: torch.save(model.state_dict(), ...) or "
        "safetensors.torch.save_file(model.state_dict(), ...)."
    )


def _state_dicts(content: Any, path: Path) -> StateDicts:
    found = dict(_walk(content, ""))
    if not found:
        entries = ""
        if isinstance(content, Mapping):
            entries = f"the entries {', '.join(map(str, list(content)[:5]))}" if content else "a dict without entries"
        raise ModelError(
            f"checkpoint {path}: expected a state dict (tensors by name, perhaps under a key such as state_dict), "
            f"found {entries or type(content)}. Save model.state_dict()."
        )
    return found


def _walk(content: Any, where: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """State dicts in nested mappings. Those of optimizers are none: they number their tensors."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield where, dict(content)
        return
    for key, value in content.items():
        yield from _walk(value, f"{where}[{key!r}]")


def select_weights(found: StateDicts, required: Collection[str], path: Path) -> dict[str, Tensor]:
    """The weights of the model whose tensors are `required`, without the prefix that training code put before them.

    That is the one state dict, and the one prefix in it, under which all of them are; what lies beside is said. If no
    state dict has them all, the only one is returned, for the caller to rename or refuse.

    Raises ModelError if several models in the file fit and differ, or if none of several state dicts does.
    """
    required = {name for name in required if not name.endswith(_COUNTERS)}
    fits = [(where, prefix) for where, names in found.items() for prefix in _prefixes(names, required)]
    if not fits:
        usual = [where for where in found if where in {f"[{wrapper!r}]" for wrapper in _WRAPPERS}]
        likely = usual if len(usual) == 1 else list(found)
        if len(likely) > 1:
            raise ModelError(
                f"checkpoint {path} holds {len(found)} state dicts ({_some(likely)}), and none has the tensors of this "
                f"model. If one of them is the model under other names, save it alone: "
                f"{_how_to_choose(path, likely[0], '')}."
            )
        return _strip(found[likely[0]], required)
    models = [_under(found[where], prefix) for where, prefix in fits]
    if not all(_equal(models[0], other) for other in models[1:]):
        places = ", ".join(_place(where, prefix) for where, prefix in fits)
        raise ModelError(
            f"checkpoint {path} holds {len(fits)} models of this kind with different weights: {places}. Choose one: "
            f"{_how_to_choose(path, *fits[-1])}."
        )
    where, prefix = fits[0]
    beside = [n for n in found[where] if not n.startswith(tuple(p for w, p in fits if w == where))]
    beside = [name for name in beside if not name.endswith(_COUNTERS)]
    beside += [place for place in found if place not in dict(fits)]
    if beside:
        say(f"checkpoint {path}: the model is {_place(where, prefix)}. Not used, beside it: {_some(beside)}.")
    return models[0]


def _prefixes(names: Collection[str], required: set[str]) -> list[str]:
    """The prefixes, "" among them, with which all required names are there."""
    if not required:
        return [""]
    longest = max(sorted(required), key=len)
    likely = {name.removesuffix(longest) for name in names if f".{name}".endswith(f".{longest}")}
    return [prefix for prefix in sorted(likely) if all(f"{prefix}{name}" in names for name in required)]


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    of = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    return {name: w for name, w in of.items() if not (name == "n_averaged" and w.ndim == 0)}


def _strip(weights: dict[str, Tensor], required: set[str]) -> dict[str, Tensor]:
    weights = _under(weights, "")
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(n.startswith(prefix) for n in weights) and not any(n.startswith(prefix) for n in required):
                weights = _under(weights, prefix)
    return weights


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        w.shape == other[name].shape and w.dtype == other[name].dtype and torch.equal(w, other[name])
        for name, w in one.items()
    )


def _place(where: str, prefix: str) -> str:
    return " ".join(part for part in (where, f"{prefix}*" if prefix else "") if part) or "at its top"


def _how_to_choose(path: Path, where: str, prefix: str) -> str:
    of = f"n[{len(prefix)}:]: w for n, w" if prefix else "n: w for n, w"
    only = f" if n.startswith({prefix!r})" if prefix else ""
    tensors = path.suffix == ".safetensors"
    load = f"load_file({path.name!r})" if tensors else f"torch.load({path.name!r}, weights_only=True)"
    return f"torch.save({{{of} in {load}{where}.items(){only}}}, 'chosen.pt')"


def fit_weights(model: nn.Module, weights: dict[str, Tensor], checkpoint: Path, spec: str) -> None:
    """Load the weights into the model; types are converted, shapes and names must be the model's.

    Raises ModelError as `check_fit` and `check_values`.
    """
    check_fit(model, weights, checkpoint, spec)
    check_values(model, weights, checkpoint, spec)
    model.load_state_dict(weights, strict=False)


def check_fit(model: nn.Module, weights: dict[str, Tensor], checkpoint: Path, spec: str) -> None:
    """Raises ModelError that names the first tensor of another shape, else the missing and the unexpected ones."""
    expected = model.state_dict()
    differ = [name for name, tensor in expected.items() if name in weights and weights[name].shape != tensor.shape]
    missing = [name for name in expected if name not in weights and not name.endswith(_COUNTERS)]
    unexpected = sorted(name for name in weights if name not in expected)
    advice = "Give the spec of the model that the checkpoint was saved from, or another checkpoint"
    if differ:
        name = differ[0]
        more = f" ({len(differ) - 1} more tensors differ)" if len(differ) > 1 else ""
        problem = f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}{more}"
    elif missing or unexpected:
        lists = (("missing", missing), ("unexpected", unexpected))
        problem = "; ".join(f"{len(names)} tensors {what}: {_some(names)}" for what, names in lists if names)
        for pattern, whose, instead in _FOREIGN:
            if any(re.search(pattern, name) for name in unexpected):
                problem, advice = f"{problem}. These are names as {whose}", instead
                break
    else:
        return
    raise ModelError(f"checkpoint {checkpoint} does not fit {spec}: {problem}. {advice}.")


def check_values(model: nn.Module, weights: dict[str, Tensor], checkpoint: Path, spec: str) -> None:
    """Raises ModelError for quantised weights, sparse ones, none (meta), and NaN or infinity among them.

    Buffers may be infinite, as masks are.
    """
    expected = model.state_dict()
    advice = "Give the checkpoint from before it was quantised"
    shared = weights.keys() & expected.keys()
    buffers = expected.keys() - {name for name, _ in model.named_parameters()}
    if bare := [name for name, weight in weights.items() if weight.is_meta or weight.layout != torch.strided]:
        problem = f"no dense values in {_some(bare)}, but {_kind(weights[bare[0]])}; expected a plain tensor"
        advice = "Save model.state_dict() with its values"
    elif any(weights[name].is_floating_point() != expected[name].is_floating_point() for name in shared):
        problem = "quantised weights; expected floating-point ones"
    elif broken := [name for name, weight in weights.items() if _has(torch.isnan, weight)]:
        problem, advice = f"NaN in {_some(broken)}", "Training had diverged: give an earlier checkpoint"
    elif broken := [name for name in weights if name not in buffers and _has(torch.isinf, weights[name])]:
        problem, advice = f"infinity in {_some(broken)}", "Training had diverged: give an earlier checkpoint"
    else:
        return
    raise ModelError(f"checkpoint {checkpoint} does not fit {spec}: {problem}. {advice}.")


def _kind(weight: Tensor) -> str:
    return "a tensor on the meta device" if weight.is_meta else f"a {weight.layout} one"


def _has(what: Callable[[Tensor], Tensor], weight: Tensor) -> bool:
    return weight.is_floating_point() and bool(what(weight.float()).any())


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
