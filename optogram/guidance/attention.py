"""Guidance: a denoiser's cross-attention, written down while it draws and put in again while it draws something else.

Cross-attention tells each place of a layer how much it heeds each token of the text: M = softmax(Q K' / sqrt d), the
paper's eq. 16. Only the half of a pass that is told the text is looked at and changed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from optogram.errors import DataError, ModelError, ParamError, ShapeError
from optogram.models.generative.diffusion import Diffusion

# diffusers takes seconds to import
if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

Maps = Float[Tensor, "image head place token"]


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a denoiser heeded while it drew, on its device.

    maps: of each cross-attention layer by its name in the denoiser. A step is one that was run, the noisiest first.
    grids: rows and columns of each layer's places.
    latents: before the first step, and behind each.
    """

    maps: Mapping[str, Float[Tensor, "step image _head _place token"]]
    grids: Mapping[str, tuple[int, int]]
    latents: Float[Tensor, "time image channel row column"]

    @property
    def z(self) -> Float[Tensor, "image channel row column"]:
        """The clean latents."""
        return self.latents[-1]


@torch.no_grad()
def record(
    diffusion: Diffusion,
    z: Float[Tensor, "image channel row column"],
    states: Float[Tensor, "*step image token width"],
    null: Float[Tensor, "*null_step image token width"],
    *,
    steps: int,
    scale: float,
    first: int = 0,
) -> Recorded:
    """Draws as `sampling.denoise` does, and writes down all cross-attention.

    z: noisy latents at the time of step `first`. states, null: what the text says and what its absence says; with an
    axis of steps, to each step that is run its own (as null-text inversion finds them).
    first: how many of the noisiest steps are left out.

    Raises ParamError for steps that the schedule lacks, ShapeError for states that do not fit z or the steps, and
    ModelError for a denoiser as `cross_attentions` does.

    Source: the paper, algorithm 2 and section A.3.1.
    """
    mixes = diffusion.schedule.mixes(steps)
    if not 0 <= first < steps:
        raise ParamError(f"record: first = {first}, expected 0 to {steps - 1}, fewer than the steps. Lower it.")
    count, layers = steps - first, cross_attentions(diffusion)
    states, null = _each_step("states", states, count, len(z)), _each_step("null", null, count, len(z))
    maps: dict[str, Tensor] = {}
    latents = [z]

    def keep(step: int, name: str, probabilities: Maps) -> Maps:
        if name not in maps:
            maps[name] = probabilities.new_empty(count, *probabilities.shape)
        maps[name][step] = probabilities
        return probabilities

    for step, (now, then) in enumerate(pairwise(mixes[first:])):
        with _explicit(layers, len(z), partial(keep, step)):
            prediction = diffusion.predict(latents[-1], now.time, states[step], null[step], scale)
        latents.append(diffusion.schedule.step(latents[-1], prediction, now, then))
    grids = {name: _grid(name, found.shape[3], diffusion.shape[1:]) for name, found in maps.items()}
    return Recorded(maps, grids, torch.stack(latents))


def word_maps(
    recorded: Recorded, tokens: Sequence[Sequence[int]], *, side: int = 16, share: float = 0.5
) -> Float[Tensor, "image row column"]:
    """Where words drew attention: probabilities in [0, 1], not scaled to a maximum, at the size of the layers meant.

    They are means over the heads, the layers, the tokens and the first steps.

    tokens: the places of the words among the tokens of each image's prompt (`words.phrase_tokens`).
    side: layers whose grid is nearest to side x side in size are meant, by the ratio; of two as near, the finer.
    share: of the steps, those that are begun within it.

    Raises ShapeError for another number of images, DataError for an image without tokens or one that its prompt lacks,
    and ParamError for numbers out of range.

    Source: the paper, Figure 12 and section D.1.4.
    """
    one = next(iter(recorded.maps.values()))
    _, images, _, _, length = one.shape
    if len(tokens) != images:
        raise ShapeError(f"word maps: tokens of {len(tokens)} images, but {images} were recorded. Give each its own.")
    for image, places in enumerate(tokens):
        if not places or not all(0 <= place < length for place in places):
            raise DataError(
                f"word maps: tokens {list(places)} of image {image}, expected at least one, within 0 to {length - 1}. "
                "Take them from phrase_tokens with the image's own prompt."
            )
    if side < 1:
        raise ParamError(f"word maps: side = {side}, expected at least 1.")
    count = _within(share, len(one))
    if count < 1:
        raise ParamError("word maps: share = 0, expected a share of the steps above 0. Raise it.")
    grid = min(
        {*recorded.grids.values()}, key=lambda grid: (abs(math.log(math.prod(grid) / side**2)), -math.prod(grid))
    )
    chosen = [recorded.maps[name][:count].float().mean((0, 2)) for name, its in recorded.grids.items() if its == grid]
    heeded = torch.stack(chosen).mean(0)
    found = [places[:, list(meant)].mean(1) for places, meant in zip(heeded, tokens, strict=True)]
    return torch.stack(found).unflatten(1, grid)


@dataclass(frozen=True, eq=False)
class Injection:
    """Recorded cross-attention as other prompts take it over (prompt-to-prompt). `Injection.of` makes one.

    layers: of the denoiser that is changed. maps: what they heed instead, in tokens of the new prompts, for the first
    steps; over the tokens that are not `own` they sum to 1.
    own: tokens of words that were inserted. They keep the probabilities that they have, and the others share the rest.
    inserts: whether there is one. counts: how many steps are changed, of each image.
    """

    layers: "Mapping[str, Attention]"
    maps: Mapping[str, Float[Tensor, "step image _head _place token"]]
    own: Bool[Tensor, "image token"]
    inserts: bool
    counts: Int64[Tensor, " image"]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        diffusion: Diffusion,
        recorded: Recorded,
        alignments: Float[Tensor, "image target_token source_token"],
        *,
        until: float | Float[Tensor, " image"],
    ) -> "Injection":
        """What was recorded, mapped to the tokens of new prompts once for all passes.

        Mapped probabilities of a place are divided by their sum: with more or fewer words, they would not sum to 1.

        alignments: of each recorded image (`words.alignment`).
        until: share of the recorded steps, .3 to .5 in the published code, of all images or of each; those that begin
        within it are changed.

        Raises ShapeError for alignments or shares that do not fit, ParamError for a share outside of 0 to 1, and
        ModelError for another denoiser than the recorded one or as `cross_attentions` does.
        """
        layers, one = cross_attentions(diffusion), next(iter(recorded.maps.values()))
        if {*layers} != {*recorded.maps}:
            raise ModelError(
                "injection: this denoiser has other cross-attention layers than the one that was recorded."
            )
        if (len(alignments), alignments.shape[2]) != (one.shape[1], one.shape[4]):
            raise ShapeError(
                f"injection: alignments of shape {tuple(alignments.shape)}, but maps of {one.shape[1]} images with "
                f"{one.shape[4]} tokens were recorded. Give each image the alignment of its own prompts."
            )
        alignments = alignments.to(one.device)
        shares = torch.as_tensor(until).expand(one.shape[1]).tolist()
        counts = torch.tensor([_within(share, len(one)) for share in shares], device=one.device)
        count, maps = max(counts.tolist(), default=0), {}
        for name, found in recorded.maps.items():
            mapped = torch.einsum("kihps,its->kihpt", found[:count].float(), alignments.float())
            maps[name] = (mapped / mapped.sum(-1, keepdim=True).clamp(min=1e-12)).to(found.dtype)
        own = alignments.sum(2) == 0
        return cls(layers, maps, own, bool(own.any()), counts)

    def at(self, step: int, rows: Int64[Tensor, " row"]) -> AbstractContextManager[None]:
        """Within it, a pass of the denoiser heeds what was recorded, in the half that is told the text.

        Gradient goes through the values, and through the probabilities of inserted words. Under
        `torch.utils.checkpoint` (use_reentrant=False) enter it within the function that is run anew.

        step: counted as in Recorded: 0 is the first that was run. Behind the last that is changed, nothing is.
        rows: of each image in the pass, the recorded image whose maps it takes.

        Raises ParamError for a step below 0, ShapeError for a row that is not there, and within for a pass of another
        number of images.
        """
        images = len(self.own)
        if step < 0:
            raise ParamError(f"injection: step {step}, expected 0 or more.")
        if len(rows) == 0 or not bool(((rows >= 0) & (rows < images)).all()):
            raise ShapeError(
                f"injection: rows {rows.tolist()}, expected at least one, within 0 to {images - 1}, the images that "
                "were recorded. Name those."
            )
        if any(step >= len(found) for found in self.maps.values()):
            return nullcontext()
        rows = rows.to(self.own.device)
        return _explicit(self.layers, len(rows), partial(self._instead, step, rows))

    def _instead(self, step: int, rows: Int64[Tensor, " row"], name: str, probabilities: Maps) -> Maps:
        given = self.maps[name][step][rows].to(probabilities.dtype)
        if self.inserts:
            own = self.own[rows][:, None, None]
            left = 1 - torch.where(own, probabilities, 0).sum(-1, keepdim=True)
            given = torch.where(own, probabilities, given * left)
        changed = step < self.counts[rows]
        return given if bool(changed.all()) else torch.where(changed[:, None, None, None], given, probabilities)


def cross_attentions(diffusion: Diffusion) -> "dict[str, Attention]":
    """The layers of a denoiser that heed the text, by their names in it.

    Raises ModelError for a denoiser that is no torch module or has no such layers, and for layers that compute
    otherwise than diffusers' own processors do, or that are changed already.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    denoiser: Any = diffusion.denoiser
    if not isinstance(denoiser, nn.Module):
        raise ModelError(f"the denoiser is a {type(denoiser).__name__}, no torch module, and shows no attention.")
    found = {
        name: module
        for name, module in denoiser.named_modules()
        if isinstance(module, Attention) and module.is_cross_attention
    }
    if not found:
        raise ModelError("the denoiser has no cross-attention of diffusers. Take a UNet2DConditionModel or a PixArt.")
    for name, module in found.items():
        plain = module.group_norm is None and module.spatial_norm is None
        if type(module.processor) not in (AttnProcessor, AttnProcessor2_0) or not plain:
            raise ModelError(
                f"layer {name} of the denoiser has the processor {type(module.processor).__name__} or norms of maps; "
                "expected AttnProcessor2_0 or AttnProcessor without. Take off what was put in (adapters, another "
                "injection)."
            )
    return found


@dataclass(frozen=True, eq=False)
class _Explicit:
    """An attention processor like diffusers' AttnProcessor, which shows the probabilities to `change`.

    images: in a pass; one of twice as many holds those without a text in its first half.
    """

    images: int
    change: Callable[[Maps], Maps]

    def __call__(
        self,
        attn: "Attention",
        hidden_states: Float[Tensor, "image place channel"],
        encoder_hidden_states: Float[Tensor, "image token width"],
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "image place channel"]:
        """What the layer gives. `temb` is for norms of maps, which such layers lack."""
        batch, tokens, _ = encoder_hidden_states.shape
        if batch not in (self.images, 2 * self.images):
            raise ShapeError(
                f"attention: a pass of {batch} images, expected {self.images}, or twice as many with those without a "
                "text. Name a row for each image of the pass."
            )
        mask: Any = attention_mask
        if mask is not None:
            mask = attn.prepare_attention_mask(mask, tokens, batch)
        told = attn.norm_encoder_hidden_states(encoder_hidden_states) if attn.norm_cross else encoder_hidden_states
        parts: Any = attn
        asked = (parts.to_q(hidden_states), parts.to_k(told), parts.to_v(told))
        query, key, value = (attn.head_to_batch_dim(one) for one in asked)
        query = query if parts.norm_q is None else parts.norm_q(query)
        key = key if parts.norm_k is None else parts.norm_k(key)
        heeded = attn.get_attention_scores(query, key, mask).unflatten(0, (batch, attn.heads))
        heeded = torch.cat([heeded[: -self.images], self.change(heeded[-self.images :])])
        found = attn.batch_to_head_dim(torch.bmm(heeded.flatten(0, 1), value))
        found = parts.to_out[1](parts.to_out[0](found))
        return (found + hidden_states if attn.residual_connection else found) / attn.rescale_output_factor


@contextmanager
def _explicit(layers: "Mapping[str, Attention]", images: int, change: Callable[[str, Maps], Maps]) -> Iterator[None]:
    """Within it, probabilities of the layers go through `change` by the layer's name; the processors always return."""
    before: dict[str, Any] = {name: layer.processor for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            processor: Any = _Explicit(images, partial(change, name))
            layer.set_processor(processor)
        yield
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])


def _each_step(
    name: str, states: Float[Tensor, "*its image token width"], count: int, images: int
) -> Float[Tensor, "step image token width"]:
    """The states of each step. Raises ShapeError unless there is a row for each image, and as many steps as are run."""
    fit = states.ndim == 3 or (states.ndim == 4 and len(states) == count)
    if not fit or states.shape[-3] != images:
        raise ShapeError(
            f"record: {name} of shape {tuple(states.shape)}, expected a row for each of {images} images, and at most "
            f"an axis of the {count} steps before. Give each image its own."
        )
    return states.expand(count, *states.shape[-3:])


def _grid(name: str, places: int, size: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a layer that has `places`: those of the latents, over a whole number and rounded up."""
    for factor in range(1, max(size) + 1):
        rows, columns = (math.ceil(length / factor) for length in size)
        if rows * columns == places:
            return rows, columns
    raise ModelError(f"layer {name} of the denoiser has {places} places, which are no grid of latents of {size}.")


def _within(share: float, steps: int) -> int:
    """How many steps begin within a share of all. Raises ParamError for one outside of 0 to 1."""
    if not 0 <= share <= 1:
        raise ParamError(f"share of steps = {share}, expected 0 to 1. Set it within that range.")
    return math.ceil(round(share * steps, 6))
