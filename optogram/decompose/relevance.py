"""Methods: how relevant each feature of a layer is to a class, a neuron or a direction (VITAL, sections 3.3, B.2, B.3).

Relevance has the shape of the activations, which VITAL multiplies by it. Three rules:

- `lrp`, layer-wise relevance propagation, which conserves: relevance that starts at one layer arrives whole at another,
  but for the share of biases (`LRP`). Convolutions and linear layers of tokens by the z+ rule, heads by LRP-0, batch
  norm merged into the convolution before it: zennit's composite `EpsilonPlus`. In a ViT, attention weights and the
  scales of LayerNorms are constants (Ali et al. 2022), as are the gates of squeeze-and-excitation.
- `guided_backprop` (Springenberg et al. 2015): the guided gradient itself, not times the activation.
- `gradient_x_input`: the activation times its gradient.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from optogram.decompose.relevance_rules import LRP, GuidedBackprop, merge_batch_norms
from optogram.errors import ModelError, ParamError, ShapeError, nearest
from optogram.models.layers import outputs

Rule = Literal["lrp", "guided_backprop", "gradient_x_input"]
RULES: tuple[Rule, ...] = get_args(Rule)
_CONTEXTS = {"lrp": LRP, "guided_backprop": GuidedBackprop, "gradient_x_input": nullcontext}


@dataclass(frozen=True)
class Start:
    """Where relevance starts: at the logits (layer None) or at a layer's output, along a direction for each image.

    With activations a, relevance starts as a * direction: at the logits as each class's logit times its weight. With
    place "best" it starts at one place alone, where the feature vector is most similar (cosine) to the direction. There
    LRP starts with the direction itself, whatever the activations (section B.3); only channels with an activation of
    zero, which have nothing to pass it on to, start with none. At the logits `place` says nothing.

    Raises ParamError for a place that is neither.

    >>> from optogram.methods import Start
    >>> first = torch.eye(4)[[0, 0]]
    >>> Start(first).layer is None
    True
    >>> Start(torch.ones(2, 6), layer="1", place="best").place
    'best'
    """

    direction: Float[Tensor, "image channel"]
    layer: str | None = None
    place: Literal["all", "best"] = "all"

    def __post_init__(self) -> None:
        if self.place not in ("all", "best"):
            raise ParamError(f"place = {self.place!r}, expected all or best.")


class Attributor:
    """Relevance of the features of a model's layers, by a rule of RULES; call it as often as you like.

    Holds a copy of the model in which batch norms are merged (`lrp`; done on the first call): the model itself is never
    touched, and later changes to it are not seen.

    Raises ParamError for a rule that is none of RULES, ModelError for a model in training mode.

    >>> from optogram.methods import Attributor, Start
    >>> relevance = Attributor(classifier.model)(inputs, ["1"], Start(torch.eye(4)))
    >>> relevance["1"].shape
    torch.Size([4, 6, 30, 30])
    """

    def __init__(self, model: nn.Module, rule: str = "lrp") -> None:
        if rule not in RULES:
            raise ParamError(f"relevance rule = {rule!r}, expected one of {', '.join(RULES)}.{nearest(rule, [*RULES])}")
        if model.training:
            raise ModelError(f"{type(model).__name__} is in training mode: call model.eval() before asking relevance.")
        self.rule: Rule = rule
        with torch.inference_mode(False):
            self._model = copy.deepcopy(model).requires_grad_(False)
        self._merged = rule != "lrp"

    def __call__(
        self, images: Float[Tensor, "image rgb y x"], layers: Sequence[str], start: Start
    ) -> dict[str, Float[Tensor, "image _channel _gy _gx"]]:
        """Relevance of each layer's output for the start, (image, channel, y, x), by name in the order asked; detached.

        images: preprocessed. Tokens of a ViT are laid out as their grid of patches, as by `activations`; what the class
        token and registers hold is not shown (from the logits of a class-token ViT, all of the last block's relevance).
        Images do not affect each other.

        Raises ModelError as `activations`, for a layer that the start does not depend on, and for a function without a
        rule (`lrp`); ShapeError if the direction does not fit.
        """
        # out of any inference mode of the caller's, whose tensors could not be differentiated through
        with torch.inference_mode(False):
            images = images.detach().clone()
            if not self._merged:
                merge_batch_norms(self._model, images[:1])
                self._merged = True
            return propagate(self._model, images, layers, start, self.rule)


def propagate(
    model: nn.Module, images: Float[Tensor, "image rgb y x"], layers: Sequence[str], start: Start, rule: Rule
) -> dict[str, Float[Tensor, "image _channel _gy _gx"]]:
    """As `Attributor`, by the model itself, whose batch norms are left as they are; hooks go when the pass is done.

    Not to be called in inference mode.
    """
    names = list(dict.fromkeys([*layers, *filter(None, [start.layer])]))
    with torch.enable_grad(), _CONTEXTS[rule]():
        found, final = outputs(model, images.detach().requires_grad_(), names)
    source = final if start.layer is None else found[start.layer].as_map(found[start.layer].raw)
    if not isinstance(source, Tensor) or (start.layer is None and source.ndim != 2):
        shape = tuple(source.shape) if isinstance(source, Tensor) else type(source).__name__
        raise ModelError(f"{type(model).__name__} gives {shape}; expected logits (image, class).")
    if start.direction.shape != source.shape[:2]:
        raise ShapeError(
            f"the start's direction has shape {tuple(start.direction.shape)}, but {start.layer or 'the output'} has "
            f"{tuple(source.shape[:2])} (image, channel)."
        )
    seed = _seed(source.detach(), start.direction.detach().to(source), start, rule)
    raws = [found[name].raw for name in layers]
    gradients = torch.autograd.grad(source, raws, seed, allow_unused=True)
    relevance = {}
    for name, raw, gradient in zip(layers, raws, gradients, strict=True):
        if gradient is None:
            raise ModelError(
                f"{start.layer or 'the output'} does not depend on layer {name!r}. "
                "Ask for layers at or before the one that relevance starts at."
            )
        relevance[name] = found[name].as_map(gradient if rule == "guided_backprop" else raw.detach() * gradient)
    return relevance


def _seed(source: Tensor, direction: Tensor, start: Start, rule: Rule) -> Tensor:
    """What autograd starts with at the source, a ratio of relevance to activation or a gradient."""
    if start.layer is None:
        return direction
    seed = direction[:, :, None, None].expand_as(source)
    if start.place == "all":
        return seed
    similarity = F.cosine_similarity(source, seed, dim=1)
    best = F.one_hot(similarity.flatten(1).argmax(1), similarity[0].numel()).reshape(similarity.shape)[:, None]
    if rule == "lrp":
        seed = torch.where(source == 0, 0, seed / source)
    return seed * best
