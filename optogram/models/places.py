"""Room models: where in the image the values that a layer gives come from, found by one pass that carries places along.

Shapes do not tell how a layer's output is laid out: (2, 7, 7, 7) can have its channels first or last, 3136 tokens can
be patches row by row or window by window, and 196 x 196 can be attention. So the pass carries a code beside every
tensor: for each value the box of the image that it stands for. What moves values moves their codes, a linear map gives
the box around what it sums up, a convolution or pooling of a map gives a map of another grid, attention gives the box
of the query. A value that stands for no place (a class token, a gate, a weight) has the box of the whole image.
An output is a map if its boxes tile the image as a grid, in whatever order; else it is none.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

Codes = Int64[Tensor, "..."]
"""Boxes, packed: top, left, and how far bottom and right are from the image's end. The whole image is 0."""

_UNITS = (1 << 15) - 1
_SHIFTS = (45, 30, 15, 0)

_MOVES = """
    permute transpose t expand slice select unsqueeze squeeze split split_with_sizes unsafe_split chunk unbind index
    index_select gather unfold pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle repeat
""".split()  # fmt: skip  # noqa: SIM905
_VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias")
_RESAMPLES = ("convolution", "pool2d", "upsample", "reflection_pad2d", "replication_pad2d")
_REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "logsumexp", "linalg_vector_norm")
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear")
_ATTENTION = ("_scaled_dot_product", "_native_multi_head_attention", "_transformer_encoder_layer_fwd")
# these put values of other places into the same shape, by rules that are not followed here
_MIXES = (
    "sort",
    "topk",
    "cumsum",
    "scatter",
    "index_put",
    "index_copy",
    "index_add",
    "fft",
    "lstm",
    "gru",
    "grid_samp",
)


@dataclass(frozen=True)
class Layout:
    """How an output is a map: which dimension has the channels, and in which order the places of the others are.

    order: of the flattened places, those of the grid row by row; a slice where they lie so.
    """

    shape: tuple[int, ...]  # of the output, without its images
    channel: int
    grid: tuple[int, int]
    order: Int64[Tensor, " place"] | slice

    def as_map(self, output: Tensor) -> Tensor:
        """The output, or its gradient, as (image, channel, y, x); a view where no places have to be sorted."""
        if self.channel == 1 and self.shape[1:] == self.grid and isinstance(self.order, slice):
            return output
        order = self.order if isinstance(self.order, slice) else self.order.to(output.device)
        return output.movedim(self.channel, 1).flatten(2)[:, :, order].unflatten(2, self.grid)


class Places(TorchDispatchMode):
    """Inside this context the boxes of all values follow a pass of `images`. There are no gradients inside."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._codes = WeakTensorKeyDictionary()
        self._codes[images] = _grid(images.shape[2], images.shape[3], images.device).expand(images.shape)

    def layout(self, output: Tensor) -> Layout | None:
        """How the output is a map (image, channel, y, x) or tokens of one; None if it is not."""
        codes = self._codes.get(output)
        if output.ndim not in (3, 4) or not output.numel() or (codes is None and output.shape[2:] != (1, 1)):
            return None
        codes = torch.zeros((), dtype=torch.int64).expand(output.shape) if codes is None else codes
        found: list[Layout] = []
        with _disable_current_modes():
            for channel in (1, 3, 2) if output.ndim == 4 else (2, 1):
                layout = _layout(codes, channel)
                if layout and codes.shape[channel] > 1 and codes.stride(channel) == 0:
                    return layout
                found += [layout] if layout else []
        # boxes around whole columns tile the image too
        return max(found, key=lambda each: each.grid[0] * each.grid[1], default=None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if any(isinstance(each, Tensor) and each in self._codes for each in tree_leaves((args, kwargs))):
            for tensor, codes in self._followed(func, args, kwargs, output):
                if isinstance(tensor, Tensor) and codes is not None:
                    self._codes[tensor] = codes
                elif isinstance(tensor, Tensor):
                    self._codes.pop(tensor, None)
        return output

    def _followed(self, func: Any, args: Any, kwargs: Any, output: Any) -> list[tuple[Any, Codes | None]]:
        """Each tensor that a function gave, and its codes; None where they are lost."""
        name = func._schema.name.removeprefix("aten::")
        first, outputs = next(each for each in tree_leaves(args) if isinstance(each, Tensor)), tree_leaves(output)
        if name == "copy_":
            base = args[0]._base
            of = self._of(args[1])
            lost = [] if base is None else [(base, None)]  # a part of it now stands for other places
            return [*lost, (output, of.expand(output.shape))]
        name = name.removesuffix("_")
        if name in _VIEWS and isinstance(args[1], list | tuple | torch.Size):
            return [(output, _reshaped(self._of(first), output.shape))]
        if name in ("clone", "contiguous", "alias", "detach", "lift_fresh", "roll", "flip"):
            moved = func(_narrow(self._of(first)), *args[1:]) if name in ("roll", "flip") else self._of(first)
            return [(output, moved.expand(output.shape))]
        if name == "constant_pad_nd":
            padded = range(first.ndim - len(args[1]) // 2, first.ndim)
            return [(output, func(_narrow(self._of(first), padded), args[1], 0).expand(output.shape))]
        if name in ("cat", "stack"):
            return [(output, self._joined(func, args, output))]
        if name in _MOVES:
            moved = func(self._of(first), *tree_map(self._or_index, args[1:]), **tree_map(self._or_index, kwargs))
            return list(zip(outputs, tree_leaves(moved), strict=True))
        if any(part in name for part in _MIXES):
            return [(each, None) for each in outputs]
        if any(part in name for part in _RESAMPLES):
            return [(each, self._resampled(name, args, each)) for each in outputs]
        if name in _REDUCTIONS and not (len(args) > 1 and isinstance(args[1], Tensor)):
            return [(each, self._reduced(first, name, args, kwargs, each)) for each in outputs]
        if name in _PRODUCTS:
            return [(output, self._product(name, args, output))]
        if name.startswith(_ATTENTION):
            query = _around(self._of(first), [first.ndim - 1])
            return [(each, _expanded(query, each)) for each in outputs]
        return [(each, self._together(tree_leaves((args, kwargs)), each)) for each in outputs]

    def _of(self, tensor: Tensor) -> Codes:
        codes = self._codes.get(tensor)
        return torch.zeros((), dtype=torch.int64, device=tensor.device).expand(tensor.shape) if codes is None else codes

    def _or_index(self, value: Any) -> Any:
        """The codes of a tensor; indices are what they are."""
        return self._of(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _joined(self, func: Any, args: Any, output: Tensor) -> Codes:
        several, at = [self._of(each) for each in args[0] if each.numel()], args[1] if len(args) > 1 else 0
        shared = [dim for dim in range(several[0].ndim) if all(each.stride(dim) == 0 for each in several)]
        kept = [dim for dim in range(several[0].ndim) if dim not in shared]
        if func._schema.name == "aten::cat":
            kept.append(at % output.ndim)
        return func([_narrow(each, kept) for each in several], at).expand(output.shape)

    def _resampled(self, name: str, args: Any, output: Any) -> Codes | None:
        codes = self._of(args[0])
        if not isinstance(output, Tensor):
            return None
        if codes.ndim == 4 and output.ndim == 4 and _is_map(codes):
            return _grid(output.shape[2], output.shape[3], output.device).expand(output.shape)
        if "convolution" in name and set(args[1].shape[2:]) == {1} and codes.shape[2:] == output.shape[2:]:
            return _expanded(_around(codes, [1]), output)
        return None

    def _reduced(self, tensor: Tensor, name: str, args: Any, kwargs: Any, output: Any) -> Codes | None:
        at = 2 if name == "linalg_vector_norm" else 1
        dims = kwargs.get("dim", args[at] if len(args) > at else None)
        dims = [dims] if isinstance(dims, int) and not isinstance(dims, bool) else dims
        if not isinstance(dims, list | tuple) or not dims or not isinstance(output, Tensor):
            return None
        whole = _around(self._of(tensor), [dim % tensor.ndim for dim in dims])
        return whole.reshape(output.shape)

    def _product(self, name: str, args: Any, output: Tensor) -> Codes | None:
        if name == "linear":
            return _expanded(_around(self._of(args[0]), [args[0].ndim - 1]), output)
        left, right = args[-2:] if len(args) == 2 else args[1:3]
        rows, columns = self._of(left), self._of(right)
        found = [_around(rows, [rows.ndim - 1]), _around(columns, [columns.ndim - 2])]
        added = [self._of(args[0])] if len(args) > 2 else []
        return _smallest([*found, *added], output)

    def _together(self, values: Sequence[Any], output: Any) -> Codes | None:
        """Of functions that work value by value: the box of the most precise."""
        if not isinstance(output, Tensor):
            return None
        known = [self._codes[each] for each in values if isinstance(each, Tensor) and each in self._codes]
        fitting = [each for each in known if _fits(each.shape, output.shape)]
        return _smallest(fitting, output) if fitting else None


class _Boxes(NamedTuple):
    top: Tensor
    left: Tensor
    below: Tensor  # of the bottom, to the image's end
    beside: Tensor

    def packed(self) -> Codes:
        return sum((field << shift for field, shift in zip(self, _SHIFTS, strict=True)), torch.zeros_like(self.top))

    def area(self) -> Tensor:
        return (_UNITS - self.top - self.below) * (_UNITS - self.left - self.beside)


def _boxes(codes: Codes) -> _Boxes:
    return _Boxes(*((codes >> shift) & _UNITS for shift in _SHIFTS))


def _grid(y: int, x: int, device: torch.device) -> Codes:
    """Codes of a map's places, (1, 1, y, x)."""
    down, right = torch.arange(y, device=device)[:, None], torch.arange(x, device=device)
    bounds = (
        down * _UNITS // y,
        right * _UNITS // x,
        _UNITS - (down + 1) * _UNITS // y,
        _UNITS - (right + 1) * _UNITS // x,
    )
    return _Boxes(*torch.broadcast_tensors(*bounds)).packed()[None, None]


def _narrow(codes: Codes, kept: Container[int] = ()) -> Codes:
    """With one place where a dimension repeats it, but for those `kept`; saves nearly all the work and memory."""
    for dim, (size, stride) in enumerate(zip(codes.shape, codes.stride(), strict=True)):
        codes = codes.narrow(dim, 0, 1) if size > 1 and stride == 0 and dim not in kept else codes
    return codes


def _reshaped(codes: Codes, shape: torch.Size) -> Codes:
    """In another shape; dimensions at either end that stay and repeat themselves are not laid out."""
    first, last = 0, 0
    while first < min(codes.ndim, len(shape)) and codes.shape[first] == shape[first] and codes.stride(first) == 0:
        first += 1
    for own, other in zip(range(codes.ndim - 1, first - 1, -1), range(len(shape) - 1, first - 1, -1), strict=False):
        if codes.shape[own] != shape[other] or codes.stride(own) != 0:
            break
        last += 1
    inner = codes[(0,) * first][(..., *(0,) * last)]
    inner = inner.reshape(shape[first : len(shape) - last])
    return inner[(None,) * first][(..., *(None,) * last)].expand(shape)


def _around(codes: Codes, dims: Sequence[int]) -> Codes:
    """The box around all along these dimensions, which are kept with one place."""
    shape = [1 if dim in dims else size for dim, size in enumerate(codes.shape)]
    boxes = _Boxes(*(field.amin(tuple(dims), keepdim=True) for field in _boxes(_narrow(codes))))
    return boxes.packed().expand(shape)


def _expanded(codes: Codes, output: Any) -> Codes | None:
    fits = isinstance(output, Tensor) and _fits(codes.shape, output.shape)
    return codes.expand(output.shape) if fits else None


def _fits(shape: Sequence[int], into: Sequence[int]) -> bool:
    ours, theirs = list(shape)[::-1], list(into)[::-1]
    return len(ours) <= len(theirs) and all(own in (1, other) for own, other in zip(ours, theirs, strict=False))


def _smallest(several: Sequence[Codes], output: Tensor) -> Codes:
    best = _narrow(several[0])
    for each in several[1:]:
        other = _narrow(each)
        best = torch.where(_boxes(other).area() < _boxes(best).area(), other, best)
    return best.expand(output.shape)


def _is_map(codes: Codes) -> bool:
    """Whether (image, channel, y, x) are laid out as their names say; padding may lie around."""
    codes = _narrow(codes)
    if not torch.equal(codes, codes[:1].expand_as(codes)):
        return False
    codes = _around(codes, [1])[0, 0]
    return codes.numel() == 1 or _tiles(codes) is not None


def _tiles(codes: Int64[Tensor, "y x"]) -> tuple[Tensor, Tensor] | None:
    """Which rows and columns hold places, if they are a grid of boxes beside each other."""
    known = codes != 0
    rows, columns = known.any(1), known.any(0)
    if not known[rows][:, columns].all() or not known.any():
        return None
    boxes = _Boxes(*(field[rows][:, columns] for field in _boxes(codes)))
    for start, end, along in ((boxes.top, boxes.below, 1), (boxes.left, boxes.beside, 0)):
        if not all(torch.equal(each, each.narrow(along, 0, 1).expand_as(each)) for each in (start, end)):
            return None
        starts, ends = start.select(along, 0), _UNITS - end.select(along, 0)
        if (starts[1:] < ends[:-1]).any():
            return None
    return rows, columns


def _layout(codes: Codes, channel: int) -> Layout | None:
    shape = tuple(codes.shape[1:])
    codes = _narrow(_around(codes, [channel]).movedim(channel, 1).flatten(2))
    if not torch.equal(codes, codes[:1].expand_as(codes)):
        return None
    places = int(torch.tensor(shape).prod()) // shape[channel - 1]
    flat = codes[0, 0].expand(places).cpu()
    if places == 1:
        return Layout(shape, channel, (1, 1), slice(0, 1)) if len(shape) == 3 else None
    boxes = _boxes(flat)
    order = torch.argsort(boxes.top * (_UNITS + 1) + boxes.left, stable=True)
    order = order[flat[order] != 0]
    grid = len(boxes.top[order].unique()), len(boxes.left[order].unique())
    if not len(order) or grid[0] * grid[1] != len(order) or _tiles(flat[order].reshape(grid)) is None:
        return None
    start = int(order[0])
    in_row = torch.equal(order, torch.arange(start, start + len(order)))
    return Layout(shape, channel, grid, slice(start, start + len(order)) if in_row else order)
