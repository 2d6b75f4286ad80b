"""Method room, VITAL: the loss that gives an image the features of reference images, whatever their order in space.

Section 3.2, Algorithm 1. For each channel it compares the sorted activations of the image with those of the
references, averaged rank by rank. That average, the prototype, does not depend on the image: it is computed once, and
a step sorts the image's own activations only. No order is undone either: Algorithm 1 puts the prototype into the
image's order, here the image is in the prototype's; the differences are the same, and so are value and gradient.

Activation times relevance (section 3.3) takes the place of the activations on both sides: pass `relevance` to
`reference_prototype`, and the image's features multiplied by its own relevance to the loss.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from optogram.errors import DataError, ParamError, ShapeError, nearest
from optogram.models.batches import in_batches
from optogram.models.layers import activations

Relevance = Callable[[Tensor], Mapping[str, Tensor]]
"""Images to the relevance of each layer, of the shape of its activations."""


def sort_match_prototype(features: Float[Tensor, "reference channel *space"]) -> Float32[Tensor, "channel rank"]:
    """Activations sorted in each channel of each reference, ascending, averaged over the references (Algorithm 1).

    Raises ShapeError if there is no reference, or no place in space.

    >>> from optogram.methods import sort_match_prototype
    >>> features = torch.tensor([[[3.0, 1.0, 2.0]], [[0.0, 5.0, 4.0]]])
    >>> sort_match_prototype(features).tolist()
    [[0.5, 3.0, 4.0]]
    """
    _check("the references", features)
    return (_sorted(features).double().sum(0) / len(features)).float()


def sort_match_loss(
    features: Float[Tensor, "image channel *space"], prototype: Float32[Tensor, "*image channel rank"]
) -> Float32[Tensor, " image"]:
    """L_SM of one layer, for each image: the mean squared difference to the prototype, rank by rank (Algorithm 1).

    prototype: one for all images, or one for each. The images' losses are independent of one another: the gradient of
    their sum is each image's own.

    A prototype with more ranks than the image has places: `gather` in Algorithm 1 then reads only as many of the
    lowest ranks as the image has places, and so does this. To match the whole distribution give references of the
    image's size.

    Raises ShapeError for other channels, another number of images, or too few ranks, where `gather` would fail.

    >>> from optogram.methods import sort_match_loss
    >>> sort_match_loss(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[1.0, 2.0, 5.0]])).tolist()
    [1.3333333730697632]
    """
    _check("the image", features)
    ours = _sorted(features)
    expected = (*ours.shape[:2],) if prototype.ndim == 3 else (ours.shape[1],)
    if prototype.ndim not in (2, 3) or prototype.shape[:-1] != expected:
        raise ShapeError(
            f"the prototype has shape {tuple(prototype.shape)}, the features {tuple(features.shape)}. Expected "
            f"({ours.shape[1]}, rank), or ({len(ours)}, {ours.shape[1]}, rank) with a target for each image."
        )
    places = ours.shape[2]
    if prototype.shape[-1] < places:
        raise ShapeError(
            f"the references have {prototype.shape[-1]} places a channel, the image {places}: Algorithm 1 needs at "
            "least as many. Resize the references to the image's size."
        )
    return (ours - prototype[..., :places]).square().mean((1, 2))


def matching_loss(
    features: Mapping[str, Float[Tensor, "image _channel _gy _gx"]],
    prototypes: Mapping[str, Float32[Tensor, "*image _channel _rank"]],
    weights: Mapping[str, float] | None = None,
) -> Float32[Tensor, " image"]:
    """L_SM of eq. 4 for each image: `sort_match_loss` summed over the layers, each times its weight (by default 1).

    features: of `activations`. prototypes: of `reference_prototype`; for many targets at once stack those of each.
    weights: for some or all layers. A weight of 0 leaves a layer out.

    Raises ParamError if the layers are not the same ones, if a weight is of no layer, negative or not finite, or if no
    layer is left; ShapeError as `sort_match_loss`.

    >>> from optogram.methods import matching_loss
    >>> features = {"layer4": torch.tensor([[[[3.0, 1.0]]]])}
    >>> matching_loss(features, {"layer4": torch.tensor([[1.0, 4.0]])}, {"layer4": 2.0}).tolist()
    [1.0]
    """
    weights = weights or {}
    for what, names, known in (
        ("features but no prototype", features, prototypes),
        ("a prototype but no features", prototypes, features),
        ("a weight but no features", weights, features),
    ):
        for name in names:
            if name not in known:
                raise ParamError(f"layer {name!r} has {what}.{nearest(name, list(known))} Give the same layers to all.")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ParamError(
                f"the weight of layer {name!r} is {weight}: expected a finite number that is not negative."
            )
    chosen = {name: weights.get(name, 1.0) for name in features if weights.get(name, 1.0)}
    if not chosen:
        raise ParamError("no layer to match features at. Give at least one layer with a weight above 0.")
    losses = [weight * sort_match_loss(features[name], prototypes[name]) for name, weight in chosen.items()]
    return torch.stack(losses).sum(0)


def reference_prototype(
    model: nn.Module,
    images: Float[Tensor, "reference rgb y x"],
    layers: Sequence[str],
    *,
    relevance: Relevance | None = None,
    batch: int = 16,
) -> dict[str, Float32[Tensor, "_channel _rank"]]:
    """The prototype of each layer over the reference images, streamed in batches; on the model's device.

    images: preprocessed, all of one size; moved to the model's device batch by batch.
    relevance: weighs the activations, A * R of section 3.3.

    Raises ShapeError if there is no reference, or if relevance has another shape; ParamError if it lacks a layer;
    DataError for features that are not finite; ModelError as `activations`.

    >>> from optogram.methods import reference_prototype
    >>> reference_prototype(classifier.model, inputs, ["1"])["1"].shape
    torch.Size([6, 900])
    """
    if not len(images):
        raise ShapeError("no reference images. Give at least one.")
    device = next((parameter.device for parameter in model.parameters()), images.device)
    total: dict[str, Tensor] = {}

    def sums(rows: slice) -> dict[str, Tensor]:
        part = images[rows].to(device)
        with torch.no_grad():
            found = activations(model, part, layers)
        if relevance is not None:
            found = _weighted(found, relevance(part))
        return {name: _sorted(each.detach()).sum(0, dtype=torch.float64) for name, each in found.items()}

    for rows, found in in_batches(len(images), batch, sums):
        for name, each in found.items():
            if not torch.isfinite(each).all():
                raise DataError(
                    f"references {rows.start} to {rows.stop - 1}: layer {name!r} has features that are not finite. "
                    "Check these images and the checkpoint."
                )
            total[name] = total[name] + each if name in total else each
    return {name: (each / len(images)).float() for name, each in total.items()}


def _weighted(found: Mapping[str, Tensor], relevance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, each in found.items():
        if name not in relevance:
            raise ParamError(f"relevance lacks layer {name!r}.{nearest(name, list(relevance))} It is needed for each.")
        if relevance[name].shape != each.shape:
            raise ShapeError(
                f"layer {name!r}: relevance has shape {tuple(relevance[name].shape)}, activations "
                f"{tuple(each.shape)}. Give one value for each activation."
            )
    return {name: each * relevance[name] for name, each in found.items()}


def _sorted(features: Tensor) -> Tensor:
    """(…, channel, rank), ascending, in float32; of equal activations the one that comes first has the lower rank."""
    return features.flatten(2).float().sort(dim=2, stable=True).values


def _check(whose: str, features: Tensor) -> None:
    if features.ndim < 3 or 0 in features.shape:
        raise ShapeError(
            f"features of {whose} have shape {tuple(features.shape)}; expected (image, channel, y, x), none of them 0."
        )
