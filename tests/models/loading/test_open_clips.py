"""CLIPs of open_clip: activation and colours of the weights, and every kind of CLIP in a folder of its own."""

import json

import open_clip
import open_clip.factory
import open_clip.pretrained
import pytest
import torch
from safetensors.torch import save_file

from optogram.errors import ModelError
from optogram.models.loading.clip_folders import build_open_clip, encode_images, encode_texts, load_clip, save_clip
from optogram.models.loading.open_clips import open_clip_config, open_clip_preprocess, open_clip_tokenizer
from optogram.models.loading.specs import check_folder_can_hold, load_clip_spec, load_model

VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8}
TEXT = {"vocab_size": 600, "context_length": 24, "width": 16, "heads": 2, "layers": 1}
PLAIN = {"embed_dim": 12, "vision_cfg": VISION, "text_cfg": TEXT}
OPENAIS = {"input_resolution": torch.tensor(16), "context_length": torch.tensor(24), "vocab_size": torch.tensor(600)}
KINDS = {
    "plain": PLAIN,
    "custom text": PLAIN | {"custom_text": True},
    "quick gelu": PLAIN | {"quick_gelu": True},
    "bias": PLAIN | {"custom_text": True, "init_logit_bias": -10},
    "resnet": PLAIN | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}},
    "tower of timm": PLAIN
    | {
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": True,
            "timm_pool": "",
            "image_size": 160,
        },
        "custom_text": True,
    },
    "coca": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 24, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1},
    },
}


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Registers architectures, and tags of weights, of this test only."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))

    def register(name, config, **tags):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
        return name

    return register


def saved(tmp_path, config, **beside):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_open_clip(config).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    save_file({n: w.contiguous().clone() for n, w in model.state_dict().items()} | beside, tmp_path / "w.safetensors")
    return model, tmp_path / "w.safetensors"


def images(size=16):
    return torch.linspace(-2, 2, 2 * 3 * size * size).reshape(2, 3, size, size).sin()


@torch.no_grad()
def same_images(model, other):
    return torch.allclose(model.encode_image(images()), other.encode_image(images()), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_clip_is_opened_again_from_its_folder(tmp_path, known, kind):
    name = known("kind-test", KINDS[kind])
    own, path = saved(tmp_path, KINDS[kind])
    check_folder_can_hold(f"open_clip:{name}")
    clip = load_clip_spec(f"open_clip:{name}", checkpoint=path, device="cpu")
    assert type(clip.model) is type(open_clip.create_model(name, load_weights=False))
    save_clip(clip, tmp_path / "folder", dtype=torch.float32)
    again = load_clip(tmp_path / "folder", "cpu")
    texts, pixels = ["a red circle", "two stars"], torch.arange(2 * 20 * 20 * 3).reshape(2, 20, 20, 3) % 251
    pixels = pixels.to(torch.uint8).numpy()
    assert torch.equal(encode_images(again, pixels), encode_images(clip, pixels))
    assert torch.equal(encode_texts(again, texts), encode_texts(clip, texts))
    with torch.no_grad():  # weights that lie elsewhere in memory may be summed in another order
        torch.testing.assert_close(own.encode_text(clip.tokenize(texts), normalize=True), encode_texts(clip, texts))


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "roberta-ViT-B-32", "coca_base", "ViT-H-14-worldwide"])
def test_another_tokenizer_is_refused_before_anything_is_loaded(name):
    with pytest.raises(ModelError, match=f"open_clip:{name} reads texts with another tokenizer than CLIP's"):
        check_folder_can_hold(f"open_clip:{name}")


# What the weights were trained with

QUICK, COLOURS = {"quick_gelu": True}, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
OPENAI_COLOURS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def test_openais_own_file_has_its_activation(tmp_path, known):
    name = known("openai-test", PLAIN, openai=QUICK | OPENAI_COLOURS, laion=OPENAI_COLOURS)
    own, path = saved(tmp_path, PLAIN | QUICK, **OPENAIS)
    for spec in (f"open_clip:{name}", f"open_clip:{name}/openai"):
        clip = load_clip_spec(spec, checkpoint=path, device="cpu")
        assert same_images(clip.model, own)
        assert clip.config["architecture"]["quick_gelu"]
    with pytest.raises(ModelError, match=r"laion have GELU. Give open_clip:openai-test/openai"):
        load_model(f"open_clip:{name}/laion", checkpoint=path)


def test_what_no_tag_says_is_told(tmp_path, known, capsys):
    name = known("told-test", PLAIN, metaclip=QUICK | OPENAI_COLOURS, laion=COLOURS)
    own, path = saved(tmp_path, PLAIN)
    model, preprocess = load_model(f"open_clip:{name}", checkpoint=path, device="cpu")
    said = capsys.readouterr().err
    assert same_images(model, own)
    assert preprocess.mean == OPENAI_COLOURS["mean"]
    assert "it runs with GELU" in said
    assert "(metaclip), give open_clip:told-test/metaclip" in said
    assert "weights of laion want others" in said
    load_model(f"open_clip:{name}/metaclip", checkpoint=path, device="cpu")
    assert capsys.readouterr().err == ""


def test_colours_that_all_weights_share_are_those_of_a_file_without_a_tag(tmp_path, known, capsys):
    name = known("colours-test", PLAIN, a=COLOURS | {"resize_mode": "squash"}, b=COLOURS | {"resize_mode": "squash"})
    _, path = saved(tmp_path, PLAIN)
    _, preprocess = load_model(f"open_clip:{name}", checkpoint=path, device="cpu")
    assert (preprocess.mean, preprocess.std, preprocess.resize) == (*COLOURS.values(), "squash")
    assert "prepared as for all published weights of colours-test" in capsys.readouterr().err


def test_tags_bring_their_activation_and_colours():
    from open_clip.pretrained import get_pretrained_cfg

    assert open_clip_config("ViT-B-32", get_pretrained_cfg("ViT-B-32", "openai"))["quick_gelu"]
    assert not open_clip_config("ViT-B-32", get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")).get("quick_gelu")
    tower = torch.nn.Module()
    tower.visual = torch.nn.Module()
    tower.visual.image_size = 224
    siglip = open_clip_preprocess("x", tower, get_pretrained_cfg("ViT-B-16-SigLIP", "webli"))
    assert (siglip.mean, siglip.resize) == ((0.5, 0.5, 0.5), "squash")


def test_clips_own_vocabulary_is_tokenised_as_open_clip_does():
    tokenize = open_clip_tokenizer("open_clip:ViT-B-32", "ViT-B-32", open_clip_config("ViT-B-32", {}))
    texts = ["a photo of a naïve café, 3 zebras & 🦓!", "x" * 60, ""]
    assert torch.equal(tokenize(texts), open_clip.get_tokenizer("ViT-B-32")(texts))


def test_a_tokenizer_that_cannot_be_had_is_named(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    name = "ViT-B-16-SigLIP"
    with pytest.raises(ModelError, match=r"its tokenizer cannot be had .*`transformers`"):
        open_clip_tokenizer(f"open_clip:{name}/webli", name, open_clip_config(name, {}))
