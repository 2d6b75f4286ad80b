"""Methods: VITAL (Görgün et al. 2025): images drawn so that their features are distributed as those of references.

Section 3: at every chosen layer, L_SM (eq. 2, Algorithm 1) to the prototype of the target's references, plus total
variation and l2 norm (eq. 3, 4). With relevance (section 3.3) it matches activations times their relevance for the
target, on both sides; the relevance of the image that is drawn is taken anew at each step and held constant in it, so
that the gradient is that of the activations. Relevance has no unit, and may be so small that the total variation is all
that counts: what is matched is divided by the root mean square of the prototype, layer by layer, image by image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from optogram.decompose.relevance import Attributor, Start
from optogram.errors import ParamError
from optogram.methods.visualisation.optimise import (
    Canvas,
    Drawn,
    Pixels,
    Spectrum,
    Tell,
    draw,
    fading,
    jitter,
    jittered,
    l2_norm,
    total_variation,
)
from optogram.methods.visualisation.sort_matching import matching_loss, sort_match_loss
from optogram.models.layers import activations
from optogram.models.loading.classifiers import Classifier


@dataclass(frozen=True)
class Drawing:
    """How VITAL draws one picture: the fields of that name in `vital` of params.yaml, with the paper's values here.

    canvas: what is optimised, `Pixels` as in the paper or a `Spectrum`, which leaves no noise; they need other learning
    rates. decay: lower the learning rate to zero along half a cosine, and with it the shifts: the image settles where
    it is. jitter: largest shift each way, as a share of the side. tv, l2: alpha_TV and alpha_l2 of eq. 3, on images in
    the units that the model takes.

    >>> from optogram.methods import Drawing
    >>> Drawing(canvas="spectrum", learning_rate=0.05).steps
    300
    """

    steps: int = 300
    canvas: Literal["pixels", "spectrum"] = "pixels"
    learning_rate: float = 0.1
    decay: bool = True
    jitter: float = 0.125
    tv: float = 3e-6
    l2: float = 3e-6


@dataclass(frozen=True)
class VitalOptions(Drawing):
    """How VITAL draws all targets of one classifier: the fields of that name in `vital` of params.yaml.

    seeds: pictures a target, of its facets in turn. batch: images drawn at once. relevance: its rule, of `Attributor`;
    class_relevance: weigh by it for classes too. weights, inner_weights: of this classifier's layers, for classes and
    for inner targets.

    >>> from optogram.methods import VitalOptions
    >>> VitalOptions(seeds=3, steps=100).learning_rate
    0.1
    """

    seeds: int = 2
    batch: int = 32
    relevance: str = "lrp"
    class_relevance: bool = False
    weights: Mapping[str, float] | None = None
    inner_weights: Mapping[str, float] | None = None


def vital(
    classifier: Classifier,
    prototypes: Mapping[str, Float32[Tensor, "image _channel _rank"]],
    options: Drawing,
    *,
    seeds: Sequence[int],
    size: tuple[int, int],
    weights: Mapping[str, float] | None = None,
    relevance: Attributor | None = None,
    start: Start | None = None,
    tell: Tell | None = None,
) -> tuple[Drawn, Float32[Tensor, "image block"]]:
    """Draw one image for each seed, all at once; and the final L_SM of each layer, in the order of `prototypes`.

    prototypes: for each layer those of the images' targets, one an image (`reference_prototype`), on the model's
    device, taken from references of this size. size: (y, x) of the images. weights: of the layers' losses, else 1.
    relevance, start: match activations times relevance for the targets that `start` has, one row an image; L_SM then is
    a share of the prototype's mean square.

    L_SM of an image that diverged may not be finite.

    Raises ParamError for one of relevance and start without the other; ParamError and ShapeError as `draw` and
    `matching_loss`, ModelError as `activations` and `Attributor`.

    >>> from optogram.methods import Drawing, reference_prototype, vital
    >>> wanted = {"1": reference_prototype(classifier.model, inputs, ["1"])["1"].repeat(2, 1, 1)}
    >>> drawn, losses = vital(classifier, wanted, Drawing(steps=2), seeds=[0, 1], size=(32, 32))
    >>> drawn.rgb.shape, losses.shape
    (torch.Size([2, 3, 32, 32]), torch.Size([2, 1]))
    """
    if (relevance is None) != (start is None):
        raise ParamError("vital: relevance needs a start, and a start needs relevance. Give both or neither.")
    device = next(iter(prototypes.values())).device
    shifts = _shifts(options, seeds, size)
    canvas = _canvas(options, classifier, seeds, size, device)
    units: dict[str, Tensor] = {}
    if relevance is not None:
        units = _root_mean_squares(prototypes)
        prototypes = {name: each / units[name] for name, each in prototypes.items()}

    def features(seen: Tensor) -> dict[str, Tensor]:
        found = activations(classifier.model, seen, list(prototypes))
        if relevance is None or start is None:
            return found
        share = relevance(seen.detach(), list(prototypes), start)
        return {name: each * share[name] / units[name][..., None] for name, each in found.items()}

    def loss(rgb: Tensor, step: int) -> Tensor:
        seen = classifier.normalise(jittered(rgb, shifts[:, step]))
        matched = matching_loss(features(seen), prototypes, weights)
        return matched + options.tv * total_variation(seen) + options.l2 * l2_norm(seen)

    rate, decay = options.learning_rate, options.decay
    drawn = draw(canvas, loss, steps=options.steps, learning_rate=rate, betas=(0.5, 0.9), decay=decay, tell=tell)
    with torch.no_grad():
        found = features(classifier.normalise(drawn.rgb.to(device)))
        layers = [sort_match_loss(found[name], prototype) for name, prototype in prototypes.items()]
    return drawn, torch.stack(layers, 1).cpu()


def _shifts(options: Drawing, seeds: Sequence[int], size: tuple[int, int]) -> Int64[Tensor, "image step 2"]:
    """The jitter of each image at each step, fading with the learning rate."""
    steps = options.steps
    shifts = jitter(seeds, steps, size, options.jitter)
    if options.decay:
        shifts = (shifts * torch.tensor([fading(step, steps) for step in range(steps)])[:, None]).round().long()
    return shifts


def _canvas(
    options: Drawing, classifier: Classifier, seeds: Sequence[int], size: tuple[int, int], device: torch.device
) -> Canvas:
    if options.canvas == "pixels":
        return Pixels(seeds, size, classifier.mean, classifier.std, device)
    return Spectrum(seeds, size, device)


def _root_mean_squares(prototypes: Mapping[str, Float32[Tensor, "image _channel _rank"]]) -> dict[str, Tensor]:
    """Of each image's prototype at each layer, (image, 1, 1): the unit of what is matched."""
    units = {name: each.square().mean((1, 2), keepdim=True).sqrt() for name, each in prototypes.items()}
    return {name: each.clamp(min=1e-12) for name, each in units.items()}
