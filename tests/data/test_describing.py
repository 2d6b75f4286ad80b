"""Describers: what the grammar writes, what is accepted of a language model's answer, and a real one asked."""

import json

import numpy as np
import pytest
import torch

from optogram.data.describing import describer, grammar, parsed_descriptions, transformers_describer
from optogram.errors import DataError, ModelError, ParamError

PHRASES = ["a photo of red objects", "An object on grass", "two things", "a big square", "a night sky", "Red objects"]


def test_grammar_writes_english_of_the_class_and_one_to_four_phrases():
    texts = grammar(PHRASES, "a circle", ("square",), 30, 0)
    assert len(texts) == len(set(texts)) == 30
    parts = ["red objects", "an object on grass", "two things", "a night sky"]
    for text in texts:
        opening, _, rest = text.partition(" a circle with ")
        assert opening in ("a photo of", "a picture of", "an image of")
        said = rest.replace(" and ", ", ").split(", ")
        assert 1 <= len(said) == len(set(said)) <= 4
        assert set(said) <= set(parts), "no square, no opening of its own, no phrase twice"
    assert grammar(PHRASES, "a circle", ("square",), 30, 0) == texts
    assert grammar(PHRASES, "a circle", ("square",), 30, 1) != texts
    many = [f"number {k:02d}" for k in range(20)]
    said = " ".join(grammar(many, "a circle", ("square",), 200, 0))
    assert said.count("number 00") > 3 * said.count("number 19") > 0, "better phrases come more often"


def test_grammar_without_phrases_says_the_class_alone():
    assert sorted(grammar([], "a ring", ("circle",), 50, 0)) == [
        "a photo of a ring",
        "a picture of a ring",
        "an image of a ring",
    ]
    assert grammar(["a disc"], "a ring", ("circle", "disc"), 2, 0)[0].endswith("a ring")


def test_parser_accepts_lines_with_the_class_and_without_the_other():
    answer = """Here are 5 image descriptions of a circle:

1. A circle on grass, next to two bricks
2) "A red circle at night"
 - **Circles   in the snow**
* A circle beside a square
• A disc on sand
3: A circle on Squares of a board
A circle at night\x07
a circle on grass, with the following things:
4. A circle on grass, next to two bricks
"""
    assert parsed_descriptions(answer, "a circle", ("square", "box")) == [
        "A circle on grass, next to two bricks",
        "A red circle at night",
        "Circles in the snow",
    ]
    assert parsed_descriptions("a circle " + "x" * 300, "a circle", ("square",)) == []
    assert parsed_descriptions("1. Red objects at night", "a red object", ("blue",)) == ["Red objects at night"]
    assert parsed_descriptions("12 puppies and a circle", "a circle", ("puppy",)) == []


@pytest.mark.parametrize("name", ["rules", "transformers", "transformers:", "llama"])
def test_unknown_generators_are_named(name):
    with pytest.raises(ParamError, match="grammar, or transformers:"):
        describer(name)


def test_the_grammar_is_a_describer():
    assert describer("grammar") is grammar


@pytest.fixture(scope="module")
def tiny_gpt(tmp_path_factory):
    """`tiny_gpt(vocabulary, template)` = a folder with a random GPT-2 whose words are these, as safetensors."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    def make(words, *, template=None, context=2048, end="pad_token"):
        folder = tmp_path_factory.mktemp("gpt")
        vocabulary = {word: k for k, word in enumerate(["<end>", "<odd>", "\n", *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<odd>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
        wrapped = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<odd>", clean_up_tokenization_spaces=False, **{end: "<end>"}
        )
        wrapped.chat_template = template
        wrapped.save_pretrained(folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = transformers.GPT2Config(
                vocab_size=len(vocabulary),
                n_positions=context,
                n_embd=16,
                n_layer=1,
                n_head=2,
                eos_token_id=0 if end == "eos_token" else None,
                bos_token_id=None,
            )
            transformers.GPT2LMHeadModel(config).save_pretrained(folder)
        return folder

    return make


WORDS = ["circle", "square", "on", "grass", "at", "night", "a", "red", "with", "bricks"]


def test_a_language_model_s_descriptions_can_be_used_and_come_again(tiny_gpt):
    folder = tiny_gpt(WORDS)
    assert (folder / "model.safetensors").is_file()
    write = transformers_describer(str(folder))
    before = torch.random.get_rng_state()
    texts = write(["on grass", "a red square"], "a circle", ("square",), 4, 7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert 1 <= len(texts) <= 4
    assert len(set(texts)) == len(texts)
    assert all("circle" in text and "square" not in text for text in texts)
    assert write(["on grass", "a red square"], "a circle", ("square",), 4, 7) == texts
    assert write(["on grass", "a red square"], "a circle", ("square",), 4, 8) != texts
    assert describer(f"transformers:{folder}")(["on grass", "a red square"], "a circle", ("square",), 4, 7) == texts


def test_a_chat_template_is_used(tiny_gpt):
    """A template that leaves the prompt out, which alone would not fit; another says it twice, which does not fit."""
    terse = tiny_gpt(WORDS, template="{{ 'a circle on' }}", context=64)
    assert transformers_describer(str(terse))(["on grass"], "a circle", ("square",), 1, 0)
    twice = "{{ messages[0]['content'] }} {{ messages[0]['content'] }}"
    transformers_describer(str(tiny_gpt(WORDS, context=200)))(["on grass"], "a circle", ("square",), 1, 0)
    with pytest.raises(ModelError, match="its context is 200"):
        transformers_describer(str(tiny_gpt(WORDS, template=twice, context=200)))(
            ["on grass"], "a circle", ("square",), 1, 0
        )


def test_a_model_that_says_nothing_usable_is_an_error(tiny_gpt):
    write = transformers_describer(str(tiny_gpt(["square", "grass"], end="eos_token")))
    with pytest.raises(DataError, match=r"no line .* mentions 'a circle' and not 'square'.*grammar"):
        write(["on grass"], "a circle", ("square",), 3, 0)


def test_a_prompt_that_leaves_no_room_is_an_error(tiny_gpt):
    write = transformers_describer(str(tiny_gpt(WORDS, context=64)))
    with pytest.raises(ModelError, match="its context is 64"):
        write(["on grass"], "a circle", ("square",), 3, 0)


def test_a_missing_or_broken_model_is_named(tiny_gpt, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"nowhere.*cannot be loaded"):
        transformers_describer(str(tmp_path / "nowhere"))
    folder = tiny_gpt(WORDS)
    weights = folder / "model.safetensors"
    torch.save({"transformer.wte.weight": torch.zeros(2)}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded.*safetensors"):
        transformers_describer(str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="cannot be loaded"):
        transformers_describer("someone/a-model-that-is-not-here")
    (folder / "config.json").write_text(json.dumps({"model_type": "no such"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        transformers_describer(str(folder))
    weights.write_bytes(np.zeros(4, np.uint8).tobytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        transformers_describer(str(folder))
