"""Guidance: captions of images that are to be inverted, "an image of a CLASS BACKGROUND", and their class names.

Augustin et al. (DiG-IN), section D.1.1: the caption has to describe the object and what is around it, as then alone the
words of the class name attend to the object. From labels, from a table of the user's, or from a model of transformers.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from optogram.data.image_makers import value_words
from optogram.data.layout import LISTED
from optogram.data.scenes import ATTRIBUTES
from optogram.data.spelling import plain
from optogram.errors import DataError, ModelError
from optogram.guidance.folders import folder_type, load_folder

GENERIC = "an image of a {}"
"""The caption that knows the class alone."""
BATCH = 8
"""Images at once. Kernels may round by the size of a batch, so that a smaller one is filled up."""
TOKENS = 30
"""Of a background, generously: a caption has to fit into the 77 tokens of a CLIP."""
ASKED = "Describe this image in one short sentence: the object first, then what is around it."
"""What a model that converses is asked, before the beginning of its answer is given to it."""
EXPECTED = "an image-to-text model that goes on with a text (BLIP, GIT, LLaVA …)"
_HEADER = ["image", "caption"]


def image_captions(source: str, images: xr.Dataset, *, device: str = "auto") -> list[str]:
    """A caption of each image of an images/<split> dataset, from what `source` names.

    source: `labels` (see `label_captions`), `captioner:PATH` (a folder, see `load_captioner`, on `device`), or the path
    of a table (see `table_captions`). Errors are theirs.

    >>> from optogram.guidance.captions import image_captions
    >>> len(image_captions("labels", scenes)) == scenes.sizes["image"]
    True
    """
    if source == "labels":
        return label_captions(images)
    kind, _, path = source.partition(":")
    if kind == "captioner":
        return load_captioner(path, device=device).captions(images["pixels"].values, class_names(images))
    return table_captions(source, [str(name) for name in images["image"].values])


def class_names(images: xr.Dataset) -> list[str]:
    """The class of each image: the name of its value of the dataset's `class_attribute`.

    Raises DataError that names the images whose class is not known.

    >>> from optogram.guidance.captions import class_names
    >>> class_names(scenes)[0] in scenes.value_name.sel(attribute="shape")
    True
    """
    column = [str(name) for name in images["attribute"].values].index(str(images.attrs["class_attribute"]))
    labels, values = images["label"].values[:, column], images["value_name"].values[column]
    if (unknown := np.flatnonzero(labels < 0)).size:
        listed = _listed([str(images["image"].values[k]) for k in unknown])
        raise DataError(
            f"captions: the class of {listed} is not known. Label these images, or give a table of captions."
        )
    return [str(values[label]) for label in labels]


def label_captions(images: xr.Dataset) -> list[str]:
    """Captions from labels: of a scene all that is known of it, of a photograph "an image of a CLASS".

    A scene's words are those that its training captions begin with, and name each value as the dataset does. The paper
    found "an image of a CLASS" to be a poor caption, as it leaves the background out.

    Raises DataError as `class_names`.

    >>> from optogram.guidance.captions import label_captions
    >>> photos = xr.Dataset(
    ...     {"label": (("image", "attribute"), [[0]]), "value_name": (("attribute", "value"), [["cat", "dog"]])},
    ...     {"image": ["cat/a.jpg"], "attribute": ["class"]},
    ...     {"class_attribute": "class"},
    ... )
    >>> label_captions(photos)
    ['an image of a cat']
    """
    names, attributes = class_names(images), [str(name) for name in images["attribute"].values]
    if not ATTRIBUTES.keys() >= {*attributes}:
        return [GENERIC.format(name) for name in names]
    rows, values = images["label"].values.tolist(), images["value_name"].values
    return [_scene({name: str(values[k, row[k]]) for k, name in enumerate(attributes) if row[k] >= 0}) for row in rows]


def _scene(known: dict[str, str]) -> str:
    """What is known of a scene, in the order and the first words of the captions that models learn from."""
    many = known.get("count", "one") != "one"
    noun = known.get("shape", "object")
    before = [known[name] for name in ("count", "size", "colour", "texture") if name in known]
    after = [value_words(name)[known[name]][1] for name in ("position", "background") if name in known]
    if "count" not in known:
        before = ["an" if (*before, noun)[0][0] in "aeiou" else "a", *before]
    return " ".join(["an image of", *before, _plural(noun) if many else noun, *after])


def table_captions(path: str | Path, ids: Sequence[str]) -> list[str]:
    """The captions that a table of the user's has for the images `ids`, spelt as `plain` does.

    path: a UTF-8 CSV file with the header image,caption. It may hold further images.

    Raises DataError if the file cannot be read or has another header, for rows without two fields, blank captions and
    repeated images (with their lines), and for images that are missing (how many, the first of them).
    """
    path = Path(path)
    first: dict[str, tuple[int, str]] = {}
    for line, row in _table(path):
        if len(row) != 2:
            raise DataError(
                f"{path}: line {line} has {len(row)} fields, expected 2. Put a caption with commas into double quotes."
            )
        name, caption = map(plain, row)
        if not name or not caption:
            raise DataError(f"{path}: line {line} has no {_HEADER[bool(name)]}. Write it, or remove the line.")
        if name in first:
            raise DataError(f"{path}: {name} is in line {first[name][0]} and in line {line}. Leave one of them.")
        first[name] = (line, caption)
    if missing := [name for name in ids if plain(name) not in first]:
        raise DataError(
            f"{path}: {len(missing):,} of {len(ids):,} images have no caption: {_listed(missing)}. Add a line for each."
        )
    return [first[plain(name)][1] for name in ids]


def _table(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a table below its header, each with the number of its last line; blank lines left out."""
    try:
        read = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        rows = [(read.line_num, row) for row in read if row]
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Expected labels, captioner:PATH, or the path of a CSV file "
            "with the header image,caption."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: no table in UTF-8 ({error}). Save it as CSV in UTF-8.") from error
    header = [plain(name) for name in rows[0][1]] if rows else []
    if header != _HEADER:
        raise DataError(f"{path}: the header is {','.join(header) or 'missing'}, expected image,caption. Write it so.")
    return rows[1:]


@dataclass(frozen=True)
class Captioner:
    """A model of transformers that goes on with a text about an image. `load_captioner` makes it."""

    model: Any
    processor: Any

    def captions(self, pixels: UInt8[np.ndarray, "image y x 3"], classes: Sequence[str]) -> list[str]:
        """Captions that begin with "an image of a CLASS" and go on as the model does, word by most probable word.

        classes: the name of each image's class. Nothing is random, and a caption does not depend on the other images.
        """
        found = [""] * len(classes)
        for name in dict.fromkeys(classes):
            rows = [k for k, own in enumerate(classes) if own == name]
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                for k, caption in zip(part, self._said(pixels[part], GENERIC.format(name)), strict=True):
                    found[k] = caption
        return found

    @torch.no_grad()
    def _said(self, pixels: UInt8[np.ndarray, "image y x 3"], start: str) -> list[str]:
        pictures = [Image.fromarray(one) for one in pixels]
        pictures += [Image.new("RGB", pictures[0].size)] * (BATCH - len(pictures))
        prompt, tokenizer = start, self.processor.tokenizer
        if getattr(self.processor, "chat_template", None):
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED}]}
            prompt = self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True) + start
        # one by one, as processors differ in how they take several; rows of one length need no padding
        parts = [self.processor(images=one, text=prompt, return_tensors="pt") for one in pictures]
        given = {name: torch.cat([part[name] for part in parts]).to(self.model.device) for name in parts[0]}
        ids: Tensor = given["input_ids"]
        # a mark of the end would end the caption; BLIP takes it away itself
        if (
            int(ids[0, -1]) in (tokenizer.sep_token_id, tokenizer.eos_token_id)
            and self.model.config.model_type != "blip"
        ):
            given = {name: of[:, :-1] if of.shape == ids.shape else of for name, of in given.items()}
        told = tokenizer.decode(given["input_ids"][0], skip_special_tokens=True)
        answers = self.model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=TOKENS)
        said = tokenizer.batch_decode(answers[: len(pixels)], skip_special_tokens=True)
        return [_joined(start, told, one) for one in said]


def _joined(start: str, told: str, said: str) -> str:
    """The beginning as it was given, and what was said after it; models repeat what they were told, or do not."""
    rest = said[len(told) :] if said.startswith(told) else f" {said}"
    return plain(" ".join((start + rest).split()))


def load_captioner(path: str | Path, *, device: str = "auto") -> Captioner:
    """The captioner of a folder, as transformers' save_pretrained writes it: BLIP, GIT, or one that converses.

    Only safetensors are read, no code that comes with a model is run, and nothing is downloaded. device: `auto` is CUDA
    where there is one.

    Raises ModelError for a folder that is missing, of a model that does not go on with a text about an image, without
    safetensors, damaged or incomplete, and ExtraError where transformers is not installed.
    """
    path = Path(path)
    folder_type(path, EXPECTED)
    model, processor = load_folder(path, "AutoModelForImageTextToText", "AutoProcessor", EXPECTED, device=device)
    if model.config.is_encoder_decoder or getattr(processor, "tokenizer", None) is None:
        raise ModelError(
            f"{path}: a {type(model).__name__} does not go on with a text. Expected a folder of {EXPECTED}."
        )
    return Captioner(model, processor)


def with_class(caption: str, source: str, target: str) -> str:
    """The caption with the name of another class: whole words in any letter case, plurals by a plural.

    All other words stay as they are, an article too: cross-attention is matched word by word.

    Raises DataError if a name is blank, and if the caption is without `source`.

    Source: DiG-IN, Algorithm 2.

    >>> from optogram.guidance.captions import with_class
    >>> with_class("an image of a Cocker Spaniel on grass", "cocker spaniel", "pug")
    'an image of a pug on grass'
    """
    if not source.split() or not target.split():
        raise DataError(
            f"captions: the class {source!r} is to become {target!r}, but a name is blank. Name both classes."
        )
    words = r"\s+".join(map(re.escape, source.split()))
    pattern = re.compile(rf"(?<![\w-]){words}(?P<many>e?s)?(?![\w-])", re.IGNORECASE)
    if not pattern.search(caption):
        raise DataError(
            f"a caption without the class name: {caption!r} does not name {source!r}, so that {target!r} cannot take "
            "its place. Write the name into the caption as it is among the classes."
        )
    return pattern.sub(lambda found: _plural(target) if found["many"] else target, caption)


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")
