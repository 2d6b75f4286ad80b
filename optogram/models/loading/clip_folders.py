"""Room models: a CLIP as a folder on disk (config.json, model.safetensors, merges.txt.gz), saved and loaded."""

import gzip
import io
import json
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from optogram.errors import DataError, ModelError, ParamError, ShapeError
from optogram.models.batches import in_batches
from optogram.models.loading.download import quiet
from optogram.models.loading.model_files import CONFIG, WEIGHTS, check_files, fill, new_folder, unreadable, write_model

# open_clip, with transformers and scikit-learn, takes two seconds to import; what studies classifiers only needs none
if TYPE_CHECKING:
    import open_clip

BYTES_AND_MARKS = 514
"""Vocabulary beside the merges: 256 bytes, the same at a word's end, and the start and end of a text."""

_INTERPOLATION = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """Images as a model wants them: `image_size` pixels square, with channels normalised by `mean` and `std`.

    resize: "shortest" scales the shorter side and crops the centre (CLIP's way), "squash" ignores proportions. mean and
    std are OpenAI's.

    >>> from optogram.models import Preprocess
    >>> Preprocess(32)(np.zeros((2, 64, 48, 3), np.uint8)).shape
    torch.Size([2, 3, 32, 32])
    """

    image_size: int
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize: str = "shortest"

    def __call__(self, images: UInt8[np.ndarray, "image y x rgb"] | Sequence[Image.Image]) -> Tensor:
        """Float32 (image, rgb, y, x). Raises ShapeError unless given uint8 (image, y, x, rgb) or PIL images."""
        return self.normalise(self.fit(images))

    def fit(self, images: np.ndarray | Sequence[Image.Image]) -> UInt8[np.ndarray, "image y x rgb"]:
        """The images at the model's size, still uint8; an array that has that size already is not copied."""
        if isinstance(images, np.ndarray):
            check_pixels(images)
            if images.shape[1:3] == (self.image_size, self.image_size):
                return images
            images = [Image.fromarray(pixels) for pixels in images]
        return np.stack([np.asarray(self._fit_one(image.convert("RGB"))) for image in images])

    def normalise(self, pixels: UInt8[np.ndarray, "image y x rgb"]) -> Tensor:
        """Pixels of the model's size as a float32 tensor (image, rgb, y, x)."""
        scaled = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return scaled.sub_(mean).div_(std)

    def _fit_one(self, image: Image.Image) -> Image.Image:
        how, size = _INTERPOLATION[self.interpolation], self.image_size
        if self.resize == "squash":
            return image.resize((size, size), how)
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.resize((width, height), how).crop((left, top, left + size, top + size))


def with_tuples(**said: Any) -> dict[str, Any]:
    """What a file says of a preprocessing, with the tuples that JSON keeps as lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}


def check_pixels(images: np.ndarray) -> None:
    """Raises ShapeError for an array that is not uint8 (image, y, x, rgb)."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ShapeError(
            f"preprocess: expected uint8 pixels (image, y, x, rgb), found {images.dtype} of shape {images.shape}. "
            "Pass the `pixels` of an images artifact, or a list of PIL images."
        )


class Tokenizer:
    """CLIP's byte-pair encoding, cut to its first `merges` merges (they come in order of frequency).

    A text longer than `context_length` tokens raises DataError: it is never cut silently.
    """

    def __init__(self, merges: bytes, context_length: int) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        # A file object, not a path: SimpleTokenizer would leave the file that it opens unclosed.
        self._bpe = SimpleTokenizer(io.BytesIO(merges), context_length=context_length)  # type: ignore[arg-type]
        self.merges, self.context_length, self.vocab_size = merges, context_length, self._bpe.vocab_size

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "text token"]:
        """Token ids, zero after the end mark. Raises DataError for a text that is too long."""
        tokens = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self._bpe.sot_token_id, *self._bpe.encode(text), self._bpe.eot_token_id]
            if len(ids) > self.context_length:
                raise DataError(
                    f"text {text!r} has {len(ids)} tokens, but this model reads at most {self.context_length}."
                    " Shorten it, or leave it out of the pool."
                )
            row[: len(ids)] = torch.tensor(ids)
        return tokens


@dataclass(frozen=True)
class Clip:
    """A CLIP with all it needs to be used: images and texts in, embeddings out.

    >>> clip.tokenize(["a red star"]).shape, clip.preprocess(scenes.pixels.values).shape
    (torch.Size([1, 64]), torch.Size([12, 3, 32, 32]))
    """

    model: "open_clip.CLIP"
    preprocess: Preprocess
    tokenize: Callable[[Sequence[str]], Tensor]
    config: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.logit_scale.device


def first_merges(count: int) -> bytes:
    """The first `count` merges of CLIP's own vocabulary, as the gzip file that SimpleTokenizer reads.

    Stored, not compressed, and without a time: the same bytes under every zlib. No newline at the end: it would be
    read as a merge. Raises ParamError if CLIP has fewer merges.
    """
    from open_clip.tokenizer import default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in islice(file, count + 1)]
    most = 49152 - 256 - 2
    if not 0 <= count <= most:
        raise ParamError(
            f"text_cfg.vocab_size = {count + BYTES_AND_MARKS}, expected {BYTES_AND_MARKS} to {most + BYTES_AND_MARKS}:"
            " 514 bytes and marks, and CLIP's merges. Set it within that range."
        )
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=0, fileobj=out, mtime=0) as file:
        file.write("\n".join(lines).encode())
    return out.getvalue()


def build_clip(architecture: dict[str, Any], *, seed: int, spec: str = "trained") -> Clip:
    """A CLIP with random weights drawn from `seed`, and a tokenizer of the size that the architecture asks for.

    architecture: `embed_dim`, `vision_cfg`, `text_cfg` as in open_clip; text_cfg.vocab_size = 514 + merges.
    Raises ModelError if open_clip does not take the architecture.

    >>> from optogram.models import build_clip
    >>> vision = {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
    >>> text = {"context_length": 64, "vocab_size": 514, "width": 16, "heads": 2, "layers": 1}
    >>> tiny = build_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, seed=0)
    >>> tiny.tokenize(["a star"]).shape
    torch.Size([1, 64])
    """
    model = _build(architecture, seed)
    preprocess = Preprocess(int(architecture["vision_cfg"]["image_size"]))
    merges = first_merges(model.vocab_size - BYTES_AND_MARKS)
    tokenize = Tokenizer(merges, model.context_length)
    return Clip(model, preprocess, tokenize, _config(spec, architecture, preprocess, tokenize))


def save_clip(clip: Clip, path: Path | str, *, dtype: torch.dtype = torch.float16) -> None:
    """Write the folder, whole or not at all; weights as `dtype`. Raises ModelError if `path` exists, or for a
    tokenizer that is not CLIP's.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from optogram.models import save_clip
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_clip(clip, Path(folder) / "tiny")
    ...     sorted(path.name for path in Path(folder).glob("tiny/*"))
    ['config.json', 'merges.txt.gz', 'model.safetensors']
    """
    path = Path(path)
    if not isinstance(clip.tokenize, Tokenizer):
        raise other_tokenizer(str(clip.config.get("spec", "this model")))
    with new_folder(path) as part:
        write_model(part, clip.config, clip.model, dtype)
        (part / "merges.txt.gz").write_bytes(clip.tokenize.merges)


def other_tokenizer(spec: str) -> ModelError:
    """What to raise for a CLIP that a model folder cannot hold."""
    return ModelError(
        f"{spec} reads texts with another tokenizer than CLIP's, which a model folder cannot hold yet. Pipeline runs "
        "need a CLIP with CLIP's own vocabulary; `optogram.load_model` and `optogram.decompose` work with it in a "
        "notebook."
    )


def load_clip(path: Path | str, device: str = "auto") -> Clip:
    """The CLIP of a model folder, in eval mode, float32, without gradients. `auto` is CUDA where there is one.

    Raises ModelError if a file is missing or damaged, or a tensor does not fit the architecture.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from optogram.models import load_clip, save_clip
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_clip(clip, Path(folder) / "tiny")
    ...     again = load_clip(Path(folder) / "tiny", device="cpu")
    >>> again.model(images, clip.tokenize(["snow"]))[0].shape
    torch.Size([12, 16])
    """
    path = Path(path)
    check_files(path, [CONFIG, WEIGHTS, "merges.txt.gz"])
    try:
        config = json.loads((path / CONFIG).read_text())
        architecture, preprocess = config["architecture"], Preprocess(**with_tuples(**config["preprocess"]))
        tokenize = Tokenizer((path / "merges.txt.gz").read_bytes(), config["tokenizer"]["context_length"])
        weights = load_file(path / WEIGHTS)
    except (ValueError, TypeError, KeyError, OSError, EOFError, zlib.error, SafetensorError) as error:
        raise unreadable(path, error) from error
    model = _build(architecture, seed=0)
    fill(model, weights, path)
    model.to(pick_device(device)).eval().requires_grad_(False)
    return Clip(model, preprocess, tokenize, config)


def pick_device(device: str) -> torch.device:
    """The device of a name; `auto` is CUDA where there is one, else the CPU. Raises ModelError if it cannot be used."""
    try:
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a build without it
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {device!r} cannot be used ({reason}). Set it to 'auto' or 'cpu'.") from error
    return where


@torch.no_grad()
def encode_texts(clip: Clip, texts: Sequence[str], batch: int = 256) -> Float32[Tensor, "text embed"]:
    """Unit embeddings of the texts, on the CPU. Raises DataError for a text too long for the model.

    >>> from optogram.models import encode_texts
    >>> encode_texts(clip, ["a red star", "snow"]).shape
    torch.Size([2, 16])
    """

    def encode(rows: slice) -> Tensor:
        return clip.model.encode_text(clip.tokenize(texts[rows]).to(clip.device), normalize=True).float().cpu()

    return torch.cat([part for _, part in in_batches(len(texts), batch, encode)])


@torch.no_grad()
def encode_images(
    clip: Clip, pixels: UInt8[np.ndarray, "image y x rgb"], batch: int = 256
) -> Float32[Tensor, "image embed"]:
    """Unit embeddings of the images, on the CPU. Raises ShapeError unless pixels are uint8 (image, y, x, rgb).

    >>> from optogram.models import encode_images
    >>> embedding = encode_images(clip, scenes.pixels.values)
    >>> embedding.shape, torch.allclose(embedding.norm(dim=1), torch.ones(12))
    (torch.Size([12, 16]), True)
    """

    def encode(rows: slice) -> Tensor:
        return clip.model.encode_image(clip.preprocess(pixels[rows]).to(clip.device), normalize=True).float().cpu()

    return torch.cat([part for _, part in in_batches(len(pixels), batch, encode)])


def build_open_clip(architecture: dict[str, Any]) -> "open_clip.CLIP":
    """The CLIP of an architecture as open_clip's model_configs have it, by open_clip's own rules, with random weights.

    It may be a CLIP, one with a text tower of its own (`custom_text`), or a CoCa, with towers of timm or open_clip.
    """
    from open_clip import create_model

    with tempfile.TemporaryDirectory() as folder, quiet():
        Path(folder, "open_clip_config.json").write_text(json.dumps({"model_cfg": architecture}))
        return create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)  # type: ignore[return-value]


def _build(architecture: dict[str, Any], seed: int) -> "open_clip.CLIP":
    # open_clip initialises from the global generator: lend it a seeded one, and give the old state back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return build_open_clip(architecture)
        except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
            raise ModelError(
                f"open_clip does not take this architecture: {error}. Expected embed_dim, vision_cfg and text_cfg as"
                " in open_clip's model_configs."
            ) from error


def _config(spec: str, architecture: dict[str, Any], preprocess: Preprocess, tokenize: Tokenizer) -> dict[str, Any]:
    config = {
        "spec": spec,
        "architecture": architecture,
        "preprocess": {**vars(preprocess)},
        "tokenizer": {
            "kind": "clip-bpe",
            "merges": tokenize.vocab_size - BYTES_AND_MARKS,
            "context_length": tokenize.context_length,
        },
    }
    return json.loads(json.dumps(config))
