"""Room models: a diffusion model as a folder in diffusers' layout, saved and loaded.

`unet/` or `transformer/`, `scheduler/` and `vae/` are diffusers' own, and open there. Ours may have a `codec/`
(`Patches`) in place of `vae/`, and a CLIP's model folder as `text_encoder/`; a Stable Diffusion folder has
transformers' `text_encoder/` and `tokenizer/`. Weights are safetensors only.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from optogram.errors import ExtraError, ModelError, nearest
from optogram.models.generative.codecs import Autoencoder, Patches
from optogram.models.generative.diffusion import Diffusion, Transformer, UNet
from optogram.models.generative.schedules import Schedule
from optogram.models.generative.texts import ClipTexts, Texts, TransformersTexts
from optogram.models.loading.architectures import factory
from optogram.models.loading.checkpoints import fit_weights, read_checkpoint, select_weights
from optogram.models.loading.clip_folders import load_clip, pick_device, save_clip
from optogram.models.loading.model_files import CONFIG, WEIGHTS, check_files, fill, new_folder, unreadable, write_model

INDEX = "model_index.json"
HISTORY = "history.json"
SCHEDULER = "scheduler_config.json"
_DENOISERS = {"unet": ("UNet2DConditionModel", UNet), "transformer": ("PixArtTransformer2DModel", Transformer)}
"""By its folder's name, what diffusers calls a denoiser, and what makes it one of ours."""
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_diffusion(
    diffusion: Diffusion,
    path: Path | str,
    *,
    history: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the folder of a diffusion model of ours, whole or not at all; weights as `dtype`.

    history: kept in history.json beside them.

    Raises ModelError if `path` exists, and for parts that a folder of ours does not hold: a denoiser other than a
    UNet or a transformer, a codec other than `Patches` or diffusers' autoencoders, texts other than a CLIP's.
    """
    denoiser, codec, texts = diffusion.denoiser, diffusion.codec, diffusion.texts
    if (
        not isinstance(denoiser, UNet | Transformer)
        or not isinstance(codec, Patches | Autoencoder)
        or not isinstance(texts, ClipTexts)
    ):
        kinds = ", ".join(type(part).__name__ for part in (denoiser, codec, texts))
        raise ModelError(
            f"A folder holds a UNet or a Transformer, Patches or an Autoencoder, and ClipTexts; found {kinds}."
        )
    name, made = ("codec", "Patches") if isinstance(codec, Patches) else ("vae", type(codec.autoencoder).__name__)
    network = getattr(denoiser, denoiser.part)
    index = {
        "_class_name": "Diffusion",
        denoiser.part: ["diffusers", type(network).__name__],
        "scheduler": ["diffusers", diffusion.schedule.config["_class_name"]],
        name: ["optogram" if name == "codec" else "diffusers", made],
        "text_encoder": ["optogram", "ClipTexts"],
    }
    with new_folder(Path(path)) as part:
        _write_json(part / INDEX, index)
        _write_diffusers(part / denoiser.part, network, dtype)
        (part / "scheduler").mkdir()
        _write_json(part / "scheduler" / SCHEDULER, dict(diffusion.schedule.config))
        if isinstance(codec, Patches):
            (part / name).mkdir()
            write_model(part / name, {"factor": codec.factor, "channels": codec.channels}, codec, torch.float32)
        else:
            _write_diffusers(part / name, codec.autoencoder, dtype)
        save_clip(texts.clip, part / "text_encoder", dtype=dtype)
        if history is not None:
            _write_json(part / HISTORY, history)


def copy_diffusion(source: Path | str, path: Path | str) -> None:
    """Write the folder of a diffusion model anew with what is read of `source`: its parts' configs and safetensors.

    Raises ModelError if `source` cannot be loaded, and if `path` exists.
    """
    source = Path(source)
    load_diffusion(str(source), device="cpu")
    index = _read_json(source / INDEX)
    parts = [_part(index), "scheduler", "codec" if "codec" in index else "vae", "text_encoder", "tokenizer"]
    with new_folder(Path(path)) as made:
        _write_json(made / INDEX, index)
        for folder in (source / part for part in parts if (source / part).is_dir()):
            (made / folder.name).mkdir()
            for file in sorted(folder.iterdir()):
                if file.suffix in (".json", ".txt", ".gz", ".model", ".safetensors") and file.is_file():
                    shutil.copyfile(file, made / folder.name / file.name)


def load_diffusion(spec: str, *, checkpoint: str | Path | None = None, device: str = "auto") -> Diffusion:
    """The diffusion model that `spec` names, in eval mode, float32, without gradients.

    spec: `diffusers:PATH` or a path, of a folder in diffusers' layout (Stable Diffusion 1.x and 2.x among them); or
    `callable:MODULE:FACTORY`, a function without arguments that returns a `Diffusion`, whose denoiser a `checkpoint`
    fills. device: `auto` is CUDA where there is one.

    Raises ModelError for a folder without one of its parts (which it names), a part or a scheduler of a kind that is
    not known, weights that are no safetensors, and parts that do not fit each other.
    """
    where = pick_device(device)
    kind, _, name = spec.partition(":")
    if kind == "callable":
        return _callable(spec, name, None if checkpoint is None else Path(checkpoint), where)
    path = Path(name if kind == "diffusers" else spec)
    if checkpoint is not None:
        raise ModelError(f"{path} is a folder with weights of its own. Leave the checkpoint {checkpoint} out.")
    return _folder(path, where)


def _folder(path: Path, where: torch.device) -> Diffusion:
    index = _read_json(_there(path, INDEX))
    name, (kind, adapter) = _part(index), _DENOISERS[_part(index)]
    network = _diffusers_part(path, index, name, (kind,))
    schedule = Schedule(_read_json(_there(path, "scheduler", SCHEDULER)))
    denoiser, codec = adapter(network).to(where).eval().requires_grad_(False), _codec(path, index).to(where)
    codec.eval().requires_grad_(False)
    size = network.config["sample_size"]
    rows, columns = (size, size) if isinstance(size, int) else size
    channels = "out_channels" if name == "unet" else "in_channels"  # the others are places, or a variance
    shape = (int(network.config[channels]), int(rows), int(columns))
    return Diffusion(codec, denoiser, schedule, _texts(path, index, where), shape, where)


def _part(index: Mapping[str, Any]) -> str:
    """The name of the denoiser's folder."""
    return "transformer" if "transformer" in index else "unet"


def _codec(path: Path, index: Mapping[str, Any]) -> Patches | Autoencoder:
    if "codec" not in index:
        return Autoencoder(_diffusers_part(path, index, "vae", ("AutoencoderKL", "AutoencoderTiny")))
    folder = path / "codec"
    check_files(folder, [CONFIG, WEIGHTS])
    config = _read_json(folder / CONFIG)
    try:
        codec = Patches(int(config["factor"]), int(config["channels"]))
        weights = load_file(folder / WEIGHTS)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise unreadable(folder, error) from error
    fill(codec, weights, folder)
    return codec


def _texts(path: Path, index: Mapping[str, Any], where: torch.device) -> Texts:
    library, kind = _kind(path, index, "text_encoder")
    if library == "optogram":
        return ClipTexts(load_clip(path / "text_encoder", str(where)))
    if kind != "CLIPTextModel":
        raise _unknown(path, "text_encoder", kind, ("CLIPTextModel",))
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError:
        raise ExtraError(f"The text encoder of {path}", "transformers") from None
    _there(path, "text_encoder", CONFIG)
    _there(path, "tokenizer")
    encoder = _loaded(path / "text_encoder", CLIPTextModel.from_pretrained, dtype=torch.float32)
    tokenizer = _loaded(path / "tokenizer", CLIPTokenizer.from_pretrained, safe=False)
    return TransformersTexts(encoder.to(where).eval().requires_grad_(False), tokenizer)


def _diffusers_part(path: Path, index: Mapping[str, Any], name: str, kinds: tuple[str, ...]) -> Any:
    import diffusers

    _, kind = _kind(path, index, name)
    if kind not in kinds:
        raise _unknown(path, name, kind, kinds)
    _there(path, name, CONFIG)
    return _loaded(
        path / name, getattr(diffusers, kind).from_pretrained, torch_dtype=torch.float32, low_cpu_mem_usage=False
    )


def _loaded(folder: Path, load: Callable[..., Any], *, safe: bool = True, **options: Any) -> Any:
    """A part of a folder, from its files alone. ModelError if they cannot be read."""
    try:
        return load(str(folder), local_files_only=True, **({"use_safetensors": True} if safe else {}), **options)
    except Exception as error:  # each library has its own way to refuse a file
        raise ModelError(
            f"{folder} cannot be read: {str(error) or type(error).__name__}. Expected weights as safetensors that fit "
            f"its {CONFIG}; convert or pull them again."
        ) from error


def _kind(path: Path, index: Mapping[str, Any], name: str) -> tuple[str, str]:
    found = index.get(name)
    if not isinstance(found, list) or len(found) != 2 or None in found:
        has = ", ".join(sorted(key for key in index if not key.startswith("_")))
        raise ModelError(
            f"{path} is without {name}: {INDEX} names {has or 'no parts'}. Expected unet or transformer, scheduler, "
            f"text_encoder, and vae or codec.{nearest(name, list(index))}"
        )
    return str(found[0]), str(found[1])


def _unknown(path: Path, name: str, kind: str, known: tuple[str, ...]) -> ModelError:
    return ModelError(
        f"{path}: {name} is a {kind}, expected {' or '.join(known)}. Write a factory that returns a Diffusion, and "
        "name it as callable:MODULE:FACTORY."
    )


def _there(path: Path, *names: str) -> Path:
    """The path below a folder. ModelError that names the part if it is not there."""
    place = path.joinpath(*names)
    if not place.exists():
        raise ModelError(
            f"{path} is no folder of a diffusion model: {'/'.join(names)} is missing. Expected diffusers' layout: "
            f"{INDEX}, unet or transformer, scheduler, text_encoder, and vae or codec."
        )
    return place


def _callable(spec: str, name: str, checkpoint: Path | None, where: torch.device) -> Diffusion:
    make = factory(spec, name)
    try:
        made: Any = make()
    except Exception as error:
        raise ModelError(f"{spec}: the factory failed: {type(error).__name__}: {error}.") from error
    if not isinstance(made, Diffusion):
        raise ModelError(f"{spec}: the factory returned {type(made).__name__}; expected an optogram Diffusion.")
    modules = [part for part in (made.denoiser, made.codec) if isinstance(part, nn.Module)]
    if checkpoint is not None:
        if not isinstance(made.denoiser, nn.Module):
            raise ModelError(f"{spec}: its denoiser is no torch module, which a checkpoint could fill. Leave it out.")
        fit_weights(
            made.denoiser,
            select_weights(read_checkpoint(checkpoint), made.denoiser.state_dict(), checkpoint),
            checkpoint,
            spec,
        )
    for module in modules:
        module.to(where).eval().requires_grad_(False)
    return replace(made, device=where)


def _write_diffusers(folder: Path, model: Any, dtype: torch.dtype) -> None:
    """A part as diffusers reads it, without what it would note of versions and of where it was loaded from."""
    folder.mkdir()
    kept = {key: value for key, value in dict(model.config).items() if not key.startswith("_")}
    _write_json(folder / CONFIG, {"_class_name": type(model).__name__, **kept})
    weights: dict[str, Tensor] = {
        name: w.detach().to("cpu", dtype if w.is_floating_point() else w.dtype).contiguous()
        for name, w in model.state_dict().items()
    }
    save_file(weights, folder / DIFFUSERS_WEIGHTS, metadata={"format": "pt"})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise unreadable(path, ValueError(f"holds a {type(content).__name__}, expected an object"))
    return content
