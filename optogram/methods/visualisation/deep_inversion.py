"""Methods: DeepInversion (Yin et al. 2020): images of classes whose features have the statistics of batch norms.

A baseline of VITAL. As published, but in one resolution, without flips and without the student of Adaptive
DeepInversion (as section A.1); each image is jittered by its own shift, and the total variation is a mean over images.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from optogram.errors import ModelError, ParamError
from optogram.methods.objectives import Aim, ClassAim, check_aim, logits
from optogram.methods.visualisation.optimise import (
    Drawn,
    Pixels,
    Tell,
    draw,
    image_seed,
    jitter,
    jittered,
    l2_norm,
    total_variation,
)
from optogram.models.loading.classifiers import Classifier

FIRST = 10.0
"""Weight of the first batch norm, which the paper does not name and the published code has."""

JITTER = 30 / 224


def deep_inversion(
    classifier: Classifier,
    aim: Aim,
    *,
    seeds: Sequence[int],
    size: tuple[int, int],
    steps: int,
    batch: int = 64,
    learning_rate: float = 0.05,
    tv: float = 1e-4,
    l2: float = 1e-5,
    statistics: float = 1.0,
    record: Sequence[int] | None = None,
    tell: Tell | None = None,
) -> Drawn:
    """One image for each seed, all in one batch, whose features shall have the running means and variances.

    Cross-entropy + tv L_TV + l2 L_l2 + statistics R (eq. 3 and 4 of Yin et al.; A.1's weights). R is that of the batch:
    its images depend on one another. batch: with fewer images, others of the same classes are drawn beside them and
    dropped, from seeds that follow from theirs; the paper has 64.

    Raises ModelError without batch norms that keep statistics; ParamError unless the aim is classes, for a batch below
    1, and as `draw`; as `check_aim`.
    """
    if not isinstance(aim, ClassAim):
        raise ParamError(f"deepinversion draws classes, not neurons of {aim.layer!r}: use vital, fourier, maco or pii.")
    if not any(_keeps_statistics(module) for module in classifier.model.modules()):
        raise ModelError(f"{type(classifier.model).__name__} has no batch norm: use vital, fourier, maco or pii.")
    if batch < 1:
        raise ParamError(f"deepinversion: batch = {batch}, expected at least 1 image.")
    check_aim(classifier.model, aim, size)
    device = next(iter(classifier.model.parameters())).device
    count = len(aim)
    beside = range(count, max(batch, count))
    every = [*seeds, *(image_seed(seeds[k % count], "beside", k // count) for k in beside)]
    classes = torch.cat([aim.classes, aim.classes[[k % count for k in beside]]]).to(device)
    shifts = jitter(every, steps, size, JITTER)

    def loss(rgb: Tensor, step: int) -> Tensor:
        seen = classifier.normalise(jittered(rgb, shifts[:, step]))
        said, distances = feature_distances(classifier.model, seen)
        # of the sum over images, each has the gradient of R as many times as there are images: as of its mean
        others = sum((FIRST if n == 0 else 1.0) * each for n, each in enumerate(distances))
        wrong = F.cross_entropy(said.float(), classes, reduction="none")
        return wrong + tv * total_variation(seen) + l2 * l2_norm(seen) + statistics * others

    drawn = draw(
        Pixels(every, size, classifier.mean, classifier.std, device),
        loss,
        steps=steps,
        learning_rate=learning_rate,
        betas=(0.5, 0.9),
        decay=True,
        record=record,
        tell=tell and (lambda _: tell(count)),
    )
    return Drawn(drawn.rgb[:count], drawn.transparency[:count], drawn.loss[:count], drawn.diverged[:count])


def feature_distances(
    model: nn.Module, images: Float[Tensor, "image rgb y x"]
) -> tuple[Float[Tensor, "image class"], list[Float32[Tensor, ""]]]:
    """Logits; and of each batch norm, in the order they run, how far the batch is from its running statistics.

    |mean - running mean| + |variance - running variance| of what comes in, Euclidean norms (eq. 4 of Yin et al. 2020).
    Images whose features are not finite are left out. Hooks always go, also when the model fails.

    Raises ModelError for a model that gives no logits.
    """
    found: list[Tensor] = []

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, _BatchNorm)
        assert module.running_mean is not None
        assert module.running_var is not None
        kept, finite = inputs[0], inputs[0].detach().flatten(1).isfinite().all(1)
        if not finite.all():  # to pick rows, even all of them, is dear backwards
            kept = kept[finite]
        if len(kept):
            over = [0, *range(2, kept.ndim)]
            variance, mean = torch.var_mean(kept.float(), over, correction=0)
            apart = mean - module.running_mean, variance - module.running_var
            found.append(torch.linalg.vector_norm(apart[0]) + torch.linalg.vector_norm(apart[1]))

    handles = []
    try:
        for module in model.modules():
            if _keeps_statistics(module):
                handles.append(module.register_forward_pre_hook(see))
        said = logits(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return said, found


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None
