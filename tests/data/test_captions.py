"""Captions: parsed back word by word, they say just what `mentions` claims, and it is true."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optogram.data.captions import WIDTH, captions, prompts
from optogram.data.scenes import ATTRIBUTES
from optogram.errors import ParamError

# An independent reading of the language: which words give which value away.
WORDS = {
    "shape": {"circle": "circle disc", "square": "square", "triangle": "triangle", "star": "star"}
    | {"cross": "cross plus", "ring": "ring hoop"},
    "colour": {name: name for name in ATTRIBUTES["colour"]},
    "texture": {"plain": "plain solid", "striped": "striped", "dotted": "dotted spotted", "checkered": "checkered"},
    "size": {"small": "small little", "large": "large big"},
    "count": {"one": "one single", "two": "two pair", "three": "three trio"},
    "position": {"left": "left", "right": "right", "top": "top upper", "bottom": "bottom lower"}
    | {"centre": "centre middle"},
    "background": {"grass": "grass", "water": "water", "sand": "sand", "snow": "snow", "brick": "brick"}
    | {"night": "night"},
}
READ = {word: (a, v) for a, values in WORDS.items() for v, words in values.items() for word in words.split()}


def stated(text):
    words = text.replace(",", " ").split()
    forms = {form for word in words for form in (word, word.removesuffix("s"), word.removesuffix("es"))}
    return {READ[form] for form in forms if form in READ}


def labels(seed, count):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, len(v), count) for v in ATTRIBUTES.values()], 1).astype(np.int16)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), variants=st.integers(1, 6))
def test_captions_state_exactly_what_they_mention_and_it_is_true(seed, variants):
    label = labels(seed, 64)
    said, mentions = captions(label, variants, np.random.default_rng(seed))
    assert said.shape == (64, variants)
    assert mentions.shape == (64, variants, len(ATTRIBUTES))
    for row, texts, claims in zip(label, said, mentions, strict=True):
        values = [(a, v[k]) for (a, v), k in zip(ATTRIBUTES.items(), row, strict=True)]
        for text, claim in zip(texts, claims, strict=True):
            assert stated(text) == {pair for pair, mentioned in zip(values, claim, strict=True) if mentioned}, text


def test_plural_only_where_there_is_more_than_one():
    label = labels(0, 2000)
    said, _ = captions(label, 2, np.random.default_rng(0))
    for row, texts in zip(label, said, strict=True):
        for text in texts:
            nouns = ("objects", "shapes", "things", "circles", "discs", "squares", "rings", "crosses", "signs")
            plural = any(noun in text.split() for noun in nouns)
            assert not plural or row[4] > 0, text


def test_completeness_varies_and_captions_are_many():
    said, mentions = captions(labels(1, 4000), 4, np.random.default_rng(1))
    share = np.bincount(mentions.sum(-1).ravel(), minlength=8) / mentions[..., 0].size
    assert share[0] == 0
    assert share[1] > 0.1
    assert share[6:].sum() > 0.05
    assert len(np.unique(said)) > 5000
    assert max(len(text) for text in said.ravel()) < WIDTH
    assert all(text == " ".join(text.split()) and text[-1] != "," for text in said.ravel())


def test_same_generator_same_captions():
    first, second = (captions(labels(2, 50), 3, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize(("attribute", "value"), [(a, v) for a, values in ATTRIBUTES.items() for v in values])
def test_prompts_state_their_value_and_nothing_else(attribute, value):
    texts = prompts(attribute, value)
    assert len(texts) >= 8
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert stated(text) == {(attribute, value)}, text
        assert " a o" not in f" {text}", text  # "a object", "a orange"


def test_unknown_attributes_and_values_are_named():
    with pytest.raises(ParamError, match="attribute 'color'"):
        prompts("color", "red")
    with pytest.raises(ParamError, match="Did you mean 'circle'"):
        prompts("shape", "circel")


def test_the_longest_caption_fits_the_demo_models_context():
    """32 tokens at 3000 merges, for every choice of words at once."""
    from optogram.models.loading.clip_folders import Tokenizer, first_merges

    tokenize = Tokenizer(first_merges(3000), 32)
    rng = np.random.default_rng(0)
    longest = labels(3, 3000)
    longest[:, [1, 4]] = 4, 2  # purple, three
    said, _ = captions(longest, 4, rng)
    assert (tokenize(sorted({text for text in said.ravel() if len(text) > 60})) > 0).any()
