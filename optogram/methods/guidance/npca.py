"""Methods, guidance: the parts of a class's logit that vary together over its images, by neural PCA.

Class-wise neural PCA (Neuhaus et al. 2023; DiG-IN, section G). With phi the input of the last linear layer and w_k its
weights of class k, psi_k(x) = w_k * phi(x) says what each entry of phi adds to the logit. The eigenvectors v_l of the
covariance of psi_k over images of the class make of it parts

    alpha_l(x) = <1, v_l> <psi_k(x) - mean psi_k, v_l>,    logit_k(x) = bias_k + <1, mean psi_k> + sum_l alpha_l(x).

Over the images of the class the alphas are uncorrelated, so that their variances add up to the logit's. Components are
ordered by them: the first moves the logit most. The eigenvalues of psi_k, which PCA orders by, would put in front
components whose entries cancel in the sum and never reach the logit.
"""

import json
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Float64
from torch import Tensor

from optogram.errors import DataError, ParamError, ShapeError
from optogram.methods.class_labels import class_labels
from optogram.methods.guidance.readout import Readout, features_of, readout
from optogram.metrics.headline import Headline
from optogram.models.loading.classifiers import Classifier

FEWEST = 3
"""Images of a class that a covariance needs, at least."""


@dataclass(frozen=True, eq=False)
class Components:
    """The components of one class, those with the largest variance of alpha first.

    mean: of psi over the images. vectors: v_l, of length 1, with the sign that makes <1, v_l> positive (alpha is the
    same with either). directions, offsets: alpha_l = <phi, direction_l> + offset_l, so that any objective can use it.
    variance: of alpha_l over the images, with n - 1. logit_variance: of the logit, of which they are shares.
    unit_share: the largest share of it that one entry of phi has alone, var(w_j phi_j) / var(logit).
    """

    mean: Float64[Tensor, " embed"]
    vectors: Float64[Tensor, "component embed"]
    directions: Float64[Tensor, "component embed"]
    offsets: Float64[Tensor, " component"]
    variance: Float64[Tensor, " component"]
    logit_variance: float
    unit_share: float

    def alpha(self, features: Float[Tensor, "image embed"]) -> Float[Tensor, "image component"]:
        """What each component adds to the logit beside its mean over the images, as precise as the features.

        Gradients pass. Raises ShapeError for features of another length.
        """
        if features.shape[1] != self.directions.shape[1]:
            raise ShapeError(
                f"features have {features.shape[1]} entries, the components {self.directions.shape[1]}. "
                "Take both from the same classifier."
            )
        return features @ self.directions.to(features).T + self.offsets.to(features)


def npca(
    features: Float[Tensor, "image embed"], weight: Float[Tensor, " embed"], *, count: int | None = None
) -> Components:
    """The components of a class from phi of its images, in float64.

    weight: w_k, the last linear layer's weights of the class. count: the first so many components; None for all, of
    which those beyond the number of images less one have no variance.

    Raises ShapeError if weights and features differ in length, DataError for fewer than three images, features that
    are not finite or a logit that is the same on all, ParamError for a count below 1.

    >>> from optogram.methods.guidance.npca import npca
    >>> features = torch.tensor([[1.0, 0.0], [3.0, 1.0], [5.0, -1.0]])
    >>> found = npca(features, torch.tensor([2.0, 1.0]))
    >>> logits = features.double() @ torch.tensor([2.0, 1.0]).double()
    >>> torch.allclose(found.alpha(features.double()).sum(1) + found.mean.sum(), logits)
    True
    """
    _check(features, weight, count)
    psi = features.double() * weight.double()
    mean = psi.mean(0)
    centred = psi - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred / (len(psi) - 1))
    vectors = vectors.T
    sums = vectors.sum(1)
    vectors = vectors * torch.where(sums < 0, -1.0, 1.0)[:, None]
    directions = vectors * sums.abs()[:, None]
    variance = (centred @ directions.T).square().sum(0) / (len(psi) - 1)
    logit_variance = float(centred.sum(1).square().sum() / (len(psi) - 1))
    if not logit_variance > 0:
        raise DataError("the logit is the same on all images of the class, so nothing varies. Give other images.")
    first = variance.argsort(descending=True, stable=True)[:count]
    return Components(
        mean,
        vectors[first],
        directions[first] * weight.double(),
        -(directions[first] @ mean),
        variance[first],
        logit_variance,
        float(centred.square().sum(0).max() / (len(psi) - 1) / logit_variance),
    )


def class_components(
    classifier: Classifier, images: xr.Dataset, *, count: int, shown: int, batch: int = 64
) -> xr.Dataset:
    """The first `count` components of every class: npca/<model> of docs/artifacts/guidance.md.

    images: an images artifact, lazily read, labelled by what the classifier tells. shown: images of either end of each
    component that are named. Classes with fewer than three images are left out, and named in the attribute `left_out`.

    Raises ModelError as `readout` and for classes without names; DataError for images that are not labelled by their
    attribute or where no class has enough; ParamError for numbers below 1.
    """
    for name, given in (("count", count), ("shown", shown), ("batch", batch)):
        if given < 1:
            raise ParamError(f"{name} = {given}, expected 1 or more.")
    attribute, labels = class_labels(classifier, images)
    last = readout(classifier, side=images.sizes["x"])
    enough = [k for k in range(len(classifier.classes)) if (labels == k).sum() >= FEWEST]
    if not enough:
        raise DataError(f"no class has {FEWEST} images or more, which a covariance needs. Give more images.")
    features = torch.from_numpy(features_of(classifier, images, batch=batch))
    count = min(count, features.shape[1])
    rows = [_class(features, labels == k, last, k, images, count, shown) for k in enough]
    left = [name for k, name in enumerate(classifier.classes) if k not in enough]
    names = [classifier.classes[k] for k in enough]
    found = xr.concat(rows, xr.DataArray(names, dims="class", name="class")).assign_coords(component=np.arange(count))
    return found.assign_attrs(attribute=attribute, left_out=json.dumps(left))


def headline(found: xr.Dataset) -> Headline:
    """How much of a class's logit one component carries, beside the most that one unit does."""
    first, unit = (float(found[name].mean()) for name in ("first_share", "unit_share"))
    measure = "share of the variance of a class's logit in its first component"
    images = int(found["images"].sum())
    return Headline(measure, first, images, "in the unit that has most of it", unit)


def _class(
    features: Float[Tensor, "image embed"],
    own: np.ndarray,
    last: Readout,
    k: int,
    images: xr.Dataset,
    count: int,
    shown: int,
) -> xr.Dataset:
    """The components of class k, whose images are where `own` is true."""
    rows, weight, bias = np.flatnonzero(own), last.weight[k].cpu(), float(last.bias[k])
    of_class = features[torch.from_numpy(rows)]
    parts = npca(of_class, weight, count=count)
    alpha = parts.alpha(of_class.double()).numpy()
    order = np.argsort(-alpha, axis=0, kind="stable")
    some = np.concatenate([order[:shown], order[::-1][:shown]]).T  # (component, 2 * shown), fewer where there are fewer
    ends = np.full((count, 2, shown), -1)
    held = min(shown, len(rows))
    ends[:, 0, :held], ends[:, 1, :held] = some[:, :held], some[:, held:]
    ids = np.array([*images["image"].values[rows].astype(str), ""])
    share = parts.variance.numpy() / parts.logit_variance
    per = ("component", "sign", "rank")
    return xr.Dataset(
        {
            "vector": (("component", "embed"), parts.vectors.numpy().astype(np.float32)),
            "direction": (("component", "embed"), parts.directions.numpy()),
            "offset": ("component", parts.offsets.numpy()),
            "variance": ("component", parts.variance.numpy()),
            "share": ("component", share),
            "first_share": ((), share[0]),
            "unit_share": ((), parts.unit_share),
            "mean_logit": ((), float(parts.mean.sum()) + bias),
            "images": ((), len(rows)),
            "image": (per, ids[ends]),
            "alpha": (per, _or_nan(alpha, ends), {"missing": "the class has fewer images"}),
        },
        {"sign": ["most", "least"]},
    )


def _or_nan(alpha: np.ndarray, ends: np.ndarray) -> np.ndarray:
    columns = np.arange(len(ends))[:, None, None]
    return np.where(ends >= 0, alpha[ends, columns], np.nan)


def _check(features: Tensor, weight: Tensor, count: int | None) -> None:
    if weight.shape != features.shape[1:]:
        raise ShapeError(
            f"weights have shape {tuple(weight.shape)}, features {tuple(features.shape)}; expected one weight an entry "
            "of the features. Take both from the last linear layer."
        )
    if len(features) < FEWEST:
        raise DataError(f"{len(features)} images of the class, expected {FEWEST} or more. Give more images.")
    if not bool(features.isfinite().all()):
        raise DataError("a feature is not finite. Check the images and the model's weights.")
    if count is not None and count < 1:
        raise ParamError(f"count = {count}, expected 1 or more, or None for all.")
