"""Method room, neurons: their second-order effects as rank-1 forms, and what the embedding is without them (ch. 3).

Effects are phi = c D + constant (`optogram.decompose.second_order`); what replaces them is linear in them, so each
ablation of a layer is one vector an image: masked c times D. No effect vector is formed. Every function that changes
embeddings adds to what it is given, so that neurons go block by block: pass one block's result as the next's `start`.
"""

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from optogram.decompose.effects import NeuronSpace, check, effect_norms, image_blocks, neuron_blocks, tensor
from optogram.errors import ParamError, ShapeError

_EIGEN_NEURONS = 64


def effect_means(ds: xr.Dataset) -> xr.Dataset:
    """Mean over images of c (layer, head, neuron) and constant (embed): b_n = mean c D + mean constant.

    Neither D nor the embeddings are needed. Raises ShapeError if `ds` holds no image.

    >>> from optogram.decompose import effects
    >>> from optogram.methods import effect_means
    >>> mean = effect_means(second)
    >>> b = np.einsum("lhn,lhne->ne", mean.c, second.D) + mean.constant.values
    >>> np.allclose(b, effects(second).mean("image"), atol=1e-5)
    True
    """
    check(ds.assign(D=0))
    if not ds.sizes["image"]:
        raise ShapeError("no images to take the mean over. Pass a split that has some.")
    total = np.zeros(ds.c.shape[1:])
    for part in neuron_blocks(ds):
        for _, c, _ in image_blocks(ds, part):
            total[:, :, part] += c.sum(0, dtype=torch.float64).numpy()
    means = {
        "c": (ds.c.dims[1:], (total / ds.sizes["image"]).astype(np.float32)),
        "constant": (("embed",), ds.constant.values.mean(0, dtype=np.float64).astype(np.float32)),
    }
    return xr.Dataset(means, coords={name: ds[name] for name in ds.c.dims[1:] if name in ds.coords}, attrs=ds.attrs)


def largest_effects(norms: xr.DataArray, count: int = 100) -> xr.DataArray:
    """For each neuron the `count` images with the largest norms: True there, (image, neuron).

    Exactly `count` a neuron (or all images, if fewer): of equal norms the earlier image is taken. Its negation are the
    small ones. Raises ParamError for a count below 1.

    >>> from optogram.methods import largest_effects
    >>> norms = xr.DataArray([[0.5, 2.0], [1.5, 3.0], [1.0, 1.0]], dims=("image", "neuron"))
    >>> largest_effects(norms, 1).values.tolist()
    [[False, False], [True, True], [False, False]]
    """
    top = _top(norms.transpose("image", "neuron").values, count)
    found = np.zeros((norms.sizes["image"], norms.sizes["neuron"]), bool)
    np.put_along_axis(found, top.T, True, axis=0)
    return norms.transpose("image", "neuron").copy(data=found).rename("largest")


def rank_one(ds: xr.Dataset, count: int = 100, *, norms: xr.DataArray | None = None) -> xr.Dataset:
    """The rank-1 form phi_n(I) ~ x_n(I) r_n + b_n of every neuron's effects over these images (section 3.3).

    b_n is the mean effect over all images. r_n is the first principal component of the `count` effects of the largest
    norm about b_n, of unit length; x_n(I) = <phi_n(I) - b_n, r_n>. In the thesis x_n is a norm: the sign of r_n is the
    one that makes these effects' mean projection on it positive, so that x_n is a length where the effect is large. All
    is found among the images' dot products, from c, the Gram matrix of D and the span of the constants.

    norms: of `effect_norms`, if they are at hand.

    Returns r, b (neuron, embed), `top` (neuron, rank), positions of the images with the largest effects, largest
    first, `norm` (neuron, rank), `explained` (neuron), the share of r_n in the sum of squares of these effects about
    b_n, and the means `c` and `constant` of `effect_means`, which make this dataset a `mean=` of the functions below.
    A neuron whose effects are all equal has r_n = 0 and explains nothing.

    Raises ParamError for a count below 1, ShapeError if a variable is missing.

    >>> from optogram.methods import rank_one
    >>> form = rank_one(second, 4)
    >>> form.r.shape, form.top.shape
    ((64, 16), (64, 4))
    >>> np.allclose(np.linalg.norm(form.r, axis=1), 1, atol=1e-4)
    True
    """
    check(ds)
    means = effect_means(ds)
    lengths = (effect_norms(ds) if norms is None else norms).transpose("image", "neuron").values
    top = _top(lengths, count)
    constant_mean = tensor(means.constant)
    span = _Span.of(tensor(ds.constant) - constant_mean)
    neurons, embed = ds.sizes["neuron"], ds.sizes["embed"]
    r, b = np.zeros((2, neurons, embed), np.float32)
    explained = np.zeros(neurons, np.float32)
    for part in neuron_blocks(ds):
        space = NeuronSpace.of(tensor(ds.D[:, :, part]))
        c_mean = tensor(means.c[:, :, part]).flatten(0, 1)
        b[part] = (torch.einsum("kn,kne->ne", c_mean, space.directions) + constant_mean).numpy()
        c = _gathered(ds, top, part) - c_mean.T[:, None]
        for start in range(0, len(c), _EIGEN_NEURONS):
            few = slice(start, start + _EIGEN_NEURONS)
            where = slice(part.start + start, part.start + start + len(c[few]))
            shift = span.at[torch.from_numpy(top[where])]
            found = _first_component(space, span, c[few], shift, torch.from_numpy(b[where]), few)
            r[where], explained[where] = (each.numpy() for each in found)
    return means.assign(
        r=(("neuron", "embed"), r),
        b=(("neuron", "embed"), b),
        top=(("neuron", "rank"), top),
        norm=(("neuron", "rank"), np.take_along_axis(lengths.T, top, 1)),
        explained=(("neuron",), explained),
    )


def through_heads(ds: xr.Dataset, form: xr.Dataset) -> xr.DataArray:
    """What part of x_n passes each later head, (layer, head, neuron) float32: mean over the neuron's largest effects.

    Their sum over layers and heads is the mean of x_n over these effects, but for the constant's share, which is in no
    head. form: what `rank_one` found on this very `ds`. Raises ShapeError as `replace_effects`.

    >>> from optogram.methods import rank_one, through_heads
    >>> through_heads(second, rank_one(second, 4)).dims
    ('layer', 'head', 'neuron')
    """
    mean, _ = _fitted(ds, form, ds.constant.values)
    found = np.empty(ds.c.shape[1:], np.float32)
    for part in neuron_blocks(ds):
        along = torch.einsum("lhne,ne->lhn", tensor(ds.D[:, :, part]), tensor(form.r[part]))
        beyond = _gathered(ds, form.top.values, part).mean(1).T - tensor(mean.c[:, :, part]).flatten(0, 1)
        found[:, :, part] = (along * beyond.unflatten(0, along.shape[:2])).numpy()
    return ds.D[..., 0].drop_vars("embed", errors="ignore").copy(data=found).rename("through")


def ablate_effects(
    ds: xr.Dataset,
    mean: xr.Dataset | None = None,
    *,
    where: Bool[np.ndarray, "image neuron"] | xr.DataArray | None = None,
    start: Float32[np.ndarray, "image embed"] | None = None,
) -> Float32[np.ndarray, "image embed"]:
    """Unnormalised image embeddings with the second-order effects of all neurons of `ds` replaced by their means.

    Section 3.3, Figure 3.3: "w/o all neurons", and with `where` "w/o small norm" (`~largest_effects(norms)`) and "w/o
    large norm" (`largest_effects(norms)`).

    mean: of `effect_means` or `rank_one`, from the reference images; by default over `ds` itself.
    where: which effects to replace; all by default.
    start: embeddings to change, by default those of `ds`.

    Raises ShapeError if a variable is missing, or if `mean` or `where` do not fit `ds`.

    >>> from optogram.decompose import effect_norms
    >>> from optogram.methods import ablate_effects, largest_effects
    >>> ablate_effects(second).shape
    (12, 16)
    >>> kept = ablate_effects(second, where=~largest_effects(effect_norms(second), 12))
    >>> np.allclose(kept, second.embedding, atol=1e-5)
    True
    """
    mean, result = _fitted(ds, mean, start)
    if isinstance(where, xr.DataArray):
        where = where.transpose("image", "neuron").values
    if where is not None and where.shape != (ds.sizes["image"], ds.sizes["neuron"]):
        raise ShapeError(
            f"where has shape {where.shape}, but there are effects of {ds.sizes['image']} images and "
            f"{ds.sizes['neuron']} neurons. Pass (image, neuron)."
        )
    for part in neuron_blocks(ds):
        directions = tensor(ds.D[:, :, part]).flatten(0, 2)
        for rows, c, constant in _beyond(ds, mean, part):
            if where is None:
                count = torch.full((len(c), 1), float(part.stop - part.start))
            else:
                replaced = torch.as_tensor(where[rows, part])
                c *= replaced[:, None, None]
                count = replaced.sum(1, keepdim=True)
            result[rows] -= (c.flatten(1) @ directions + count * constant).numpy()
    return result


def replace_effects(
    ds: xr.Dataset,
    form: xr.Dataset,
    *,
    directions: Float32[np.ndarray, "neuron embed"] | xr.DataArray | None = None,
    start: Float32[np.ndarray, "image embed"] | None = None,
) -> Float32[np.ndarray, "image embed"]:
    """Unnormalised image embeddings with each effect replaced by x_n(I) r_n + b_n ("reconstruction from PC #1").

    form: what `rank_one` found on the reference images, with the same neurons.
    directions: put in the place of r_n, such as its sparse decomposition (Figure 3.4); x_n is still from r_n.
    start: embeddings to change, by default those of `ds`.

    Raises ShapeError if a variable is missing, or if `form` or `directions` do not fit `ds`.

    >>> from optogram.methods import rank_one, replace_effects
    >>> replace_effects(second, rank_one(second, 4)).shape
    (12, 16)
    """
    mean, result = _fitted(ds, form, start)
    if "r" not in form:
        raise ShapeError("the rank-1 form lacks r. Pass what optogram.methods.neurons.effects.rank_one returned.")
    read = tensor(form.r.transpose("neuron", "embed"))
    if isinstance(directions, xr.DataArray):
        directions = directions.transpose("neuron", "embed").values
    write = read if directions is None else torch.as_tensor(np.asarray(directions, np.float32))
    if write.shape != read.shape:
        raise ShapeError(f"directions have shape {tuple(write.shape)}, but r has {tuple(read.shape)}.")
    for part in neuron_blocks(ds):
        directions_of = tensor(ds.D[:, :, part]).flatten(0, 1)
        along = torch.einsum("kne,ne->kn", directions_of, read[part])
        for rows, c, constant in _beyond(ds, mean, part):
            x = torch.einsum("ikn,kn->in", c.flatten(1, 2), along) + constant @ read[part].T
            effects = c.flatten(1) @ directions_of.flatten(0, 1) + (part.stop - part.start) * constant
            result[rows] += (x @ write[part] - effects).numpy()
    return result


class _Span(NamedTuple):
    """Centred constants in an orthonormal basis of what they span: a few dimensions more than there are later heads."""

    basis: Float32[Tensor, "j embed"]
    at: Float32[Tensor, "image j"]

    @classmethod
    def of(cls, constants: Float32[Tensor, "image embed"]) -> "_Span":
        squares, vectors = torch.linalg.eigh((constants.T @ constants).double())
        # the rest is below float32's rounding of the largest
        basis = vectors[:, squares > 1e-14 * squares[-1]].T.float()
        return cls(basis, constants @ basis.T)


def _first_component(
    space: NeuronSpace,
    span: _Span,
    c: Float32[Tensor, "neuron rank k"],
    shift: Float32[Tensor, "neuron rank j"],
    b: Float32[Tensor, "neuron embed"],
    few: slice,
) -> tuple[Float32[Tensor, "neuron embed"], Float32[Tensor, " neuron"]]:
    """First principal components of the rows y = c D + shift E, about 0, and their share in the sum of squares.

    With y y' = u s u', the component is y'u / sqrt(s). Its sign makes the mean of y + b along it positive.
    """
    directions = space.directions[:, few]
    cross = torch.einsum("nrk,nkj,nsj->nrs", c, (directions @ span.basis.T).transpose(0, 1), shift)
    products = c @ space.gram[few] @ c.transpose(1, 2) + shift @ shift.transpose(1, 2)
    squares, vectors = torch.linalg.eigh((products + cross + cross.transpose(1, 2)).double())
    first, total = squares[:, -1].clamp(min=0), squares.clamp(min=0).sum(1)
    u = vectors[:, :, -1].float()[:, None]
    r = torch.einsum("nk,kne->ne", (u @ c)[:, 0], directions) + (u @ shift)[:, 0] @ span.basis
    length, tiny = r.norm(dim=1, keepdim=True), torch.finfo(torch.float32).tiny
    r /= length.clamp(min=tiny)
    along = first.sqrt() * u.mean((1, 2)) + (r * b).sum(1)
    r *= torch.where(along < 0, -1.0, 1.0)[:, None]
    return torch.where(length > tiny, r, 0.0), (first / total.clamp(min=tiny)).float()


def _top(norms: Float[np.ndarray, "image neuron"], count: int) -> np.ndarray:
    """Positions (neuron, rank) of the images with the largest norms, largest first, ties in the images' order."""
    if count < 1:
        raise ParamError(f"count = {count}, but at least one image has to be among the largest. Set it to 1 or more.")
    return np.ascontiguousarray(np.argsort(-norms, axis=0, kind="stable")[:count].T)


def _gathered(ds: xr.Dataset, top: np.ndarray, part: slice) -> Float32[Tensor, "neuron rank k"]:
    """c of the chosen images of each neuron, read in blocks of images."""
    found = torch.empty(part.stop - part.start, top.shape[1], ds.sizes["layer"] * ds.sizes["head"])
    for rows, c, _ in image_blocks(ds, part):
        neuron, rank = np.nonzero((top[part] >= rows.start) & (top[part] < rows.stop))
        found[neuron, rank] = c.flatten(1, 2)[top[part][neuron, rank] - rows.start, :, neuron]
    return found


def _fitted(
    ds: xr.Dataset, mean: xr.Dataset | None, start: Float32[np.ndarray, "image embed"] | None
) -> tuple[xr.Dataset, Float32[np.ndarray, "image embed"]]:
    """The means, and a copy of the embeddings to change."""
    check(ds, *(["embedding"] if start is None else []))
    mean = effect_means(ds) if mean is None else mean
    if mean.c.shape != ds.c.shape[1:] or any(
        name in ds.coords and name in mean.coords and not np.array_equal(ds[name], mean[name])
        for name in ("layer", "head", "neuron")
    ):
        raise ShapeError(
            f"the means are of (layer, head, neuron) {mean.c.shape}, the effects of {ds.c.shape[1:]}, or of others. "
            "Take both from the same layer and the same neurons."
        )
    return mean, np.array(ds.embedding.values if start is None else start, np.float32)


def _beyond(ds: xr.Dataset, mean: xr.Dataset, part: slice):
    """Blocks of images: c and constant less their means."""
    c_mean, constant_mean = tensor(mean.c[:, :, part]), tensor(mean.constant)
    for rows, c, constant in image_blocks(ds, part):
        yield rows, c - c_mean, constant - constant_mean
