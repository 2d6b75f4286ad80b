"""Segmenters: tiny random SAM and HQ-SAM folders, against transformers' own processor and model called directly."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from optogram.errors import DataError, ModelError, ShapeError
from optogram.guidance.segmenter import load_segmenter

SIDE = 64
PARTS = ("VisionConfig", "PromptEncoderConfig", "MaskDecoderConfig", "Config", "Model", "Processor")


def write_sam(folder, kind):
    """kind: Sam or SamHQ. Random weights so large that a mask depends on the picture and on each of the points."""
    vision, prompts, decoder, whole, network, processor = (getattr(transformers, f"{kind}{part}") for part in PARTS)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)
        shapes = {"image_size": SIDE, "patch_size": 8}
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 16}
        model = network(
            whole(
                vision_config=vision(
                    hidden_size=16,
                    output_channels=16,
                    window_size=4,
                    global_attn_indexes=[1],
                    num_pos_feats=8,
                    initializer_range=0.3,
                    **shapes,
                    **layers,
                ),
                prompt_encoder_config=prompts(hidden_size=16, mask_input_channels=4, **shapes),
                mask_decoder_config=decoder(
                    hidden_size=16, iou_head_hidden_dim=16, **layers, **({"vit_dim": 16} if kind == "SamHQ" else {})
                ),
                initializer_range=0.3,
            )
        )
    model.save_pretrained(folder)
    images = transformers.SamImageProcessor(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    processor(images).save_pretrained(folder)


@pytest.fixture(scope="module", params=["Sam", "SamHQ"])
def sam(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_sam(folder, request.param)
    return request.param, folder


def asked(count=3, size=(24, 48)):
    """Images that are wider than high, and points y, x on them."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (count, *size, 3), np.uint8)
    points = np.stack([rng.integers(0, side, (count, 4)) for side in size], -1)
    images = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)
    return pixels, images, torch.from_numpy(points)


def directly(sam, pixels, points):
    """One image's three masks and expected overlaps, as transformers' documentation has it. points: x, y."""
    kind, folder = sam
    model = getattr(transformers, f"{kind}Model").from_pretrained(folder).eval()
    processor = getattr(transformers, f"{kind}Processor").from_pretrained(folder)
    given = processor(Image.fromarray(pixels), input_points=[points], return_tensors="pt")
    with torch.no_grad():
        found = model(**given.to(torch.float32))
    masks = processor.post_process_masks(found.pred_masks, given["original_sizes"], given["reshaped_input_sizes"])
    return masks[0][0].float(), found.iou_scores[0, 0]


def test_masks_are_those_of_transformers_with_x_before_y(sam):
    pixels, images, points = asked()
    found = load_segmenter(sam[1], device="cpu").segment(images, points)
    assert found.shape == (3, 24, 48)
    assert found.dtype == torch.float32
    assert set(found.unique().tolist()) == {0, 1}
    other = 0
    for mask, picture, of in zip(found, pixels, points.tolist(), strict=True):
        three, overlap = directly(sam, picture, [[x, y] for y, x in of])
        assert torch.equal(mask, three[int(overlap.argmax())])
        assert not torch.equal(three[0], three[1])
        swapped, expected = directly(sam, picture, of)
        other += not torch.equal(mask, swapped[int(expected.argmax())])
    assert other == 3, "the other order gives other masks"


def test_an_image_s_mask_does_not_depend_on_those_beside_it(sam):
    _, images, points = asked()
    segmenter = load_segmenter(sam[1], device="cpu")
    found = segmenter.segment(images, points)
    assert torch.equal(segmenter.segment(images[1:2], points[1:2])[0], found[1])
    assert not torch.equal(segmenter.segment(images[1:2], points[:1])[0], found[1]), "but on its points"
    assert segmenter.segment(images[:0], points[:0]).shape == (0, 24, 48)


def test_a_segmenter_is_read_once(sam, tmp_path):
    _, images, points = asked(1)
    copy = tmp_path / "copy"
    shutil.copytree(sam[1], copy)
    segmenter = load_segmenter(copy, device="cpu")
    shutil.rmtree(copy)
    assert torch.equal(segmenter.segment(images, points), load_segmenter(sam[1], device="cpu").segment(images, points))


@pytest.mark.misfits
def test_points_and_images_have_to_fit(sam):
    segmenter = load_segmenter(sam[1], device="cpu")
    _, images, points = asked()
    for wrong in (points[:2], points[..., :1], points[0]):
        with pytest.raises(ShapeError, match=r"expected \(image, 3, y, x\) and \(image, point, 2\)"):
            segmenter.segment(images, wrong)
    for wrong in (points.flip(-1) + 20, points - 40):
        with pytest.raises(DataError, match=r"outside its image of 24 x 48. Give y, then x"):
            segmenter.segment(images, wrong)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        segmenter.segment(images, points)


def test_folders_that_are_no_segmenter_are_refused(sam, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere: no such folder. Expected a folder of SAM or HQ-SAM"):
        load_segmenter(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config.json cannot be read .*Expected a folder of SAM"):
        load_segmenter(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(sam[1], copy)
    weights = load_file(copy / "model.safetensors")
    lacking = {name: of for name, of in weights.items() if "iou_prediction_head" not in name}
    save_file(lacking, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"tensors are missing in its weights, the first is mask_decoder.iou_pred"):
        load_segmenter(copy, device="cpu")
    (copy / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"cannot be read: .*download the folder again"):
        load_segmenter(copy, device="cpu")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be read: .*its weights as model.safetensors: convert them"):
        load_segmenter(copy, device="cpu")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "blip"}))
    with pytest.raises(ModelError, match=r"of the kind 'blip'. Expected a folder of SAM or HQ-SAM"):
        load_segmenter(copy, device="cpu")
