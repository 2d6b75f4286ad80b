"""Room models: CLIPs of open_clip with their weights: activation, colours and tokenizer as they were trained with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from optogram.data.network import hub_access
from optogram.errors import ModelError, nearest
from optogram.models.loading.checkpoints import StateDicts, fit_weights, read_checkpoint, select_weights
from optogram.models.loading.clip_folders import (
    BYTES_AND_MARKS,
    Preprocess,
    Tokenizer,
    build_open_clip,
    first_merges,
    with_tuples,
)
from optogram.models.loading.download import download, quiet
from optogram.progress import say

_CLIP_VOCABULARY = 49408

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


def open_clip_model(spec: str, name: str, checkpoint: Path | None) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    """The CLIP that NAME/TAG or a checkpoint gives, its preprocessing, and the architecture that it was built of."""
    from open_clip.pretrained import download_pretrained

    name, tag = architecture_and_tag(spec, name)
    if checkpoint is None:
        published = _published(name, _one_tag(spec, name, tag))
        with download(spec, "" if published.get("hf_hub") else published.get("url", "")):
            checkpoint = Path(download_pretrained(published))
    found = read_checkpoint(checkpoint)
    published = _trained_with(spec, name, tag, found)
    architecture = open_clip_config(name, published)
    with download(spec):  # a text tower of Hugging Face fetches its configuration
        model = build_open_clip(architecture)
    weights = _open_clip_names(select_weights(found, model.state_dict(), checkpoint), model)
    fit_weights(model, weights, checkpoint, spec)
    return model, open_clip_preprocess(spec, model, published), architecture


def architecture_and_tag(spec: str, name: str) -> tuple[str, str]:
    """The two parts of NAME/TAG. Raises ModelError if open_clip lacks either."""
    import open_clip

    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(f"{spec}: open_clip has no architecture {architecture!r}.{nearest(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise ModelError(
            f"{spec}: {architecture} has no pretrained tag {tag!r}.{nearest(tag, tags)} Its tags: {', '.join(tags)}."
        )
    return architecture, tag


def open_clip_config(name: str, published: dict[str, Any]) -> dict[str, Any]:
    """The architecture as open_clip describes it, with the activation of the weights."""
    import open_clip

    config = open_clip.get_model_config(name)
    assert config is not None
    return config | ({"quick_gelu": True} if published.get("quick_gelu") else {})


def _one_tag(spec: str, name: str, tag: str) -> str:
    import open_clip

    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(
            f"{spec} names no weights. Add a pretrained tag (open_clip:{name}/TAG, one of {tags}) or give a local "
            "`checkpoint`."
        )
    return tag


def _published(name: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of the weights with this tag: where they are, and how their images are prepared."""
    from open_clip.pretrained import get_pretrained_cfg

    return get_pretrained_cfg(name, tag)


def _trained_with(spec: str, name: str, tag: str, found: StateDicts) -> dict[str, Any]:
    """Activation and preprocessing of the weights: as the tag says, else as the file or all tags of `name` say.

    Raises ModelError for OpenAI's own file under a tag of other weights.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    # OpenAI's files state sizes as tensors; they were trained with QuickGELU
    openai = any(each.rpartition(".")[2] == "input_resolution" for names in found.values() for each in names)
    quick = bool(open_clip_config(name, {}).get("quick_gelu"))
    if tag:
        published = _published(name, tag)
        if openai and not (published.get("quick_gelu") or quick):
            instead = f"open_clip:{name}/openai" if "openai" in tags else f"open_clip:{name}"
            raise ModelError(
                f"{spec}: the checkpoint is OpenAI's own (it holds input_resolution) and has QuickGELU for an "
                f"activation; weights of the tag {tag} have GELU. Give {instead}."
            )
        return published
    if openai:
        return (_published(name, "openai") if "openai" in tags else {}) | {"quick_gelu": True}
    known = {each: _published(name, each) for each in tags}
    first = known[tags[0]] if tags else {}
    agreed = {key: first[key] for key in _PREPROCESSING if first.get(key) is not None}
    agreed = {key: value for key, value in agreed.items() if all(p.get(key) == value for p in known.values())}
    _say_what_is_not_known(spec, name, quick, known, agreed)
    return agreed


def _say_what_is_not_known(
    spec: str, name: str, quick: bool, known: dict[str, dict[str, Any]], agreed: dict[str, Any]
) -> None:
    """One line on each choice that the file itself cannot settle."""
    default = vars(Preprocess(1))
    others = [tag for tag, published in known.items() if bool(published.get("quick_gelu")) and not quick]
    if others:
        say(
            f"{spec}: no tag says how the checkpoint was trained; it runs with GELU. If it comes from weights with "
            f"QuickGELU ({', '.join(others)}), give open_clip:{name}/{others[0]}."
        )
    means = {tag: tuple(published.get("mean") or default["mean"]) for tag, published in known.items()}
    colours = [tag for tag, mean in means.items() if "mean" not in agreed and mean != default["mean"]]
    if colours:
        say(
            f"{spec}: images get OpenAI's mean and std; weights of {', '.join(colours)} want others: add the tag if so."
        )
    if "mean" in agreed and tuple(agreed["mean"]) != default["mean"]:
        say(f"{spec}: images are prepared as for all published weights of {name}: mean {agreed['mean']}.")


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
    # what OpenAI's files state beside their weights, and older Hugging Face text towers of their positions
    extra = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids")
    return {name: weight for name, weight in weights.items() if name in expected or name not in extra}


def open_clip_preprocess(spec: str, model: Any, published: dict[str, Any]) -> Preprocess:
    """How the images of these weights are prepared. Raises ModelError for what Preprocess cannot do."""
    size, resize = model.visual.image_size, published.get("resize_mode") or "shortest"
    size = size if isinstance(size, tuple) else (size, size)
    if size[0] != size[1] or resize not in ("shortest", "squash"):
        raise ModelError(f"{spec}: images of {size[0]} x {size[1]}, resized by {resize!r}, are not supported.")
    options = {name: published[name] for name in ("mean", "std", "interpolation") if published.get(name) is not None}
    return Preprocess(size[0], resize=resize, **with_tuples(**options))


def open_clip_tokenizer(spec: str, name: str, architecture: dict[str, Any]) -> Callable[[Sequence[str]], Tensor]:
    """Ours for CLIP's own vocabulary, since open_clip's cuts long texts without a word; else open_clip's."""
    import open_clip

    text = architecture["text_cfg"]
    if has_clips_vocabulary(architecture):
        return Tokenizer(
            first_merges(text.get("vocab_size", _CLIP_VOCABULARY) - BYTES_AND_MARKS), text.get("context_length", 77)
        )
    with quiet(), hub_access():
        try:
            return open_clip.get_tokenizer(name)  # type: ignore[return-value]
        except Exception as error:  # no `transformers`, no network, or no such tokenizer
            raise ModelError(
                f"{spec}: its tokenizer cannot be had ({str(error).splitlines()[0]}). It needs the package "
                "`transformers` and the hub or its cache; load_model alone needs neither."
            ) from error


def has_clips_vocabulary(architecture: dict[str, Any]) -> bool:
    """Whether the texts of this architecture are read with CLIP's own byte-pair encoding, as model folders hold it."""
    text = architecture["text_cfg"]
    others = ("hf_tokenizer_name", "hf_model_name", "tokenizer_kwargs")
    known = text.get("vocab_size", _CLIP_VOCABULARY) <= _CLIP_VOCABULARY
    return known and not any(text.get(key) for key in others)
