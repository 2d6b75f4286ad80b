"""Room models: what a file given as a checkpoint is, told by its content and not by its name."""

import json
import re
import tarfile
import zipfile
from pathlib import Path

SAFETENSORS, TORCH, TORCHSCRIPT = "safetensors", "torch", "torchscript"

_AGAIN = "Download or save it again"
_CONVERT = "Optogram reads safetensors and PyTorch files of tensors: convert it once, or download it in that form"
_UNPACK = "Unpack it, and give the file inside"

# torch.save's older format begins with a pickled magic number, by whatever protocol
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_BEGINNINGS = (
    (b"version https://git-lfs", "a Git-LFS pointer, not the file itself", "Run `git lfs pull` where it was cloned"),
    (b"outs:\n- md5:", "a DVC pointer, not the file itself", "Run `dvc pull`, and give the file that it brings"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow write", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"GGUF", "a GGUF file of llama.cpp", _CONVERT),
    (b"PAR1", "a Parquet table", _CONVERT),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"%PDF", "a PDF document", "Give the file of the weights"),
    (b"\x89PNG", "an image", "Give the file of the weights"),
    (b"\xff\xd8\xff", "an image", "Give the file of the weights"),
)
_TEXTS = (
    (r"<!doctype html|<html", "a web page, perhaps of a log-in or an error", "Download the file itself"),
    (r"<\?xml", "an XML answer of a server, perhaps an error", "Download the file itself"),
)
_SUFFIXES = {
    ".onnx": "an ONNX model",
    ".msgpack": "a msgpack file, as Flax writes",
    ".tflite": "a TensorFlow Lite model",
    ".pb": "a TensorFlow graph",
    ".mlmodel": "a Core ML model",
}


def file_kind(path: Path) -> tuple[str, str]:
    """What the file is, and what to do about it: SAFETENSORS, TORCH or TORCHSCRIPT with "", or words for both.

    The words complete "it is …", and "" as the first means that nothing is known of it.
    """
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return "empty (0 bytes)", _AGAIN
    if start.startswith(b"PK\x03\x04"):
        return _zip_kind(path, start)
    if start[:1] == b"\x80" and _LEGACY in start[:32]:
        return TORCH, ""
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return SAFETENSORS, ""
    for beginning, kind, advice in _BEGINNINGS:
        if start.startswith(beginning):
            return kind, advice
    if start[257:262] == b"ustar" or tarfile.is_tarfile(path):
        return "a tar archive", _UNPACK
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        advice = "Have its tensors saved with torch.save or safetensors where it was made"
        return "a Python pickle that torch.save did not write", advice
    return _text_kind(path, start) or _named_kind(path, start)


def _zip_kind(path: Path, start: bytes) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        what = "a PyTorch file" if b"data.pkl" in start else "a zip archive"
        return f"{what} that is cut short or damaged", _AGAIN
    ends = {name.rsplit("/", 1)[-1] for name in names}
    if "data.pkl" in ends:
        return (TORCHSCRIPT if "constants.pkl" in ends else TORCH), ""
    if "archive_format" in ends:
        return "a program of torch.export", "Save model.state_dict() instead"
    if ends and all(name.endswith(".npy") for name in ends):
        return "a NumPy archive (.npz), as JAX models are published", _CONVERT
    if "model.weights.h5" in ends:
        return "a Keras model", _CONVERT
    weights = [name for name in names if name.endswith((".safetensors", ".pt", ".pth", ".bin", ".ckpt"))]
    return f"a zip archive of {', '.join((weights or names)[:3]) or 'nothing'}", _UNPACK


def _text_kind(path: Path, start: bytes) -> tuple[str, str] | None:
    """What a text is, or None for a file that is none."""
    try:
        text = start.decode("utf-8", errors="strict" if len(start) < 1024 else "ignore").lstrip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        return None
    if not text or not all(character.isprintable() or character in "\t\r\n" for character in text):
        return None
    for pattern, kind, advice in _TEXTS:
        if re.match(pattern, text, re.IGNORECASE):
            return kind, advice
    if text[0] in "{[":
        return _json_kind(path)
    return f"a text that begins with {text[:30]!r}", "Give the file of the weights"


def _json_kind(path: Path) -> tuple[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        files = sorted(set(content["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError):
        return "a JSON text, perhaps a configuration or the error of a server", "Give the file of the weights"
    tensors = all(str(file).endswith(".safetensors") for file in files)
    save, load = ("save_file", "load_file(f)") if tensors else ("torch.save", "torch.load(f, weights_only=True)")
    whole = "whole.safetensors" if tensors else "whole.pt"
    return (
        f"the index of weights in {len(files)} files ({', '.join(map(str, files[:2]))}, …)",
        f"Join them once, with {'safetensors.torch' if tensors else 'torch'}: "
        f"{save}({{k: w for f in FILES for k, w in {load}.items()}}, '{whole}')",
    )


def _named_kind(path: Path, start: bytes) -> tuple[str, str]:
    """Formats without a beginning of their own, by their usual names; ("", …) for any other file."""
    if start[4:8] == b"TFL3":
        return _SUFFIXES[".tflite"], _CONVERT
    if re.search(r"\.data-\d+-of-\d+$|\.index$|\.meta$", path.name):
        return "a part of a TensorFlow checkpoint", _CONVERT
    kind = _SUFFIXES.get(path.suffix.lower(), "")
    return kind, _CONVERT if kind else _AGAIN
