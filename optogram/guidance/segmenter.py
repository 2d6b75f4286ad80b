"""Guidance: a segmentation model that is told the object by points: SAM or HQ-SAM of transformers, from a folder.

Augustin et al. (DiG-IN), section D.1.4, take HQ-SAM: points on the object gave better masks than its name did.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from optogram.errors import DataError, ModelError, ShapeError
from optogram.guidance.folders import folder_type, load_folder
from optogram.models.generative.sampling import to_pixels

EXPECTED = "SAM or HQ-SAM (SamModel or SamHQModel)"
_KINDS = {"sam": ("SamModel", "SamProcessor"), "sam_hq": ("SamHQModel", "SamHQProcessor")}


@dataclass(frozen=True)
class Segmenter:
    """A model of transformers that segments what points lie on, with its processor. `load_segmenter` makes it."""

    model: Any
    processor: Any

    @torch.no_grad()
    def segment(
        self, images: Float[Tensor, "image 3 y x"], points: Int[Tensor, "image point 2"]
    ) -> Float[Tensor, "image y x"]:
        """Masks of zeros and ones: of the three that the model offers, the one that it expects to overlap most.

        images: in [0, 1]. points: y and x in pixels, on the object, as `sampled_points` draws them. Images go through
        the model one by one, so that a mask never depends on the other images. Returned on the images' device.

        Raises ShapeError unless there is a row of points an image, and DataError for points outside their image or
        images that are not finite.
        """
        if images.ndim != 4 or images.shape[1] != 3 or points.ndim != 3 or points.shape[::2] != (len(images), 2):
            raise ShapeError(
                f"segmenter: images of shape {tuple(images.shape)} and points of {tuple(points.shape)}; expected "
                "(image, 3, y, x) and (image, point, 2). Give each image its points."
            )
        size = images.shape[2:]
        if bool(((points < 0) | (points >= torch.tensor(size, device=points.device))).any()):
            raise DataError(f"segmenter: a point lies outside its image of {size[0]} x {size[1]}. Give y, then x.")
        if not bool(images.isfinite().all()):
            raise DataError("segmenter: the images hold NaN or infinity. Check what they come from.")
        pixels = to_pixels(images, "segmenter")
        rows = [self._one(Image.fromarray(one), of.flip(-1).tolist()) for one, of in zip(pixels, points, strict=True)]
        return torch.stack(rows).to(images.device) if rows else images.new_zeros(0, *size)

    def _one(self, image: Image.Image, points: list[list[int]]) -> Float[Tensor, "y x"]:
        """points: x and y, the order of transformers."""
        given = self.processor(
            images=image, input_points=[points], input_labels=[[1] * len(points)], return_tensors="pt"
        )
        sizes = given["original_sizes"], given["reshaped_input_sizes"]
        found = self.model(
            pixel_values=given["pixel_values"].to(self.model.device),
            input_points=given["input_points"].float().to(self.model.device),
            input_labels=given["input_labels"].to(self.model.device),
        )
        masks = self.processor.post_process_masks(found.pred_masks.cpu(), *sizes)[0][0]
        return masks[int(found.iou_scores[0, 0].argmax())].float()


def load_segmenter(path: str | Path, *, device: str = "auto") -> Segmenter:
    """The segmentation model of a folder, as transformers' save_pretrained writes a SamModel or SamHQModel.

    Only safetensors are read, and nothing is downloaded. device: `auto` is CUDA where there is one.

    Raises ModelError for a folder that is missing, of another kind of model, without safetensors, damaged or
    incomplete, and ExtraError where transformers is not installed.
    """
    path = Path(path)
    kind = folder_type(path, EXPECTED)
    if kind not in _KINDS:
        raise ModelError(f"{path} holds a model of the kind {kind!r}. Expected a folder of {EXPECTED}.")
    return Segmenter(*load_folder(path, *_KINDS[kind], EXPECTED, device=device))
