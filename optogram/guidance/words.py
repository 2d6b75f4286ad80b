"""Guidance: where the words of a prompt stand among its tokens, and which words of two prompts stand for each other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from optogram.errors import DataError, ModelError, nearest
from optogram.models.generative.texts import ClipTexts, Texts, TransformersTexts

# letters and digits, or signs
_WORD = re.compile(r"[^\W_]+|(?:[^\w\s]|_)+")
# not within letters and digits
_EDGE = r"(?:(?<![^\W_])|(?![^\W_]))"


@dataclass(frozen=True)
class Word:
    """A word of a prompt, or the signs between two.

    text: as the prompt has it. start: its first character in the prompt.
    tokens: its places among the tokens that the denoiser is told, which begin with the start mark if there is one.
    """

    text: str
    start: int
    tokens: tuple[int, ...]

    @property
    def stop(self) -> int:
        """The character behind its last one."""
        return self.start + len(self.text)


def word_tokens(texts: Texts, prompt: str) -> list[Word]:
    """The words of a prompt in their order, signs as words of their own; none for the empty prompt.

    Words of which one token holds several ("'s" for CLIP) are one Word.

    Raises DataError for a prompt that is too long, and ModelError for texts of an unknown kind.
    """
    spans = [match.span() for match in _WORD.finditer(prompt)]
    if not spans:
        return []
    # a beginning of the prompt has the first of its tokens, unless a token goes on behind the word where it ends
    beginnings = _read(texts, [prompt[:stop] for _, stop in spans])
    first, whole = beginnings[-1]
    words: list[Word] = []
    start, done = None, 0
    for (begin, stop), (_, tokens) in zip(spans, beginnings, strict=True):
        start = begin if start is None else start
        if tokens != whole[: len(tokens)]:
            continue
        if len(tokens) > done:
            words.append(Word(prompt[start:stop], start, tuple(range(first + done, first + len(tokens)))))
        start, done = None, len(tokens)
    return words


def phrase_tokens(texts: Texts, prompt: str, phrase: str) -> tuple[int, ...]:
    """The places among a prompt's tokens of all words of a phrase, such as a class name, wherever the prompt has it.

    Letter case and the width of blanks do not count.

    Raises DataError for a phrase that the prompt lacks, and as `word_tokens` does.
    """
    pattern = r"\s+".join(re.escape(part) for part in phrase.split())
    found = re.finditer(f"{_EDGE}{pattern}{_EDGE}", prompt, re.IGNORECASE) if pattern else ()
    spans, words = [match.span() for match in found], word_tokens(texts, prompt)
    tokens = {token for word in words for a, b in spans if word.start < b and a < word.stop for token in word.tokens}
    if not tokens:
        near = nearest(phrase, [word.text for word in words])
        raise DataError(
            f"prompt {prompt!r} does not hold the words {phrase!r}. Write them into the prompt as they stand, or name "
            f"words that it has.{near}"
        )
    return tuple(sorted(tokens))


def alignment(texts: Texts, source: str, target: str) -> Float[Tensor, "target_token source_token"]:
    """How tokens of `target` are made of tokens of `source`: float32 on the device of the states.

    A row sums to 1. Only the rows of an inserted word are 0 throughout: it stands for nothing in `source`, and keeps
    what it has of its own.

    A word that both prompts have in the same order stands for itself, token by token. A word in place of others stands
    for each of them by the cosine between the two words, where a negative cosine counts as 0 and cosines that are all
    0 count alike; all tokens of the word have this row, and the tokens of a replaced word count alike. A word's vector
    is the mean over its tokens' states in a prompt that holds nothing else. Marks and padding stand for their like,
    counted from the words; where `source` has less padding, its last token stands for the rest.

    Raises DataError for a prompt without words or one that is too long, and ModelError for texts of an unknown kind.

    Sources: the paper, section D.1.3; Hertz et al. 2022 (prompt-to-prompt), section 3.
    """
    olds, news = word_tokens(texts, source), word_tokens(texts, target)
    for prompt, words in ((source, olds), (target, news)):
        if not words:
            raise DataError(f"prompt {prompt!r} has no words that another's could stand for. Write what it shows.")
    states = texts.states([source, target])
    rows = _marks(olds, news, states.shape[1])
    matcher = SequenceMatcher(None, [_same(word) for word in olds], [_same(word) for word in news], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            for old, new in zip(olds[a:b], news[c:d], strict=True):
                _stand_for_itself(rows, old, new)
        elif kind == "replace":
            for new, weights in zip(news[c:d], _similar(texts, news[c:d], olds[a:b]), strict=True):
                for old, weight in zip(olds[a:b], weights.tolist(), strict=True):
                    rows[_block(new, old)] = weight / len(old.tokens)
    return rows.to(states.device)


def _marks(olds: list[Word], news: list[Word], length: int) -> Float[Tensor, "target_token source_token"]:
    """The rows of the tokens before the first word and behind the last."""
    rows = torch.zeros(length, length)
    for token in range(length):
        if token < news[0].tokens[0]:
            rows[token, max(0, token - news[0].tokens[0] + olds[0].tokens[0])] = 1
        if token > news[-1].tokens[-1]:
            rows[token, min(length - 1, token - news[-1].tokens[-1] + olds[-1].tokens[-1])] = 1
    return rows


def _same(word: Word) -> str:
    return word.text.casefold()


def _stand_for_itself(rows: Float[Tensor, "target_token source_token"], old: Word, new: Word) -> None:
    """Token by token, or all alike where the same word in other letters has another number of them."""
    if len(old.tokens) == len(new.tokens):
        rows[list(new.tokens), list(old.tokens)] = 1
    else:
        rows[_block(new, old)] = 1 / len(old.tokens)


def _block(new: Word, old: Word) -> tuple[slice, slice]:
    return slice(new.tokens[0], new.tokens[-1] + 1), slice(old.tokens[0], old.tokens[-1] + 1)


def _similar(texts: Texts, news: list[Word], olds: list[Word]) -> Float[Tensor, "new old"]:
    """Cosines of words, those below 0 as 0, over the sum of a row; all alike in a row that has none."""
    cosines = cosine_similarity(_vectors(texts, news)[:, None], _vectors(texts, olds), dim=-1).clamp(min=0)
    cosines = torch.where(cosines.sum(1, keepdim=True) > 0, cosines, 1)
    return cosines / cosines.sum(1, keepdim=True)


def _vectors(texts: Texts, words: list[Word]) -> Float[Tensor, "word width"]:
    """The mean over a word's tokens of their states, each word in a prompt of its own."""
    alone = [word.text for word in words]
    states, read = texts.states(alone), _read(texts, alone)
    return torch.stack([found[k : k + len(tokens)].mean(0) for found, (k, tokens) in zip(states, read, strict=True)])


def _read(texts: Texts, prompts: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Of each prompt the place of its first token that is no mark, and its tokens without marks and padding."""
    if isinstance(texts, ClipTexts):
        tokens = texts.clip.tokenize(list(prompts))
        # open_clip's own way to find the end: no token has a larger number
        return [(1, row[1:end].tolist()) for row, end in zip(tokens, tokens.argmax(1).tolist(), strict=True)]
    if not isinstance(texts, TransformersTexts):
        raise ModelError(
            f"texts of the kind {type(texts).__name__} do not tell their tokens; expected ClipTexts or "
            "TransformersTexts. Take a model with one of these."
        )
    most, read = int(texts.tokenizer.model_max_length), []
    padded = texts.tokenizer(list(prompts), padding="max_length", max_length=most)["input_ids"]
    bare = texts.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    for prompt, row, tokens in zip(prompts, padded, bare, strict=True):
        if len(row) > most:
            raise DataError(
                f"prompt {prompt!r} has {len(row)} tokens, but this model reads at most {most}. Shorten it."
            )
        first = next(k for k in range(len(row) + 1) if row[k : k + len(tokens)] == tokens)
        read.append((first, tokens))
    return read
