"""Room models: the denoisers that are trained here, with random weights, and what optimises them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from optogram.errors import ParamError
from optogram.models.generative.diffusion import Transformer, UNet
from optogram.models.training.parts import PARTS


@dataclass(frozen=True)
class TransformerOptions:
    """What a transformer is.

    width: channels of a token, a multiple of `head`, which are an attention head's. depth: blocks. patch: places of the
    latents a side of a token.
    """

    width: int = 192
    depth: int = 6
    head: int = 32
    patch: int = 2


@dataclass(frozen=True)
class DiffusionOptions:
    """How a diffusion model is trained.

    transformer: the network; None for a UNet. widths: channels of the UNet's levels, the first without attention.
    layers: its residual blocks a level.
    unconditional: share of the images that are learned without their caption, for guidance without a classifier.
    average: decay of the moving average that is kept of the weights. bfloat16: products in bfloat16 on a processor too,
    as always on a GPU: about twice as fast where there are AMX tiles, and other bytes where there are none. focus: of
    images with masks, how many times more an object's places weigh in the loss than others do. align: weight of
    foreseeing what a CLIP sees in the image without noise, from a hidden layer of a transformer (Yu et al. 2025, REPA,
    eq. 8); 0 leaves it out. matrices_rate: learning rate of Muon (Jordan et al. 2024), which takes a transformer's
    matrices; all else has AdamW's.
    """

    steps: int
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 200
    widths: tuple[int, ...] = (56, 112)
    layers: int = 1
    unconditional: float = 0.1
    average: float = 0.999
    bfloat16: bool = False
    focus: float = 8.0
    transformer: TransformerOptions | None = None
    align: float = 0.0
    matrices_rate: float = 0.02
    seed: int = 0


def build_denoiser(options: DiffusionOptions, shape: tuple[int, ...], width: int) -> UNet | Transformer:
    """A network with random weights from the options' seed, for latents of this shape and text states of this width.

    Raises ParamError for a transformer that does not take latents of that shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        if options.transformer is None:
            return UNet(build_unet(options, shape, width))
        return Transformer(build_transformer(options.transformer, shape, width))


def build_unet(options: DiffusionOptions, shape: tuple[int, ...], width: int) -> Any:
    """A UNet of diffusers with random weights, attention to texts on all levels but the first.

    The mean state of a text is added to the embedding of the time besides: alone, attention is slow to learn colours.
    Two more channels in than out are for rows and columns (`optogram.models.generative.diffusion.UNet`).
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    levels = len(options.widths)
    down = ("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1))
    return UNet2DConditionModel(
        sample_size=shape[1:],  # type: ignore[arg-type]
        in_channels=shape[0] + 2,
        out_channels=shape[0],
        block_out_channels=options.widths,
        down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        layers_per_block=options.layers,
        cross_attention_dim=width,
        # what diffusers calls so is their number, of each level
        attention_head_dim=tuple(heads(level) for level in options.widths),  # type: ignore[arg-type]
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=width,
    )


def heads(width: int) -> int:
    """How many attention heads a level of this width has: such that each is about 28 to 40 channels wide."""
    return next(count for count in range(max(1, width // 28), 0, -1) if not width % count)


def build_transformer(options: TransformerOptions, shape: tuple[int, ...], width: int) -> Any:
    """A PixArtTransformer2DModel of diffusers with random weights, attention to texts in every block.

    Its last layer starts at 0, and what times do to a block starts small (Peebles & Xie 2023, section 3.2).
    """
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    channels, rows, columns = shape
    if rows != columns or rows % options.patch or options.width % options.head:
        raise ParamError(
            f"training: a transformer of width {options.width} with heads of {options.head} and patches of "
            f"{options.patch} for latents of {rows} x {columns}; expected square latents, sides that are multiples of "
            "the patch, and a width that is one of a head. Change transformer, or the images."
        )
    network = PixArtTransformer2DModel(
        num_attention_heads=options.width // options.head,
        attention_head_dim=options.head,
        in_channels=channels,
        out_channels=channels,
        num_layers=options.depth,
        cross_attention_dim=options.width,
        sample_size=rows,
        patch_size=options.patch,
        caption_channels=width,
        use_additional_conditions=False,
        activation_fn="gelu",
    )
    for part in network.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    nn.init.zeros_(network.proj_out.weight)
    nn.init.normal_(network.adaln_single.linear.weight, std=0.02)
    return network


def optimizers(networks: Mapping[str, nn.Module], options: DiffusionOptions) -> dict[str, Optimizer]:
    """Muon for the matrices of a transformer's blocks, AdamW for all else."""
    named = [(name, w) for network in networks.values() for name, w in network.named_parameters()]
    matrices = [w for name, w in named if ".transformer_blocks." in name and name.endswith(".weight") and w.ndim == 2]
    taken = {id(w) for w in matrices}
    others = [w for _, w in named if id(w) not in taken]
    found: dict[str, Optimizer] = {
        "adamw": torch.optim.AdamW(
            others, options.learning_rate, betas=(0.9, 0.99), weight_decay=options.weight_decay, fused=True
        )
    }
    for at in range(PARTS if matrices else 0):  # each matrix is for itself: threads share them
        found[f"muon{at}"] = torch.optim.Muon(
            matrices[at::PARTS], options.matrices_rate, weight_decay=options.weight_decay
        )
    return found
