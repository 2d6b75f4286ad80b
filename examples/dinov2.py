"""Example: an architecture of timm's with arguments of your own, for a spec.

spec: callable:examples.dinov2:small, with the checkpoint vit_small_patch14_dinov2_finetuned.safetensors, from the
repository root. timm:vit_small_patch14_dinov2 takes the same file, and images of 518 x 518 only.
"""

import timm
from torch import nn

from optogram.models import Preprocess


def small() -> tuple[nn.Module, Preprocess]:
    """A ViT-S/14 without classes for images of any sides that are multiples of 14, and its preprocessing to 224."""
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True)
    return model, Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
