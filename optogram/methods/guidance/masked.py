"""Methods, guidance: where the objects of images are, by masks of their own, by files, or by the caption's words."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from optogram.errors import DataError
from optogram.guidance.attention import record, word_maps
from optogram.guidance.captions import class_names
from optogram.guidance.inversion import Inversion
from optogram.guidance.masks import mask_files, rough_mask, sampled_points
from optogram.guidance.options import Guidance
from optogram.guidance.segmenter import load_segmenter
from optogram.guidance.words import phrase_tokens
from optogram.models.generative.diffusion import Diffusion


@dataclass(frozen=True)
class Masking:
    """Where masks come from.

    source: "images" takes those that the images have; "attention" the cross-attention of the class' words (Figure 12),
    refined by `segmenter`, the folder of a segmentation model of transformers, where one is named (section D.1.4); else
    a folder or zip of the user's. threshold: of the largest attention, below which nothing counts. points: with which
    the segmenter is told where the object is.
    """

    source: str = "images"
    threshold: float = 0.3
    points: int = 5
    segmenter: str | None = None

    def of(
        self,
        diffusion: Diffusion,
        images: xr.Dataset,
        captions: Sequence[str],
        inversion: Inversion,
        guidance: Guidance,
        *,
        seeds: Sequence[int],
        device: str = "auto",
    ) -> Float[Tensor, "image y x"]:
        """The object of each image, 1 where it is. captions: by which the images were inverted.

        Raises DataError for images without masks, and as `mask_files`, `phrase_tokens` and `sampled_points`.
        """
        if self.source == "images":
            if "mask" not in images:
                raise DataError(
                    "counterfactuals: these images have no masks. Set masks to attention, or to a folder of your own."
                )
            return torch.from_numpy((images["mask"].values > 0).astype("float32"))
        if self.source != "attention":
            return mask_files(self.source, images["image"].values.astype(str).tolist(), diffusion.size[0])
        recorded = record(
            diffusion,
            inversion.latents.to(diffusion.device),
            diffusion.states(list(captions)),
            inversion.null.to(diffusion.device),
            steps=guidance.steps,
            scale=guidance.scale,
            first=inversion.below,
        )
        tokens = [phrase_tokens(diffusion.texts, *pair) for pair in zip(captions, class_names(images), strict=True)]
        rough = rough_mask(word_maps(recorded, tokens).cpu(), diffusion.size, threshold=self.threshold)
        if self.segmenter is None:
            return rough
        pictures = torch.from_numpy(images["pixels"].values).permute(0, 3, 1, 2).float() / 255
        return load_segmenter(self.segmenter, device=device).segment(
            pictures, sampled_points(rough, self.points, seeds=seeds)
        )
