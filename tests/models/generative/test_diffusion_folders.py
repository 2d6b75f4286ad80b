"""Folders of diffusion models: ours opens in diffusers, a Stable Diffusion folder here, and what lacks is named."""

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PixArtTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tiny_diffusion import placed, tiny_diffusion, tiny_transformer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import optogram
from optogram.errors import DataError, ModelError
from optogram.models.generative.codecs import Patches
from optogram.models.generative.diffusion_folders import copy_diffusion, load_diffusion, save_diffusion
from optogram.models.generative.sampling import sample
from optogram.models.loading.model_files import WEIGHTS

PROMPTS = ["a red star", "snow"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    diffusion = tiny_diffusion()
    path = tmp_path_factory.mktemp("ours") / "prior"
    save_diffusion(diffusion, path, dtype=torch.float32)
    return diffusion, path


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """A tiny random Stable Diffusion, written by diffusers itself, and its pipeline."""
    folder = tmp_path_factory.mktemp("stable")
    torch.manual_seed(0)
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "star</w>", "snow</w>", *"adenorstw", "w</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).eval()
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    kinds = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    vae = AutoencoderKL(
        down_block_types=kinds[0],
        up_block_types=kinds[1],
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "model")
    return pipeline, folder / "model"


def test_ours_comes_back_and_opens_in_diffusers(ours):
    diffusion, path = ours
    again = load_diffusion(str(path), device="cpu")
    drawn = [sample(one, one.states(PROMPTS), seeds=[1, 2], steps=3) for one in (diffusion, again)]
    assert torch.equal(*drawn)
    unet = UNet2DConditionModel.from_pretrained(path / "unet", use_safetensors=True)
    scheduler = DDIMScheduler.from_pretrained(path / "scheduler")
    scheduler.set_timesteps(4)
    z, states = diffusion.noise([1]), again.states(PROMPTS[:1])
    with torch.no_grad():
        for time in scheduler.timesteps:
            z = scheduler.step(unet(placed(z), time, states, class_labels=states.mean(1)).sample, time, z).prev_sample
        theirs = diffusion.codec.decode(z).clamp(0, 1)
    mine = sample(again, states, seeds=[1], steps=4, scale=1)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


def test_a_transformer_comes_back_and_opens_in_diffusers(tmp_path):
    diffusion, path = tiny_transformer(), tmp_path / "prior"
    save_diffusion(diffusion, path, dtype=torch.float32)
    again, states = load_diffusion(str(path), device="cpu"), diffusion.states(PROMPTS)
    assert again.shape == diffusion.shape
    assert torch.equal(*(sample(one, one.states(PROMPTS), seeds=[1, 2], steps=3) for one in (diffusion, again)))
    theirs = PixArtTransformer2DModel.from_pretrained(path / "transformer", use_safetensors=True)
    scheduler = DDIMScheduler.from_pretrained(path / "scheduler")
    scheduler.set_timesteps(4)
    z = diffusion.noise([1, 2])
    with torch.no_grad():
        for time in scheduler.timesteps:
            unasked = {"resolution": None, "aspect_ratio": None}
            found = theirs(z, encoder_hidden_states=states, timestep=time.expand(2), added_cond_kwargs=unasked).sample
            z = scheduler.step(found, time, z).prev_sample
    mine = sample(again, states, seeds=[1, 2], steps=4, scale=1)
    torch.testing.assert_close(mine, diffusion.codec.decode(z).clamp(0, 1), rtol=0, atol=1e-4)
    copy_diffusion(path, tmp_path / "copy")
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {
        *("model_index.json", "transformer", "scheduler", "codec", "text_encoder")
    }


@pytest.mark.parametrize("make", [tiny_diffusion, tiny_transformer])
def test_a_codec_of_another_model_is_refused(make, tmp_path):
    save_diffusion(make(), tmp_path / "prior", dtype=torch.float32)
    shutil.rmtree(tmp_path / "prior/codec")
    (tmp_path / "prior/codec").mkdir()
    other = Patches(4, 6)
    (tmp_path / "prior/codec/config.json").write_text(json.dumps({"factor": 4, "channels": 6}))
    save_file({name: w.contiguous() for name, w in other.state_dict().items()}, tmp_path / "prior/codec" / WEIGHTS)
    with pytest.raises(ModelError, match="the codec has 6 channels, but the denoiser takes 8"):
        load_diffusion(str(tmp_path / "prior"), device="cpu")


def test_what_a_transformer_says_of_a_variance_is_left_out(tmp_path):
    save_diffusion(tiny_transformer(out_channels=16), tmp_path / "unsure", dtype=torch.float32)
    diffusion = load_diffusion(str(tmp_path / "unsure"), device="cpu")
    z, states = diffusion.noise([1, 2]), diffusion.states(PROMPTS)
    unasked = {"resolution": None, "aspect_ratio": None}
    whole = diffusion.denoiser.transformer(z, states, torch.full((2,), 500.0), added_cond_kwargs=unasked).sample
    assert torch.equal(diffusion.predict(z, 500.0, states), whole[:, :8])
    assert sample(diffusion, states, seeds=[1, 2], steps=2).shape == (2, 3, 32, 32)


def test_a_folder_tells_of_no_place_and_two_are_the_same_bytes(ours, tmp_path):
    diffusion, path = ours
    save_diffusion(load_diffusion(f"diffusers:{path}", device="cpu"), tmp_path / "again", dtype=torch.float32)
    files = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    assert len(files) == 9
    for file in files:
        content = (path / file).read_bytes()
        assert content == (tmp_path / "again" / file).read_bytes(), file
        assert str(path.parent).encode() not in content
    with pytest.raises(ModelError, match="never overwritten"):
        save_diffusion(diffusion, path)


def test_half_precision_is_half_the_size(ours, tmp_path):
    diffusion, path = ours
    save_diffusion(diffusion, tmp_path / "half")
    sizes = [
        (folder / "unet/diffusion_pytorch_model.safetensors").stat().st_size for folder in (path, tmp_path / "half")
    ]
    assert sizes[1] < 0.7 * sizes[0]
    assert next(load_diffusion(str(tmp_path / "half")).denoiser.parameters()).dtype == torch.float32


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_stable_diffusion_folder_gives_its_own_pipelines_pictures(stable, scale):
    pipeline, path = stable
    diffusion = load_diffusion(f"diffusers:{path}", device="cpu")
    assert diffusion.size == (16, 16)
    mine = sample(diffusion, diffusion.states(PROMPTS), seeds=[5, 6], steps=4, scale=scale)
    theirs = pipeline(
        PROMPTS,
        latents=diffusion.noise([5, 6]),
        num_inference_steps=4,
        guidance_scale=scale,
        output_type="pt",
    ).images
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
    with pytest.raises(DataError, match="reads at most 12"):
        diffusion.states(["a red star a red star a red star a red star"])


def test_another_solver_in_the_folder_is_taken_by_its_noise(stable, tmp_path):
    pipeline, path = stable
    folder = shutil.copytree(path, tmp_path / "model")
    PNDMScheduler.from_config(pipeline.scheduler.config).save_pretrained(folder / "scheduler")
    mixes = [load_diffusion(str(one)).schedule.mixes(10) for one in (path, folder)]
    assert mixes[0] == mixes[1]


@pytest.mark.parametrize("kind", ["ours", "stable"])
def test_a_copy_has_what_is_read_and_nothing_else(request, tmp_path, kind):
    path = shutil.copytree(request.getfixturevalue(kind)[1], tmp_path / "model")
    (path / "unet/pickle.bin").write_bytes(b"no")
    (path / "secret").mkdir()
    copy_diffusion(path, tmp_path / "copy")
    names = {file.name for file in (tmp_path / "copy").rglob("*")}
    assert not names & {"pickle.bin", "secret"}
    drawn = [
        sample(one, one.states(PROMPTS), seeds=[1, 2], steps=2)
        for one in (optogram.load_diffusion(str(path)), load_diffusion(str(tmp_path / "copy")))
    ]
    assert torch.equal(*drawn)
    with pytest.raises(ModelError, match="never overwritten"):
        copy_diffusion(path, tmp_path / "copy")
    (path / "unet/config.json").unlink()
    with pytest.raises(ModelError, match=r"unet/config\.json is missing"):
        copy_diffusion(path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "part", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "tokenizer"]
)
def test_a_missing_part_is_named(stable, tmp_path, part):
    folder = shutil.copytree(stable[1], tmp_path / "model")
    target = folder / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ModelError, match=f"{part} is missing. Expected diffusers' layout"):
        load_diffusion(str(folder))


def changed(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_not_known_is_named(stable, ours, tmp_path):
    folder = shutil.copytree(stable[1], tmp_path / "model")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:1000])
    with pytest.raises(ModelError, match="unet cannot be read"):
        load_diffusion(str(folder))
    weights.unlink()
    torch.save({}, folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"Expected weights as safetensors"):
        load_diffusion(str(folder))
    weights.write_bytes(kept)
    changed(folder / "scheduler/scheduler_config.json", _class_name="HeunDiscreteScheduler")
    with pytest.raises(ModelError, match="'HeunDiscreteScheduler' is of a kind that is not known"):
        load_diffusion(str(folder))
    changed(folder / "model_index.json", unet=["diffusers", "UNet3DConditionModel"])
    with pytest.raises(ModelError, match="unet is a UNet3DConditionModel, expected UNet2DConditionModel"):
        load_diffusion(str(folder))
    changed(folder / "model_index.json", unet=[None, None])
    with pytest.raises(ModelError, match="is without unet"):
        load_diffusion(str(folder))
    other = shutil.copytree(ours[1], tmp_path / "ours")
    changed(other / "codec/config.json", channels=9)
    with pytest.raises(ModelError, match=r"does not fit config\.json"):
        load_diffusion(str(other))
    with pytest.raises(ModelError, match=r"Leave the checkpoint x\.safetensors out"):
        load_diffusion(str(ours[1]), checkpoint="x.safetensors")
