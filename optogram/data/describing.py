"""Room data: describers, which write descriptions of images out of a class and phrases that may deceive a model.

Gandelsman (2025), section 3.5: there a large language model does it. `grammar` needs none; `transformers_describer`
runs any causal language model of the `transformers` library.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optogram.data.image_makers import mentions
from optogram.data.network import hub_access
from optogram.errors import DataError, ModelError, ParamError
from optogram.progress import say

Describer = Callable[[Sequence[str], str, Sequence[str], int, int], list[str]]
"""(phrases, own, avoid, count, seed) -> descriptions.

phrases: what to make use of, best first; own: the class in words, with its article: "a circle"; avoid: words for the
class that the image shall be taken for. Returns at most `count` descriptions, no two alike, each of which mentions the
own class and none of the words to avoid; the same for the same seed.
"""

# Table B.2 of Gandelsman (2025), shortened.
PROMPT = (
    "I want to generate an image by providing image descriptions as input to a text-to-image model. The image "
    'descriptions should be short. Each of them must include "{own}". They must not include the word "{avoid}", any '
    "synonym of it, or a plural version! The image descriptions should include as many phrases as possible from the "
    'next list and almost no other words: {phrases}. Don\'t mention words that are too similar to "{avoid}", even if '
    "they are in the list above. Only use words that you know what they mean and that are visually distinctive. "
    "Generate a list of {count} image descriptions, one description a line, and nothing else."
)
MOST = 4
"""Phrases that the grammar puts into one description at most, as in the examples of the thesis."""

_OPENINGS = ("a photo of", "a picture of", "an image of")
_PREFIX = re.compile(r"^(?:an?|the)?\s*(?:photo(?:graph)?|picture|image)\s+(?:of|with)\s+", re.IGNORECASE)
_MARK = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•\u2013])\s*")
_LONGEST = 300  # characters of a line that can be one description
_TRIES = 4
_TOKENS = 40  # a description, generously
_NO_PHRASE = "anything that fits"


def describer(name: str, *, device: Any = "cpu") -> Describer:
    """The describer that params.yaml names: "grammar", or "transformers:" and a model's name or folder.

    device: where a language model runs. Raises ParamError for any other name, ModelError as `transformers_describer`.

    >>> from optogram.data import describer
    >>> describer("grammar")(["an object on grass"], "a circle", [], 1, 0)
    ['an image of a circle with an object on grass']
    """
    kind, _, model = name.partition(":")
    if name == "grammar":
        return grammar
    if kind == "transformers" and model:
        return transformers_describer(model, device=device)
    raise ParamError(f"adversarial.generator = {name!r}; expected grammar, or transformers:NAME-OR-FOLDER.")


def grammar(phrases: Sequence[str], own: str, avoid: Sequence[str], count: int, seed: int) -> list[str]:
    """Descriptions by rule, a `Describer`: "a photo of a circle with striped objects and an object on grass".

    One to four phrases each, at random, without repetition; the first phrase is taken most often, the odds fall
    evenly to those of the last. Phrases that name what is to be avoided are left out. With no phrases, the class
    alone. There may be fewer than `count`, as many as were found in 20 tries each.

    >>> from optogram.data import grammar
    >>> grammar(["striped objects", "an object on grass"], "a circle", [], 2, 0)[0]
    'an image of a circle with striped objects and an object on grass'
    """
    plain = [_PREFIX.sub("", phrase).rstrip(".") for phrase in phrases if not mentions(phrase, avoid)]
    plain = list(dict.fromkeys(phrase[:1].lower() + phrase[1:] for phrase in plain))
    odds = np.arange(len(plain), 0, -1) / max(1, len(plain) * (len(plain) + 1) / 2)
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        opening = _OPENINGS[rng.integers(len(_OPENINGS))]
        taken = min(len(plain), int(rng.integers(1, MOST + 1)))
        chosen = [plain[at] for at in rng.choice(len(plain), taken, replace=False, p=odds)] if taken else []
        found[f"{opening} {own}" + (f" with {_listed(chosen)}" if chosen else "")] = None
    return list(found)


def transformers_describer(name: str, *, device: Any = "cpu") -> Describer:
    """Descriptions by a causal language model, a `Describer`, asked with the thesis's prompt (Table B.2, shortened).

    name: a folder, or a model of the Hugging Face hub (where the hub is out of reach or HF_HUB_OFFLINE is set, of its
    local cache). Only safetensors are loaded, and no code that comes with a model is run. A chat template is used
    where the tokenizer has one. Tokens are sampled (temperature 0.8, top-p 0.95) from a seed; torch's own random state
    is left as it was. Asked again, up to four times, until there are as many descriptions as wanted; fewer are
    returned as they are.

    Raises ModelError if the model cannot be loaded or its context is too short for the prompt; the describer raises
    DataError if no line of what the model wrote can be used.
    """
    tokenizer, model = _loaded(name, device)

    def describe(phrases: Sequence[str], own: str, avoid: Sequence[str], count: int, seed: int) -> list[str]:
        usable = [phrase for phrase in phrases if not mentions(phrase, avoid)] or [_NO_PHRASE]
        prompt = PROMPT.format(own=own, avoid=avoid[0], phrases=", ".join(usable), count=count)
        found: dict[str, None] = {}
        said = ""
        for attempt in range(_TRIES):
            said = _sampled(name, tokenizer, model, prompt, count * _TOKENS, (seed + attempt) % 2**63)
            found |= dict.fromkeys(parsed_descriptions(said, own, avoid))
            if len(found) >= count:
                break
        if not found:
            raise DataError(
                f"{name}: no line of what it wrote in {_TRIES} tries mentions {own!r} and not {avoid[0]!r}; it "
                f"said {said.strip()[:200]!r}. Take a model that follows instructions, or set adversarial.generator: "
                "grammar."
            )
        if len(found) < count:
            say(f"{name}: {len(found)} of {count} descriptions of {own} could be used.")
        return list(found)[:count]

    return describe


def parsed_descriptions(text: str, own: str, avoid: Sequence[str]) -> list[str]:
    """The lines of a language model's answer that can be used, without list marks and quotes, each once.

    A line is one that mentions `own` (its article aside) and nothing to avoid, is printable, has at most 300
    characters, and does not end with a colon, as announcements of a list do.

    >>> from optogram.data import parsed_descriptions
    >>> parsed_descriptions('1. "A circle on grass"', "a circle", ["star"])
    ['A circle on grass']
    >>> parsed_descriptions("- A circle and a star", "a circle", ["star"])
    []
    """
    noun = re.sub(r"^(?:an?|one)\s+", "", own)
    found: dict[str, None] = {}
    for line in text.splitlines():
        line = " ".join(_MARK.sub("", line).split()).strip("\"'“”*").strip()
        usable = line.isprintable() and len(line) <= _LONGEST and not line.endswith(":")
        if usable and mentions(line, [noun]) and not mentions(line, avoid):
            found[line] = None
    return list(found)


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(phrases[:-1]), phrases[-1]) if part)


def _loaded(name: str, device: Any) -> tuple[Any, Any]:
    """Tokenizer and model in eval mode. Raises ModelError with the reason if either cannot be loaded."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with hub_access() as online:
            local = Path(name).is_dir() or not online
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
            model = AutoModelForCausalLM.from_pretrained(name, local_files_only=local, use_safetensors=True)
    except (ImportError, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ModelError(
            f"{name}: this language model cannot be loaded ({reason}). Expected a folder or a hub name of a causal "
            "language model with model.safetensors and a tokenizer; or set adversarial.generator: grammar."
        ) from error
    return tokenizer, model.to(device).eval()


def _sampled(name: str, tokenizer: Any, model: Any, prompt: str, longest: int, seed: int) -> str:
    """What the model answers, at most `longest` tokens; fewer where its context is too short for more."""
    import torch

    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # a template brings its own marks of beginning
    given = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template).to(model.device)
    length = given["input_ids"].shape[1]
    room = getattr(model.config, "max_position_embeddings", None) or length + longest
    if room - length < _TOKENS:
        raise ModelError(
            f"{name}: the prompt has {length} tokens, and its context is {room}: there is no room for an answer. Take "
            "a model with a longer context, or ask for fewer adversarial.phrases."
        )
    end = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    where = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=where), torch.inference_mode():
        torch.manual_seed(seed)  # `generate` takes no generator; fork_rng gives the old state back
        answer = model.generate(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            do_sample=True,
            temperature=0.8,
            top_p=0.95,
            max_new_tokens=min(longest, room - length),
            pad_token_id=end,
        )
    return tokenizer.decode(answer[0, length:], skip_special_tokens=True)
