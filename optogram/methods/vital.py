"""Methods: VITAL (Görgün et al. 2025): images drawn so that their features are distributed as those of references.

Section 3: at every chosen layer, L_SM (eq. 2, Algorithm 1) to the prototype of the target's references, plus total
variation and l2 norm (eq. 3, 4). With relevance (section 3.3) it matches activations times their relevance for the
target, on both sides; the relevance of the image that is drawn is taken anew at each step and held constant in it, so
that the gradient is that of the activations. Relevance has no unit, and may be so small that the total variation is all
that counts: what is matched is divided by the root mean square of the prototype, layer by layer, image by image.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from optogram.errors import ParamError
from optogram.methods.drawing import (
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
from optogram.methods.relevance import Attributor, Start
from optogram.methods.sort_matching import matching_loss, sort_match_loss
from optogram.models.classifiers import Classifier, activations


def vital(
    classifier: Classifier,
    prototypes: Mapping[str, Float32[Tensor, "image channel rank"]],
    *,
    seeds: Sequence[int],
    size: tuple[int, int],
    steps: int = 300,
    canvas: Literal["pixels", "spectrum"] = "pixels",
    learning_rate: float = 0.1,
    decay: bool = True,
    jitter_share: float = 0.125,
    tv: float = 3e-6,
    l2: float = 3e-6,
    weights: Mapping[str, float] | None = None,
    relevance: Attributor | None = None,
    start: Start | None = None,
    tell: Tell | None = None,
) -> tuple[Drawn, Float32[Tensor, "image block"]]:
    """Draw one image for each seed, all at once; and the final L_SM of each layer, in the order of `prototypes`.

    prototypes: for each layer those of the images' targets, one an image (`reference_prototype`), on the model's
    device, taken from references of this size. size: (y, x) of the images. canvas: what is optimised, `Pixels` as in
    the paper or a `Spectrum`, which leaves no noise; they need other learning rates. jitter_share: largest shift each
    way, as a share of the side. decay: lower the learning rate to zero along half a cosine, and with it the shifts: the
    image settles where it is. tv, l2: alpha_TV and alpha_l2 of eq. 3, on images in the units that the model takes.
    relevance, start: match activations times relevance for the targets that `start` has, one row an image; L_SM then is
    a share of the prototype's mean square.

    L_SM of an image that diverged may not be finite.

    Raises ParamError for one of relevance and start without the other; ParamError and ShapeError as `draw` and
    `matching_loss`, ModelError as `activations` and `Attributor`.
    """
    if (relevance is None) != (start is None):
        raise ParamError("vital: relevance needs a start, and a start needs relevance. Give both or neither.")
    device = next(iter(prototypes.values())).device
    shifts = jitter(seeds, steps, size, jitter_share)
    if decay:
        shifts = (shifts * torch.tensor([fading(step, steps) for step in range(steps)])[:, None]).round().long()
    drawn_on: Canvas = Spectrum(seeds, size, device)
    if canvas == "pixels":
        drawn_on = Pixels(seeds, size, classifier.mean, classifier.std, device)

    units: dict[str, Tensor] = {}
    if relevance is not None:
        units = {name: each.square().mean((1, 2), keepdim=True).sqrt() for name, each in prototypes.items()}
        units = {name: each.clamp(min=1e-12) for name, each in units.items()}
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
        return matched + tv * total_variation(seen) + l2 * l2_norm(seen)

    drawn = draw(drawn_on, loss, steps=steps, learning_rate=learning_rate, betas=(0.5, 0.9), decay=decay, tell=tell)
    with torch.no_grad():
        found = features(classifier.normalise(drawn.rgb.to(device)))
        layers = [sort_match_loss(found[name], prototype) for name, prototype in prototypes.items()]
    return drawn, torch.stack(layers, 1).cpu()
