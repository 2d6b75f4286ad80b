"""Decompose: the image towers that can be decomposed, their attention as linear maps, and one pass through them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.timm_model import TimmModel
from open_clip.transformer import LayerScale, ResidualAttentionBlock, VisionTransformer
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn

from optogram.decompose.own_work import check_own_work
from optogram.errors import DataError, ModelError, ShapeError
from optogram.models.batches import Found, in_batches

SUPPORTED = (
    "Supported: open_clip ViTs with class-token pooling, final LayerNorm and projection (OpenAI, LAION, DFN, "
    "MetaCLIP), and timm ViTs with attention pooling and no projection after it (SigLIP)."
)

# Called once a layer with its index, the attention of the class token (image, head, token), which sums to 1 over
# tokens, and the values (image, head, token, head_dim), bias included.
See = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class Maps:
    """What a tower's attention layers and final LayerNorm are, seen from the embedding; float32, independent of images.

    With gamma and beta the gain and bias of the final LayerNorm and P the projection (thesis eq. A.2):
    """

    basis: Float[Tensor, "layer head head_dim embed"]  # output projection x gamma x P
    bias: Float[Tensor, "layer embed"]  # output-projection bias x gamma x P
    gain: Float[Tensor, " embed"]  # gamma P
    offset: Float[Tensor, " embed"]  # beta P


@dataclass(frozen=True)
class Pass:
    """What one forward pass leaves behind, float32 (docs/artifacts/decompositions.md)."""

    z: Float[Tensor, "image layer head head_dim"]
    scale: Float[Tensor, " image"]
    mean: Float[Tensor, " image"]
    mlp: Float[Tensor, "image block embed"]
    embedding: Float[Tensor, "image embed"]


class Tower(ABC):
    """An image tower whose embedding is a sum of attention heads and MLPs at one query token."""

    layers: int
    heads: int
    image_size: tuple[int, int]
    grid: tuple[int, int]
    class_token: bool  # whether the query is itself among the tokens that it attends to

    def __init__(self, visual: nn.Module) -> None:
        self.visual = visual
        # half-precision models keep some parameters in float32; the patch embedding says what the images should be
        patch_embedding = next(module for module in visual.modules() if isinstance(module, nn.Conv2d))
        self.device, self.dtype = patch_embedding.weight.device, patch_embedding.weight.dtype

    @property
    def tokens(self) -> int:
        """Number of tokens in the output: the query, then the patches."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def attended(self) -> int:
        """Number of tokens that the query attends to."""
        return self.tokens if self.class_token else self.tokens - 1

    def with_query(self, x: Tensor, dim: int) -> Tensor:
        """Per-token values with zeros put in as token 0 where the query is not attended to."""
        return x if self.class_token else torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x], dim)

    @abstractmethod
    def maps(self) -> Maps:
        """The linear maps from the heads to the embedding."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "image rgb y x"], see: See | None = None) -> Pass:
        """Run the tower once; `see` is shown every layer's class-token attention and values."""

    def checked(self, images: Any) -> Float[Tensor, "image rgb y x"]:
        """`images` as a tensor that fits this tower. Raises ShapeError or DataError."""
        images = torch.as_tensor(images)
        expected = (3, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected or not len(images):
            raise ShapeError(
                f"images have shape {tuple(images.shape)}, but this model takes (image, "
                f"{', '.join(map(str, expected))}) with at least one image. "
                "Preprocess them with the transform that came with the model."
            )
        if not images.is_floating_point():
            raise DataError(
                f"images are {images.dtype}, expected preprocessed floats. "
                "Preprocess them with the transform that came with the model."
            )
        return images

    def batches(
        self, images: Any, size: int | None, work: Callable[[Float[Tensor, "image rgb y x"], slice], Found]
    ) -> Iterator[tuple[slice, Found]]:
        """(rows, work(images, rows)) of the checked images on the model's device, in its dtype; see `in_batches`."""
        images = self.checked(images)
        return in_batches(len(images), size, lambda rows: work(images[rows].to(self.device, self.dtype), rows))


def tower(model: nn.Module) -> Tower:
    """The image tower of an open_clip model (or the tower itself), ready to be decomposed.

    Raises ModelError for an architecture whose embedding is not the sum that is decomposed here.
    """
    visual = getattr(model, "visual", model)
    if isinstance(visual, VisionTransformer):
        return ClassTokenTower(visual)
    if isinstance(visual, TimmModel):
        return PooledTower(visual)
    raise _unsupported(f"the image tower {type(visual).__name__}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and no autocast around; every module's training flag is put back, also when an exception passes."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


class ClassTokenTower(Tower):
    """open_clip's VisionTransformer: pre-LayerNorm blocks, final LayerNorm, projection of the class token."""

    class_token = True

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__(visual)
        problems = {
            "an attentional pooler (CoCa)": visual.attn_pool is not None,
            f"pooling {visual.pool_type!r}": visual.pool_type != "tok",
            "a final LayerNorm after pooling (final_ln_after_pool)": visual.final_ln_after_pool,
            f"final {type(visual.ln_post).__name__} in place of a LayerNorm": not isinstance(
                visual.ln_post, nn.LayerNorm
            ),
            "no projection": visual.proj is None,
        }
        self.blocks = cast(list[ResidualAttentionBlock], list(visual.transformer.resblocks))
        for block in self.blocks:
            # custom blocks may normalise between heads and residual stream, and are then no sum over heads
            problems[f"blocks of type {type(block).__name__}"] = type(block) is not ResidualAttentionBlock
            attention = block.attn
            plain = isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None
            problems["attention other than plain self-attention"] = not (
                plain and attention.bias_k is None and not attention.add_zero_attn
            )
            if any(problems.values()):
                raise _unsupported(next(name for name, found in problems.items() if found))
        by_hand: dict[str, nn.Module] = {"the image tower": visual, "its transformer": visual.transformer}
        by_hand |= {"the patch dropout": visual.patch_dropout, "the final LayerNorm": visual.ln_post}
        for index, block in enumerate(self.blocks):
            parts = {"": block, ".attn": block.attn, ".attn.out_proj": block.attn.out_proj, ".ls_1": block.ls_1}
            by_hand |= {f"resblocks.{index}{part}": module for part, module in parts.items()}
        check_own_work(by_hand)
        self.parts = cast(Any, visual)
        self.layers, self.heads = len(self.blocks), self.blocks[0].attn.num_heads
        self.image_size = cast(tuple[int, int], tuple(visual.image_size))
        self.grid = cast(tuple[int, int], tuple(visual.grid_size))

    def maps(self) -> Maps:
        """The linear maps from the heads to the embedding."""
        norm = self.parts.ln_post
        projection = self.parts.proj.float()
        gain = (torch.ones_like(projection[:, 0]) if norm.weight is None else norm.weight.float())[:, None] * projection
        offset = torch.zeros_like(projection[0]) if norm.bias is None else norm.bias.float() @ projection
        basis = gain.new_empty(self.layers, *gain.shape)
        bias = gain.new_zeros(self.layers, gain.shape[1])
        for index, block in enumerate(self.blocks):
            out = block.attn.out_proj
            after = block.ls_1.gamma.float()[:, None] * gain if isinstance(block.ls_1, LayerScale) else gain
            torch.mm(out.weight.float().T, after, out=basis[index])
            if out.bias is not None:
                bias[index] = out.bias.float() @ after
        return Maps(basis.unflatten(1, (self.heads, -1)), bias, gain.sum(0), offset)

    def embed(self, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image token width"]:
        """Input embeddings: class token and patches, with positions, after the first LayerNorm."""
        parts = self.parts
        patches = parts.conv1(images).flatten(2).transpose(1, 2)
        first = parts.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([first, patches], 1) + parts.positional_embedding.to(patches.dtype)
        return parts.ln_pre(x)

    def qkv(self, attention: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (image, head, token, head_dim) of normalised tokens."""
        packed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = packed.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, images: Float[Tensor, "image rgb y x"], see: See | None = None) -> Pass:
        """Run the tower once; `see` is shown every layer's class-token attention and values."""
        x = self.embed(images)
        # what is kept is laid out first: kept pieces between a layer's temporaries would fragment the heap
        z = x.new_empty(len(x), self.layers, self.heads, x.shape[2] // self.heads)
        terms = x.new_empty(len(x), self.layers + 1, x.shape[2])
        terms[:, 0] = x[:, 0]
        for index, block in enumerate(self.blocks):
            q, k, v = self.qkv(block.attn, block.ln_1(x))
            if index == self.layers - 1:
                # nothing reads the other tokens after the last keys and values
                q, x = q[:, :, :1], x[:, :1]
            mixed = F.scaled_dot_product_attention(q, k, v)
            z[:, index] = mixed[:, :, 0]
            if see:
                see(index, _attention(q[:, :, 0], k), v)
            del q, k, v
            mixed = block.attn.out_proj(mixed.transpose(1, 2).flatten(2))
            x += block.ls_1(mixed)
            del mixed
            step = block.ls_2(block.mlp(block.ln_2(x)))
            terms[:, index + 1] = step[:, 0]
            x += step
            del step
        return self._pass(x[:, 0], z, terms)

    def _pass(self, final: Tensor, z: Tensor, terms: Tensor) -> Pass:
        norm, projection = self.parts.ln_post, self.parts.proj
        variance, mean = torch.var_mean(final.float(), 1, correction=0)
        scale = torch.rsqrt(variance + norm.eps)
        mlp = terms.float() * scale[:, None, None]
        if norm.weight is not None:
            mlp *= norm.weight.float()
        return Pass(
            z=z.float() * scale[:, None, None, None],
            scale=scale,
            mean=mean,
            mlp=mlp @ projection.float(),
            embedding=(norm(final) @ projection).float(),
        )


class PooledTower(Tower):
    """timm's ViT with a latent query that attends to the patches (SigLIP): the pool is the one decomposed layer.

    The embedding is o + MLP(LN(o)) with o the sum of the pool's heads. The latent enters only the query: it is not
    attended to and has no residual path, so block 0 of `mlp` is zero; block 1 is the pool's MLP.
    """

    class_token = False
    layers = 1

    def __init__(self, visual: TimmModel) -> None:
        super().__init__(visual)
        trunk = cast(Any, visual.trunk)
        pool = getattr(trunk, "attn_pool", None)
        if not isinstance(pool, AttentionPoolLatent):
            raise _unsupported(f"the timm trunk {type(trunk).__name__} without a latent attention pool")
        problems = {
            f"an attention pool with {pool.latent_len} latents": pool.latent_len != 1
            or pool.pool not in ("token", "avg"),
            "an attention pool without an output projection": not isinstance(pool.proj, nn.Linear),
            "an attention pool that also reads class or register tokens": trunk.num_prefix_tokens != 0,
            "a projection after the attention pool": len(visual.head) > 0 or not isinstance(trunk.head, nn.Identity),
            "a LayerNorm after the attention pool": not isinstance(trunk.fc_norm, nn.Identity),
        }
        if any(problems.values()):
            raise _unsupported(next(name for name, found in problems.items() if found))
        names = ("proj", "proj_drop", "q_norm", "k_norm")
        by_hand = {"the image tower": visual, "its trunk": trunk, "its attention pool": pool}
        by_hand |= {f"attn_pool.{name}": getattr(pool, name) for name in names}
        check_own_work(by_hand | {name: getattr(trunk, name) for name in ("fc_norm", "head_drop", "head")})
        self.trunk, self.pool = trunk, cast(Any, pool)
        self.heads = pool.num_heads
        self.image_size = cast(tuple[int, int], tuple(trunk.patch_embed.img_size))
        self.grid = cast(tuple[int, int], tuple(trunk.patch_embed.grid_size))

    def maps(self) -> Maps:
        """The linear maps from the heads to the embedding; no LayerNorm lies between, so gain and offset are 0."""
        weight = self.pool.proj.weight.float()
        bias = torch.zeros_like(weight[:, 0]) if self.pool.proj.bias is None else self.pool.proj.bias.float()
        zero = torch.zeros_like(bias)
        return Maps(weight.T.unflatten(0, (self.heads, -1))[None], bias[None], zero, zero)

    def forward(self, images: Float[Tensor, "image rgb y x"], see: See | None = None) -> Pass:
        """Run the tower once; `see` is shown the pool's attention and values."""
        pool = self.pool
        x = self.trunk.forward_features(images)
        if pool.pos_embed is not None:
            x = x + pool.pos_embed.to(x.dtype)
        q = pool.q_norm(pool.q(pool.latent).unflatten(2, (self.heads, -1)).transpose(1, 2)).expand(len(x), -1, -1, -1)
        k, v = pool.kv(x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k = pool.k_norm(k)
        mixed = F.scaled_dot_product_attention(q, k, v)
        if see:
            see(0, _attention(q[:, :, 0], k), v)
        attended = pool.proj(mixed.transpose(1, 2).flatten(2))[:, 0]
        step = torch.zeros_like(attended) if pool.mlp is None else pool.mlp(pool.norm(attended))
        ones = torch.ones(len(x), device=x.device)
        return Pass(
            z=mixed[:, None, :, 0].float(),
            scale=ones,
            mean=torch.zeros_like(ones),
            mlp=torch.stack([torch.zeros_like(step), step], 1).float(),
            embedding=(attended + step).float(),
        )


def _attention(q: Tensor, k: Tensor) -> Float[Tensor, "image head token"]:
    """Attention of one query (image, head, head_dim) to the keys (image, head, token, head_dim)."""
    logits = (k @ q[..., None])[..., 0].float()
    return (logits * q.shape[-1] ** -0.5).softmax(-1).to(q.dtype)


def _unsupported(what: str) -> ModelError:
    return ModelError(f"Cannot decompose this model: {what} is not supported. {SUPPORTED}")
