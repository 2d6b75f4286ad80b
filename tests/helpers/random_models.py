"""Small CLIP models with nothing at its neutral value, so that no term of the decomposition can hide."""

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import VisionTransformer
from torch import nn

TEXT = CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)


def demo_clip(**vision) -> CLIP:
    """The demo zoo's ViT, or a variation of it."""
    options = {"layers": 5, "width": 128, "head_width": 16, "patch_size": 8, "image_size": 64} | vision
    return _build(128, CLIPVisionCfg(**options))


def named_clip(name: str) -> CLIP:
    """An open_clip model by name, with a small text tower to save time."""
    config = open_clip.get_model_config(name)
    assert config is not None
    return _build(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), config.get("quick_gelu", False))


def _build(embed: int, vision: CLIPVisionCfg, quick_gelu: bool = False) -> CLIP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return scramble(CLIP(embed, vision, TEXT, quick_gelu=quick_gelu))


def sharp_tower(layers: int, heads: int, mlp_ratio: float, embed: int) -> VisionTransformer:
    """A vision tower on a grid of 4 x 3 patches, whose attention is sharp: methods that read it then disagree."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        tower = VisionTransformer((32, 24), 8, 32, layers, heads, mlp_ratio, ls_init_value=0.8, output_dim=embed)
        for parameter in tower.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return tower.eval()


def scramble(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random LayerNorm gains and biases, biases and layer scales; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                spread = 0.5 if "ln" in name or "norm" in name or "ls_" in name else 0.2
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def pictures(count: int, size: int = 64, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
