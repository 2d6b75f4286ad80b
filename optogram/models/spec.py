"""Room models: names of models. A spec says where a model comes from; loading one gives a module and its preprocessing.

open_clip:ViT-L-14/laion2b_s32b_b82k   an architecture of open_clip, and a pretrained tag or a checkpoint
timm:resnet18.a1_in1k                  a model of timm, its published weights or a checkpoint
torchvision:resnet50/IMAGENET1K_V2     a classifier of torchvision, its published weights or a checkpoint
callable:package.module:factory        a function without arguments that returns a module; a checkpoint
artifacts/models/clip                  a model folder, of a CLIP or of a classifier
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from optogram.errors import ModelError, ShapeError, nearest
from optogram.hub import hub_access, reachable
from optogram.models.architectures import build_architecture, factory, timm_name, torchvision_name
from optogram.models.checkpoint import fit_weights, read_checkpoint, strip_prefixes
from optogram.models.folder import BYTES_AND_MARKS, Clip, Preprocess, Tokenizer, first_merges, load_clip, pick_device
from optogram.models.model_files import WEIGHTS, classifier_config, fill, folder_kind, unreadable

Preprocessing = Callable[[np.ndarray | Sequence[Image.Image]], Tensor]

_KINDS = ("open_clip", "timm", "torchvision", "callable")


@dataclass(frozen=True)
class EachImage:
    """A transform of one PIL image (timm's, torchvision's), applied to each of many."""

    transform: Callable[[Image.Image], Tensor]

    def __call__(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        """Float32 (image, rgb, y, x). Raises ShapeError unless given uint8 (image, y, x, rgb) or PIL images."""
        return torch.stack([self.transform(image.convert("RGB")) for image in _as_pil(images)])


@dataclass(frozen=True)
class UnitRange:
    """(RGB in [0, 1] - mean) / std at the size the images have: by default that of a model that says nothing of it."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __call__(self, images: np.ndarray | Sequence[Image.Image]) -> Tensor:
        """Float32 (image, rgb, y, x). Raises ShapeError unless given uint8 (image, y, x, rgb) or PIL images."""
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in _as_pil(images)])
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return scaled.sub_(mean).div_(std)


def load_model(
    spec: str, *, checkpoint: str | Path | None = None, device: str = "auto"
) -> tuple[nn.Module, Preprocessing]:
    """The model that `spec` names (see the module), in eval mode, without gradients, and its preprocessing.

    checkpoint: a .safetensors file, or a .pt file of tensors; then nothing is downloaded. A tag given with it still
    says how the weights were trained (open_clip:ViT-B-32/openai: activation, colour normalisation); a timm or
    torchvision classifier takes its number of classes from it. The preprocessing takes uint8 pixels
    (image, y, x, rgb) or PIL images to float32 (image, rgb, y, x); a `callable` factory may return it as
    `module, preprocessing`, else it only scales to [0, 1]. device: `auto` is CUDA where there is one.

    Raises ModelError for an unknown kind or name, weights that are neither in the cache nor reachable (at once, and
    saying how to use a local checkpoint), and a checkpoint that is unsafe, damaged or does not fit.
    """
    kind, name = _parse(spec)
    where = pick_device(device)
    path = None if checkpoint is None else Path(checkpoint)
    if kind == "folder" and folder_kind(Path(name)) == "clip":
        clip = _folder(name, path, device)
        return clip.model, clip.preprocess
    loaders = {"open_clip": _open_clip, "timm": _timm, "torchvision": _torchvision, "callable": _callable}
    load = {**loaders, "folder": _classifier_folder}[kind]
    with torch.random.fork_rng(devices=[]):  # what is initialised here is overwritten: leave no trace of it
        model, preprocess = load(spec, name, path)
    return model.to(where).eval().requires_grad_(False), preprocess


def load_clip_spec(spec: str, *, checkpoint: str | Path | None = None, device: str = "auto") -> Clip:
    """The CLIP that `spec` names, with its tokenizer. Raises ModelError as `load_model`, and if it is no CLIP."""
    kind, name = _parse(spec)
    if kind == "folder":
        return _folder(name, None if checkpoint is None else Path(checkpoint), device)
    if kind != "open_clip":
        raise ModelError(f"{spec}: a {kind} model has no text encoder. Expected open_clip:NAME/TAG or a model folder.")
    model, preprocess = load_model(spec, checkpoint=checkpoint, device=device)
    assert isinstance(preprocess, Preprocess)
    name, tag = _architecture_and_tag(spec, name)
    architecture = _open_clip_config(name, tag)
    tokenize = _tokenizer(spec, name, architecture)
    context = architecture["text_cfg"].get("context_length", 77)
    config = {"spec": spec, "architecture": architecture, "preprocess": vars(preprocess)}
    config["tokenizer"] = {"context_length": context}
    if isinstance(tokenize, Tokenizer):
        config["tokenizer"] |= {"kind": "clip-bpe", "merges": tokenize.vocab_size - BYTES_AND_MARKS}
    return Clip(model, preprocess, tokenize, config)  # type: ignore[arg-type]


def _parse(spec: str) -> tuple[str, str]:
    kind, colon, name = spec.partition(":")
    if spec and Path(spec).is_dir():
        return "folder", spec
    if not colon:
        parent = Path(spec).parent
        siblings = [str(path) for path in sorted(parent.iterdir()) if path.is_dir()] if parent.is_dir() else []
        near = nearest(spec, siblings + [f"{known}:{spec}" for known in _KINDS])
        raise ModelError(f"model {spec!r}: no such folder, and no kind before a ':'. Expected {_grammar()}.{near}")
    if kind not in _KINDS:
        raise ModelError(f"model {spec!r}: unknown kind {kind!r}. Expected {_grammar()}.{nearest(kind, list(_KINDS))}")
    if not name:
        raise ModelError(f"model {spec!r} names no model. Expected {_grammar()}.")
    return kind, name


def _grammar() -> str:
    return "open_clip:NAME/TAG, timm:NAME, torchvision:NAME, callable:MODULE:FACTORY, or the path of a model folder"


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines: open_clip warns of random weights before ours are loaded, on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _folder(name: str, checkpoint: Path | None, device: str) -> Clip:
    _no_checkpoint(name, checkpoint)
    if folder_kind(Path(name)) != "clip":
        raise ModelError(f"{name} is the folder of a classifier, which has no text encoder. Give the folder of a CLIP.")
    pick_device(device)
    return load_clip(Path(name), device)


def _classifier_folder(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, Preprocessing]:
    _no_checkpoint(name, checkpoint)
    path = Path(name)
    config = classifier_config(path)
    try:
        said: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config["preprocess"].items()
        }
        preprocess = Preprocess(**said) if "image_size" in said else UnitRange(**said)
        weights = load_file(path / WEIGHTS)
    except (TypeError, OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    model = build_architecture(config["spec"], config["arguments"])
    fill(model, weights, path)
    return model, preprocess


def _no_checkpoint(name: str, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        raise ModelError(f"{name} is a model folder with weights of its own. Leave the checkpoint {checkpoint} out.")


@contextmanager
def _download(spec: str, address: str = "") -> Iterator[None]:
    """Turn any failure to get published weights into an error that says how to do without; never wait for retries.

    address: of the weights, if they are not on the Hugging Face hub; else the hub is asked whether it answers.
    """
    advice = "Without a network download the weights elsewhere, and give the file as `checkpoint`"
    if address:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[-1]
        if not cached.exists() and not reachable(address):
            raise ModelError(
                f"{spec}: {address} cannot be reached, and the weights are not in {cached.parent}. {advice}."
            )
    with hub_access() as online:
        try:
            yield
        except ModelError:
            raise
        except Exception as error:  # each library raises its own for a name, a network or a format problem
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            if not online and not address:
                reason = "the hub cannot be reached, and it is not in the cache"
            raise ModelError(f"{spec}: the weights cannot be had: {reason}. {advice}.") from error


def _open_clip(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, Preprocessing]:
    import open_clip
    from open_clip.pretrained import download_pretrained

    name, tag = _architecture_and_tag(spec, name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and tag not in tags:
        raise ModelError(
            f"{spec}: {name} has no pretrained tag {tag!r}.{nearest(tag, tags)} Its tags: {', '.join(tags)}."
        )
    if not tag and checkpoint is None:
        raise ModelError(
            f"{spec} names no weights. Add a pretrained tag (open_clip:{name}/TAG, one of {', '.join(tags) or 'none'}) "
            "or give a local `checkpoint`."
        )
    published = _published(name, tag)
    if checkpoint is None:
        with _download(spec, "" if published.get("hf_hub") else published.get("url", "")):
            checkpoint = Path(download_pretrained(published))
    weights = read_checkpoint(checkpoint)
    with _quiet(), _download(spec):  # a text tower of Hugging Face fetches its configuration
        model = open_clip.create_model(
            name, load_weights=False, pretrained_text=False, force_quick_gelu=bool(published.get("quick_gelu"))
        )
    fit_weights(model, _open_clip_names(strip_prefixes(weights, model), model), checkpoint, spec)
    return model, _open_clip_preprocess(spec, model, published)


def _published(name: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of the weights with this tag: where they are, and how their images are prepared."""
    from open_clip.pretrained import get_pretrained_cfg

    return get_pretrained_cfg(name, tag) if tag else {}


def _open_clip_config(name: str, tag: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(name)
    assert config is not None
    return config | ({"quick_gelu": True} if _published(name, tag).get("quick_gelu") else {})


def _architecture_and_tag(spec: str, name: str) -> tuple[str, str]:
    import open_clip

    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(f"{spec}: open_clip has no architecture {architecture!r}.{nearest(architecture, known)}")
    return architecture, tag


def _open_clip_names(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names as open_clip has them now; sizes are left alone, where open_clip would stretch position embeddings."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    weights = dict(convert_state_dict(model, weights))  # type: ignore[arg-type]
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    expected = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in weights and name in expected and weights[name].numel() == 1:
            weights[name] = weights[name].reshape(expected[name].shape)
    # OpenAI's files state sizes as tensors, older Hugging Face text towers their positions
    extra = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids")
    return {name: weight for name, weight in weights.items() if name in expected or name not in extra}


def _open_clip_preprocess(spec: str, model: Any, published: dict[str, Any]) -> Preprocess:
    size, resize = model.visual.image_size, published.get("resize_mode", "shortest")
    size = size if isinstance(size, tuple) else (size, size)
    if size[0] != size[1] or resize not in ("shortest", "squash"):
        raise ModelError(f"{spec}: images of {size[0]} x {size[1]}, resized by {resize!r}, are not supported.")
    options = {name: published[name] for name in ("mean", "std", "interpolation") if name in published}
    return Preprocess(size[0], resize=resize, **options)


def _tokenizer(spec: str, name: str, architecture: dict[str, Any]) -> Callable[[Sequence[str]], Tensor]:
    """Ours for CLIP's own vocabulary, since open_clip's cuts long texts without a word; else open_clip's."""
    import open_clip

    text = architecture["text_cfg"]
    if not text.get("hf_tokenizer_name") and not text.get("tokenizer_kwargs") and "siglip" not in name.lower():
        return Tokenizer(first_merges(text.get("vocab_size", 49408) - BYTES_AND_MARKS), text.get("context_length", 77))
    with _quiet(), hub_access():
        try:
            return open_clip.get_tokenizer(name)  # type: ignore[return-value]
        except Exception as error:  # no `transformers`, no network, or no such tokenizer
            raise ModelError(
                f"{spec}: its tokenizer cannot be had ({str(error).splitlines()[0]}). It needs the package "
                "`transformers` and the hub or its cache; load_model alone needs neither."
            ) from error


def _timm(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, Preprocessing]:
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    base, tags = timm_name(spec, name)
    if checkpoint is None:
        published = timm.get_pretrained_cfg(name)
        if not tags or published is None:
            raise ModelError(f"{spec}: timm publishes no weights for {base}. Give a local `checkpoint`.")
        with _download(spec, "" if published.hf_hub_id else str(published.url or "")):
            model = timm.create_model(name, pretrained=True)
    else:
        model = _fitted(lambda **classes: timm.create_model(name, **classes), spec, checkpoint)
    config = resolve_model_data_config(model)
    return model, EachImage(create_transform(**config, is_training=False))  # type: ignore[arg-type]


def _torchvision(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, Preprocessing]:
    import torchvision

    base, tag = torchvision_name(spec, name), name.partition("/")[2]
    published = torchvision.models.get_model_weights(base)
    tags = [weights.name for weights in published]
    if tag and tag not in tags:
        raise ModelError(f"{spec}: {base} has no weights {tag!r}.{nearest(tag, tags)} It has: {', '.join(tags)}.")
    chosen = published[tag] if tag else published["DEFAULT"]

    def build(**classes: int) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # on the random weights, which are overwritten
            return torchvision.models.get_model(base, weights=None, **classes)

    if checkpoint is None:
        with _download(spec, chosen.url):
            weights = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
        model = build()
        model.load_state_dict(weights)
    else:
        model = _fitted(build, spec, checkpoint)
    return model, EachImage(chosen.transforms())


def _fitted(build: Callable[..., nn.Module], spec: str, checkpoint: Path) -> nn.Module:
    """The model with the checkpoint's weights, its last linear layer as wide as the checkpoint's."""
    weights = read_checkpoint(checkpoint)
    model = build()
    weights = strip_prefixes(weights, model)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = f"{linear[-1]}.weight" if linear else ""
    if head in weights and weights[head].ndim == 2:
        classes, width = weights[head].shape
        expected = model.state_dict()[head].shape
        if classes != expected[0] and width == expected[1]:
            model = build(num_classes=classes)
    fit_weights(model, weights, checkpoint, spec)
    return model


def _callable(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, Any]:
    make = factory(spec, name)
    try:
        made: Any = make()
    except Exception as error:
        raise ModelError(f"{spec}: the factory failed: {type(error).__name__}: {error}.") from error
    parts: Any = made if isinstance(made, tuple) and len(made) == 2 else (made, UnitRange())
    model, preprocess = parts
    if not isinstance(model, nn.Module) or not callable(preprocess):
        raise ModelError(
            f"{spec}: the factory returned {type(made).__name__}; expected a torch module, or a pair of a module and "
            "its preprocessing."
        )
    if checkpoint is not None:
        fit_weights(model, strip_prefixes(read_checkpoint(checkpoint), model), checkpoint, spec)
    return model, preprocess


def _as_pil(images: np.ndarray | Sequence[Image.Image]) -> Sequence[Image.Image]:
    if not isinstance(images, np.ndarray):
        return images
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ShapeError(
            f"preprocess: expected uint8 pixels (image, y, x, rgb), found {images.dtype} of shape {images.shape}. "
            "Pass the `pixels` of an images artifact, or a list of PIL images."
        )
    return [Image.fromarray(pixels) for pixels in images]
