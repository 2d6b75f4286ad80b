"""Captions: of labels, of a table, and of tiny random BLIP, GIT and LLaVA folders, against transformers itself."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
import xarray as xr
from PIL import Image

from optogram.data.captions import captions
from optogram.data.image_makers import stated_values
from optogram.data.scenes import ATTRIBUTES, Scenes
from optogram.errors import DataError, ModelError
from optogram.guidance.captions import (
    ASKED,
    TOKENS,
    class_names,
    image_captions,
    label_captions,
    load_captioner,
    table_captions,
    with_class,
)

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "##s"]
SAID = ["an", "image", "of", "a", "cat", "pug", "dog", "on", "grass", "water", "with", "snow", "at", "night"]
WORDS = [*MARKS, *SAID]
TEMPLATE = (
    "{% for part in messages[0].content %}{% if part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}"
    "{% endfor %} answer "
)


def test_a_scene_s_caption_says_all_labels_in_words_that_models_learn_from():
    images = Scenes("eval", 40, seed=3, size=32).read(0, 40)
    found = label_captions(images)
    assert len(set(found)) > 30
    for k, caption in enumerate(found):
        labels = images.label.values[k].tolist()
        values = {name: ATTRIBUTES[name][label] for name, label in zip(ATTRIBUTES, labels, strict=True)}
        assert stated_values(caption) == {name: (value,) for name, value in values.items()}
        swapped = stated_values(with_class(caption, values["shape"], "ring"))
        assert swapped == {name: (value,) for name, value in (values | {"shape": "ring"}).items()}
    drawn, _ = captions(images.label.values[:1], 20_000, np.random.default_rng(0), full=20_000)
    assert found[0] in set(drawn[0].tolist())


def test_what_is_not_known_of_a_scene_is_not_said():
    images = Scenes("eval", 1, seed=3, size=32).read(0, 1)
    known = images.label.sel(attribute="shape").values.tolist()
    images["label"][:] = -1
    images["label"][:, 0] = known
    shape = class_names(images)[0]
    assert label_captions(images) == [f"an image of a {shape}"]
    images["label"][0, list(ATTRIBUTES).index("colour")] = list(ATTRIBUTES["colour"]).index("orange")
    assert label_captions(images) == [f"an image of an orange {shape}"]


def photos(labels=(1, 0)):
    """Two photographs of classes, without pixels."""
    return xr.Dataset(
        {
            "label": (("image", "attribute"), np.array(labels, np.int16)[:, None]),
            "value_name": (("attribute", "value"), np.array([["cat", "Irish setter"]], object)),
        },
        {"image": np.array(["dog/a.jpg", "cat/b.jpg"], object), "attribute": ["class"]},
        {"class_attribute": "class"},
    )


def test_a_photograph_s_caption_names_its_class():
    assert image_captions("labels", photos()) == ["an image of a Irish setter", "an image of a cat"]
    with pytest.raises(DataError, match=r"class of cat/b.jpg is not known. Label"):
        label_captions(photos((0, -1)))


def test_a_table_s_captions_are_found_by_image(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(
        '\ufeffimage,caption\r\ncat/b.jpg,"a cat, asleep "\r\n\r\nx.png,unused\r\ndog/a.jpg,an Irish setter'.encode()
    )
    assert table_captions(path, ["dog/a.jpg", "cat/b.jpg"]) == ["an Irish setter", "a cat, asleep"]
    assert image_captions(str(path), photos()) == ["an Irish setter", "a cat, asleep"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "header is missing, expected image,caption"),
        ("file,text\na,b\n", "header is file,text, expected image,caption"),
        ("image,caption\na,a cat\nb, \n", "line 3 has no caption"),
        ("image,caption\n,a cat\n", "line 2 has no image"),
        ("image,caption\na,a cat, asleep\n", "line 2 has 3 fields, expected 2.*double quotes"),
        ('image,caption\na,"a\ncat"\na,two\n', "a is in line 3 and in line 4"),
        ('image,caption\na,"a cat\n', "no table in UTF-8"),
        ("image,caption\na,caf\u00e9\n".encode("latin-1"), "no table in UTF-8"),
        ("image,caption\na,a cat\n", "1 of 2 images have no caption: b. Add"),
    ],
)
def test_tables_that_cannot_be_used_say_why(content, says, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=says):
        table_captions(path, ["a", "b"])


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read .*labels, captioner:PATH, or the path of a CSV"):
        image_captions(str(tmp_path / "none.csv"), photos())


SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 16, "patch_size": 8, "initializer_range": 0.02}


def written(folder, model, processor):
    """Random weights so large that each picture has its own caption."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(1 if "norm" in name.lower() else 12)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def bert_tokenizer(folder, **special):
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return transformers.BertTokenizer(
        str(folder / "vocab.txt"), model_input_names=["input_ids", "attention_mask"], **special
    )


def blip(folder):
    text = {**SIZES, "encoder_hidden_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 64}
    text |= {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 2, "sep_token_id": 3, "projection_dim": 8}
    config = transformers.BlipConfig(text_config=text, vision_config=VISION, projection_dim=8)
    images = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    processor = transformers.BlipProcessor(images, bert_tokenizer(folder, bos_token="[DEC]"))
    return written(folder, transformers.BlipForConditionalGeneration(config), processor)


def clip_images():
    return transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def git(folder):
    config = transformers.GitConfig(
        vision_config=VISION,
        vocab_size=len(WORDS),
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        **SIZES,
    )
    processor = transformers.GitProcessor(clip_images(), bert_tokenizer(folder))
    return written(folder, transformers.GitForCausalLM(config), processor)


def llava(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<end>", "<odd>", "<image>", "answer", *SAID, *ASKED.split()]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(dict.fromkeys(words))}, "<odd>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<odd>",
        pad_token="<end>",
        eos_token="<end>",
        additional_special_tokens=["<image>"],
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(vocab_size=len(wrapped), eos_token_id=0, pad_token_id=0, **SIZES),
        image_token_index=2,
        vision_feature_layer=-1,
    )
    processor = transformers.LlavaProcessor(
        clip_images(), wrapped, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.chat_template = TEMPLATE
    return written(folder, transformers.LlavaForConditionalGeneration(config), processor)


@pytest.fixture(scope="module", params=[blip, git, llava], ids=lambda make: make.__name__)
def captioner(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return request.param.__name__, request.param(tmp_path_factory.mktemp(request.param.__name__))


def some_pixels(count=4):
    """Pictures of one colour each."""
    colours = np.random.default_rng(0).integers(0, 256, (count, 1, 1, 3), np.uint8)
    return np.broadcast_to(colours, (count, 20, 20, 3)).copy()


def directly(kind, folder, picture, start):
    """The caption of one picture, each kind of model asked as its documentation says."""
    image = Image.fromarray(picture)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    if kind == "blip":
        model = transformers.BlipForConditionalGeneration.from_pretrained(folder).eval()
        given = processor(image, start, return_tensors="pt")
    elif kind == "git":
        model = transformers.GitForCausalLM.from_pretrained(folder).eval()
        tokenizer = processor.tokenizer
        ids = [tokenizer.cls_token_id, *tokenizer(start, add_special_tokens=False).input_ids]
        given = {**processor(images=image, return_tensors="pt"), "input_ids": torch.tensor([ids])}
    else:
        model = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
        given = processor(image, f"<image> {ASKED} answer {start}", return_tensors="pt")
    said = model.generate(**given, max_new_tokens=TOKENS, do_sample=False)[0]
    # BLIP leaves the mark of the prompt's end out of what it returns
    new = said[given["input_ids"].shape[1] - (kind == "blip") :]
    return processor.decode(new, skip_special_tokens=True)


def test_a_captioner_goes_on_with_an_image_of_a_class(captioner):
    kind, folder = captioner
    pixels, classes = some_pixels(), ["cat", "pug dog", "cat", "dog"]
    found = load_captioner(folder, device="cpu").captions(pixels, classes)
    assert found[0] != found[2], "the caption depends on the picture"
    for picture, name, caption in zip(pixels, classes, found, strict=True):
        start = f"an image of a {name}"
        said = directly(kind, folder, picture, start)
        # a piece of a word joins what is before it
        assert caption == " ".join(f"{start} {said}".replace(" ##", "").split())
    images = photos((0, 0)).assign(pixels=(("image", "y", "x", "rgb"), pixels[[0, 2]]))
    assert image_captions(f"captioner:{folder}", images, device="cpu") == [found[0], found[2]]


def test_a_caption_does_not_depend_on_the_images_beside_it(captioner):
    model = load_captioner(captioner[1], device="cpu")
    pixels = some_pixels(11)
    found = model.captions(pixels, ["cat"] * 11)
    assert [model.captions(pixels[k : k + 1], ["cat"])[0] for k in (0, 7, 10)] == [found[k] for k in (0, 7, 10)]
    assert model.captions(pixels[:0], []) == []


def test_a_captioner_keeps_the_class_as_it_is_written(captioner):
    """Tokenizers without capitals, and with words that they do not know."""
    (caption,) = load_captioner(captioner[1], device="cpu").captions(some_pixels(1), ["St. Bernard-mix"])
    assert caption.startswith("an image of a St. Bernard-mix")


def test_folders_that_are_no_captioner_are_refused(captioner, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere: no such folder. Expected a folder of an image-to-text model"):
        image_captions(f"captioner:{tmp_path / 'nowhere'}", photos().assign(pixels=("image", [0, 0])))
    copy = tmp_path / "copy"
    shutil.copytree(captioner[1], copy)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be read: .*its weights as model.safetensors: convert them"):
        load_captioner(copy, device="cpu")
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match=r"cannot be read: .*download the folder again"):
        load_captioner(copy, device="cpu")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "sam"}))
    with pytest.raises(ModelError, match=r"cannot be read: .*Expected a folder of an image-to-text model"):
        load_captioner(copy, device="cpu")


def test_a_model_that_answers_instead_of_going_on_is_refused(tmp_path):
    text = {"vocab_size": len(WORDS), "hidden_size": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    vision = {"hidden_size": 16, "patch_embed_hidden_size": 16, "d_ff": 16, "d_kv": 8, "num_hidden_layers": 1}
    config = transformers.Pix2StructConfig(text_config=text, vision_config={**vision, "num_attention_heads": 2})
    transformers.Pix2StructForConditionalGeneration(config).save_pretrained(tmp_path)
    transformers.Pix2StructProcessor(
        transformers.Pix2StructImageProcessor(), transformers.T5Tokenizer()
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"a Pix2StructForConditionalGeneration does not go on with a text"):
        load_captioner(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("caption", "source", "target", "found"),
    [
        ("an image of a koala on a tree", "koala", "panda", "an image of a panda on a tree"),
        ("An Image of a COCKER  spaniel, a cocker spaniel", "Cocker Spaniel", "pug", "An Image of a pug, a pug"),
        ("a cat by a cathedral, no wildcat", "cat", "dog", "a dog by a cathedral, no wildcat"),
        ("a hot-dog and a dog", "dog", "pug", "a hot-dog and a pug"),
        ("two crosses at night", "cross", "star", "two stars at night"),
        ("three rings", "ring", "cross", "three crosses"),
        ("a C++ (logo) here", "C++ (logo)", r"\1 sign", r"a \1 sign here"),
    ],
)
def test_the_class_is_swapped_as_whole_words(caption, source, target, found):
    assert with_class(caption, source, target) == found


def test_a_caption_without_the_class_is_refused():
    for caption in ("an image of a dog", "a cathedral", ""):
        with pytest.raises(DataError, match=r"caption without the class name: .* 'cat', so that 'dog' cannot.*Write"):
            with_class(caption, "cat", "dog")
    with pytest.raises(DataError, match="' ' is to become 'dog', but a name is blank"):
        with_class("a cat", " ", "dog")
