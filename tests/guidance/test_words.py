"""Words among tokens: what the tokens of each spell; alignments against the paper's words, read literally."""

import json

import pytest
import torch
from tiny_diffusion import tiny_texts
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from optogram.errors import DataError, ModelError
from optogram.guidance.words import alignment, phrase_tokens, word_tokens
from optogram.models.generative.texts import TransformersTexts

SOURCE, TARGET = "an image of a red star, on snow", "an image of a house at night, on snow"


@pytest.fixture(scope="module")
def clip():
    return tiny_texts()


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """As Stable Diffusion reads: transformers' tokenizer of CLIP, here of letters and a few words."""
    folder = tmp_path_factory.mktemp("stable")
    letters = [*"abcdeghimnorstw,"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    merges = [("s", "t"), ("a", "r</w>"), ("st", "ar</w>")]
    words += ["".join(pair) for pair in merges]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=40)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=40,
            bos_token_id=0,
            eos_token_id=1,
        )
        return TransformersTexts(CLIPTextModel(config).eval(), tokenizer)


@pytest.fixture(scope="module")
def t5():
    """As PixArt reads: pieces of words, capital letters told apart, an end mark and no start mark."""
    letters = [(x, -9.0) for x in "abcdeghimnorstwARSTI,▁"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters, ("▁star", -2.0), ("▁r", -3.0), ("ed", -3.0)]
    read = Tokenizer(Unigram(pieces, unk_id=2))
    read.pre_tokenizer = Metaspace()
    read.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=40
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = T5Config(vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        return TransformersTexts(T5EncoderModel(config).eval(), tokenizer)


def spelt(texts, prompt):
    """Each token of a prompt, as it is spelt, where the denoiser is told of it."""
    if isinstance(texts, TransformersTexts):
        most = texts.tokenizer.model_max_length
        ids = texts.tokenizer(prompt, padding="max_length", max_length=most)["input_ids"]
        return [texts.tokenizer.decode([token]) for token in ids]
    return [texts.clip.tokenize._bpe.decode([token]) for token in texts.clip.tokenize([prompt])[0].tolist()]


@pytest.mark.parametrize("kind", ["clip", "stable", "t5"])
@pytest.mark.parametrize(
    "prompt", ["a red star", "a star, a red star, not on the sea", "  in  snow ,the red star", "star", "a Red STAR, In"]
)
def test_the_tokens_of_a_word_spell_it_and_those_of_all_words_are_all_tokens(kind, prompt, request):
    texts = request.getfixturevalue(kind)
    words, tokens = word_tokens(texts, prompt), spelt(texts, prompt)
    assert [word.text for word in words] == prompt.replace(",", " , ").split()
    for word in words:
        assert prompt[word.start : word.stop] == word.text
        said = "".join(tokens[token] for token in word.tokens).replace("▁", "").replace(" ", "")
        assert said.casefold() == word.text.casefold()
    held = [token for word in words for token in word.tokens]
    start = 0 if kind == "t5" else 1
    assert held == list(range(start, start + len(held)))
    assert tokens[held[-1] + 1] in ("<end_of_text>", "<|endoftext|>", "</s>")
    assert len(tokens) == texts.states([prompt]).shape[1]


def test_words_of_several_tokens_apostrophes_and_accents(clip):
    found = {word.text: word.tokens for word in word_tokens(clip, "the dog's T-shirt")}
    assert found == {"the": (1,), "dog": (2, 3), "'s": (4,), "T": (5,), "-": (6,), "shirt": (7, 8, 9)}
    # one token holds the quotation mark and the first letter: they are one word
    assert [word.text for word in word_tokens(clip, "'secret garden'")] == ["'secret", "garden", "'"]
    assert [word.text for word in word_tokens(clip, "a nai\u0308ve cafe")] == ["a", "nai\u0308ve", "cafe"]
    assert word_tokens(clip, "") == []


def test_the_places_of_a_phrase_are_those_of_its_words_wherever_they_are(clip):
    prompt = "a Red  star, by a red star; a star by 'secret doors'"
    tokens = spelt(clip, prompt)
    places = phrase_tokens(clip, prompt, "red star")
    assert "".join(tokens[k] for k in places) == "red star red star "
    assert "".join(tokens[k] for k in phrase_tokens(clip, prompt, "STAR")) == "star star star "
    assert "".join(tokens[k] for k in phrase_tokens(clip, prompt, "secret")) == "'s ecret "
    with pytest.raises(DataError, match=r"does not hold the words 'stars'\. Write them .* Did you mean 'star'"):
        phrase_tokens(clip, prompt, "stars")
    for phrase in ("tar", "star by a", ""):
        with pytest.raises(DataError, match="does not hold the words"):
            phrase_tokens(clip, prompt, phrase)


@pytest.mark.parametrize("kind", ["clip", "stable", "t5"])
def test_identical_prompts_are_aligned_by_the_identity(kind, request):
    texts = request.getfixturevalue(kind)
    length = texts.states([SOURCE]).shape[1]
    assert torch.equal(alignment(texts, SOURCE, SOURCE), torch.eye(length))


def vector(texts, word):
    """A word's vector by its definition."""
    places = [token for part in word_tokens(texts, word) for token in part.tokens]
    state = texts.states([word])[0]
    return sum(state[place] for place in places) / len(places)


def literal(texts, source, target, replaced, replacing, length):
    """Rows of the replacing words, cell by cell: averages of the replaced words' tokens, weighted by similarity."""
    rows = torch.zeros(length, length)
    for new in replacing:
        cosines = []
        for old in replaced:
            a, b = vector(texts, new), vector(texts, old)
            cosines.append(max(0.0, float(a @ b / (a.norm() * b.norm()))))
        if not any(cosines):
            cosines = [1.0] * len(cosines)
        for old, cosine in zip(replaced, cosines, strict=True):
            places = phrase_tokens(texts, source, old)
            for row in phrase_tokens(texts, target, new):
                for column in places:
                    rows[row, column] = cosine / sum(cosines) / len(places)
    return rows


@pytest.mark.parametrize("kind", ["clip", "stable", "t5"])
@pytest.mark.parametrize("turned", [False, True])
def test_unequal_numbers_of_words_are_averaged_by_similarity(kind, turned, request):
    texts = request.getfixturevalue(kind)
    prompts, words = [SOURCE, TARGET], [["red", "star"], ["house", "at", "night"]]
    if turned:
        prompts, words = prompts[::-1], words[::-1]
    found = alignment(texts, *prompts)
    length = len(found)
    torch.testing.assert_close(found.sum(1), torch.ones(length))
    expected = literal(texts, *prompts, *words, length)
    rows = [row for word in words[1] for row in phrase_tokens(texts, prompts[1], word)]
    torch.testing.assert_close(found[rows], expected[rows])
    assert rows[-1] - rows[0] == len(rows) - 1
    # what stands before is itself, what stands behind is moved by the difference, and padding runs out at the end
    behind = phrase_tokens(texts, prompts[0], words[0][-1])[-1] - rows[-1]
    for row in range(length):
        if row not in rows:
            own = row if row < rows[0] else min(row + behind, length - 1)
            assert found[row].nonzero().flatten().tolist() == [own]


@pytest.fixture
def planted():
    """A text tower of which each token's state is its own vector only, centred: red = -night, house between."""
    texts = tiny_texts()
    tower = texts.clip.model
    with torch.no_grad():
        tower.positional_embedding.zero_()
        for block in tower.transformer.resblocks:
            block.attn.out_proj.weight.zero_()
            block.attn.out_proj.bias.zero_()
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
        red, night, house, on = (texts.clip.tokenize([word])[0, 1] for word in ("red", "night", "house", "on"))
        x = torch.tensor([1.0, -1, 0, 0] * 4)
        y = torch.tensor([0, 0, 1.0, -1] * 4)
        for token, value in ((red, x), (night, -x), (house, x + y), (on, y)):
            tower.token_embedding.weight[token] = value
    return texts


def test_similar_words_stand_for_each_other_and_opposite_ones_do_not(planted):
    # cosines of house: 1/sqrt 2 with red, -1/sqrt 2 with night, 1/sqrt 2 with on
    found = alignment(planted, "a red night on", "a house")
    torch.testing.assert_close(found[2, :6], torch.tensor([0, 0, 0.5, 0, 0.5, 0]), rtol=0, atol=1e-6)
    found = alignment(planted, "a red on", "a night house")
    torch.testing.assert_close(found[2:4, 2:4], torch.tensor([[0.5, 0.5], [0.5, 0.5]]), rtol=0, atol=1e-6)
    found = alignment(planted, "a red on", "a night")
    torch.testing.assert_close(found[2, 2:4], torch.tensor([0.5, 0.5]), msg="nothing is similar: all alike")
    found = alignment(planted, "a night house", "a red")
    torch.testing.assert_close(found[2, 2:4], torch.tensor([0.0, 1.0]), rtol=0, atol=1e-6)


def test_inserted_words_stand_for_nothing_and_the_others_for_themselves(clip):
    source, target = "a red star on snow", "a very red star, deep on snow"
    found = alignment(clip, source, target)
    inserted = [row for word in ("very", ",", "deep") for row in phrase_tokens(clip, target, word)]
    assert (found.sum(1) == 0).nonzero().flatten().tolist() == sorted(inserted)
    for word in ("red", "star", "on", "snow"):
        rows, columns = phrase_tokens(clip, target, word), phrase_tokens(clip, source, word)
        assert torch.equal(found[list(rows)][:, list(columns)], torch.eye(len(rows)))
    back = alignment(clip, target, source)
    torch.testing.assert_close(back.sum(1), torch.ones(len(back)))
    assert float(back[:, inserted].sum()) == 0, "what is left out goes nowhere"


def test_letter_case_makes_no_other_word(t5):
    source, target = "a Star, red", "a star, red"
    old, new = phrase_tokens(t5, source, "star"), phrase_tokens(t5, target, "star")
    assert len(old) != len(new)
    found = alignment(t5, source, target)
    torch.testing.assert_close(found[list(new)][:, list(old)], torch.full((len(new), len(old)), 1 / len(old)))


@pytest.mark.misfits
def test_what_cannot_be_read_is_named(clip, stable):
    with pytest.raises(DataError, match="prompt '' has no words"):
        alignment(clip, "a star", "")
    for texts in (clip, stable):
        with pytest.raises(DataError, match="tokens, but this model reads at most"):
            word_tokens(texts, "a star " * 40)
    with pytest.raises(ModelError, match="texts of the kind object do not tell their tokens"):
        word_tokens(object(), "a star")
