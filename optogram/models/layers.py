"""Room models: the layers of a classifier: its blocks by name, and activations of any layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optogram.errors import ModelError, nearest
from optogram.models.places import Layout, Places

PROBE = 224
"""Side of the image that `blocks` sends through a model: large enough for the last stage to be a map, not a point."""

# What only pools or passes on is no block, although it has a map
_PASSING = ("Pool", "Permute", "Identity", "Dropout")
# What closes a transformer's last stage, where it is a module of its own: a norm, or a head of tokens
_CLOSING = ("LayerNorm", "RmsNorm", "RMSNorm", "SimpleNorm", "Linear")


class _Ran(NamedTuple):
    start: int
    at: int  # when it was done
    shape: tuple[int, ...]
    layout: Layout | None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Of a map of more than one point, or of tokens."""
        return None if self.layout is None or self.layout.grid == (1, 1) else self.layout.grid

    @property
    def tokens(self) -> bool:
        """Whether it is a map with its channels elsewhere than second."""
        return self.grid is not None and (len(self.shape) == 3 or getattr(self.layout, "channel", 1) != 1)


def blocks(model: nn.Module, *, size: int = PROBE) -> list[str]:
    """Names of the layers to match features at, from the first block to the last, found by one pass of grey images.

    A CNN, or a transformer with several stages: the last layer at each resolution, as large a module as has its output:
    the stem, then each stage (of a ResNet `relu`, `layer1`, …, `layer4`; of a VGG the last ReLU before each pooling; of
    a Swin `layers.0`, …, `layers.3`). A ViT: the projection of the patches, then each encoder block. VITAL takes these,
    or the first and the last (sections 3.4, A.1, C.1).

    size: side of the image, for a model that takes one size only (`Classifier.size`).

    Raises ModelError if the model takes no images of this size, if no blocks are found, or if a stage gives several
    tensors in place of one map.

    >>> from optogram.models import blocks
    >>> blocks(classifier.model, size=32)
    ['1']
    """
    ran = _trace(model, size)
    found = _encoder(model, ran) or _stages(model, ran)
    if not found:
        raise ModelError(
            f"no blocks found in {type(model).__name__} with images of {size} x {size}: nothing gives maps (image, "
            "channel, y, x) of more than one point, and no row of like modules gives tokens. Name the layers yourself."
        )
    return found


def in_order(model: nn.Module, layers: Sequence[str], *, size: int = PROBE) -> list[str]:
    """The named layers from the first that is done in a pass to the last.

    Raises ModelError as `blocks`, and for a layer that the model lacks (with the nearest names), that does not run by
    itself, or runs more than once.

    >>> from optogram.models import in_order
    >>> in_order(classifier.model, ["4", "0"], size=32)
    ['0', '4']
    """
    names, ran = list(dict(model.named_modules())), _trace(model, size)
    for name in layers:
        if name not in ran:
            why = "does not run exactly once by itself" if name in names else "is not in it"
            raise ModelError(
                f"layer {name!r} of {type(model).__name__} {why}.{nearest(name, names[1:])} "
                "`blocks` lists those that fit."
            )
    return sorted(layers, key=lambda name: ran[name].at)


@dataclass(frozen=True)
class Output:
    """What a layer gave, in the graph of the pass, and how it is laid out as a map (image, channel, y, x)."""

    raw: Tensor
    as_map: Callable[[Tensor], Float[Tensor, "image channel y x"]]  # of raw, or of its gradient


def activations(
    model: nn.Module, images: Float[Tensor, "image rgb y x"], layers: Sequence[str]
) -> dict[str, Float[Tensor, "image _channel _gy _gx"]]:
    """Outputs of the named layers in one pass, (image, channel, y, x), by name in the order asked; gradients pass.

    Tokens and maps with channels last are laid out as the grid of places that they come from, which a first pass of
    grey images follows through the model (`optogram.models.places`); class tokens and registers are left out.
    Outputs are copies: a later in-place ReLU does not change them. Hooks always go, also when the model fails.
    That first pass is made once a size of image: a model that is changed in place later, so that a layer lies otherwise
    (another order of tokens, another stride), is to be copied (`copy.deepcopy`) or built anew.

    Raises ModelError for a name that the model lacks (with the nearest ones), a layer that does not run or runs more
    than once, one whose output is no map and no tokens of one, and for a model that is in training mode, also in parts.

    >>> from optogram.models import activations
    >>> activations(classifier.model, inputs, ["0", "1"])["1"].shape
    torch.Size([4, 6, 30, 30])
    """
    found, _ = outputs(model, images, layers)
    return {name: output.as_map(output.raw) for name, output in found.items()}


def outputs(
    model: nn.Module, images: Float[Tensor, "image rgb y x"], layers: Sequence[str]
) -> tuple[dict[str, Output], Any]:
    """As `activations`, before they are laid out as maps; and what the model itself gave.

    The pass goes on with a copy of each output, so that gradients can be taken in the outputs themselves.

    >>> from optogram.models import outputs
    >>> found, logits = outputs(classifier.model, inputs, ["1"])
    >>> found["1"].raw.shape, logits.shape
    (torch.Size([4, 6, 30, 30]), torch.Size([4, 4]))
    """
    modules = dict(model.named_modules())
    for name in layers:
        if not name or name not in modules:
            raise ModelError(
                f"{type(model).__name__} has no layer {name!r}.{nearest(name, list(modules)[1:])} "
                "`blocks` lists those that fit."
            )
    training = next((name for name, module in modules.items() if module.training), None)
    if training is not None:
        part = f" (its {training})" if training else ""
        raise ModelError(
            f"{type(model).__name__} is in training mode{part}: call model.eval() before taking activations."
        )
    found: dict[str, Output] = {}
    laid_out = _layouts(model, images, layers)

    def keep(name: str, output: Any) -> Tensor:
        if name in found:
            raise ModelError(f"layer {name!r} runs more than once in a pass. Take the module around it.")
        as_map = partial(_as_map, name, layout=laid_out.get(name), count=len(images))
        as_map(output)
        found[name] = Output(output, as_map)
        return output.clone()

    with _hooked({name: modules[name] for name in layers}, keep):
        final = model(images)
    for name in layers:
        if name not in found:
            raise ModelError(f"layer {name!r} of {type(model).__name__} does not run by itself. Take another one.")
    return {name: found[name] for name in layers}, final


_LAYOUTS: WeakKeyDictionary[nn.Module, dict[Any, Layout | None]] = WeakKeyDictionary()


def _key(model: nn.Module, images: Tensor) -> tuple[Any, ...]:
    return ref(model), images.shape[1:]


def _layouts(model: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Layout | None]:
    """How each of the layers is a map when images of this size pass; looked at once a size."""
    modules, key = dict(model.named_modules()), _key(model, images)
    missing = {name: modules[name] for name in layers if key not in _LAYOUTS.get(modules[name], {})}
    if missing:
        grey = torch.zeros(2, *images.shape[1:], dtype=images.dtype, device=images.device)
        places = Places(grey)

        def see(name: str, output: Any) -> None:
            found = places.layout(output) if isinstance(output, Tensor) else None
            _LAYOUTS.setdefault(modules[name], {})[key] = found

        # rules of relevance would run in place of the model's own functions
        with torch.no_grad(), torch._C.DisableTorchFunction(), _hooked(missing, see), places:
            model(grey)
    return {name: _LAYOUTS.get(modules[name], {}).get(key) for name in layers}


def _as_map(name: str, output: Any, *, layout: Layout | None, count: int) -> Tensor:
    """The output as (image, channel, y, x)."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        raise ModelError(
            f"layer {name!r} gives {shape}; expected a map (image, channel, y, x) or tokens (image, token, channel). "
            "`blocks` lists layers that fit."
        )
    if layout is None or output.shape[1:] != layout.shape or len(output) != count:
        raise ModelError(
            f"layer {name!r} gives {shape} for {count} images, and its values are not those of one grid of places in "
            "each image; expected a map, its channels second or last, or the tokens of one. `blocks` lists layers that "
            "fit."
        )
    return layout.as_map(output)


def _after(see: Callable[[str, Any], Any], name: str, _: nn.Module, __: Any, output: Any) -> Any:
    return see(name, output)


def _before(see: Callable[[str, Any], Any], name: str, _: nn.Module, __: Any) -> None:
    see(name, None)


@contextmanager
def _hooked(
    modules: Mapping[str, nn.Module], see: Callable[[str, Any], Any], *, before: bool = False
) -> Iterator[None]:
    """`see(name, output)` after each of the modules, which give what it returns in place of the output, unless None.

    before: `see(name, None)` before each of them, and what it returns is left. Hooks go also when an exception passes.
    """
    handles = []
    try:
        for name, module in modules.items():
            if before:
                handles.append(module.register_forward_pre_hook(partial(_before, see, name)))
                continue
            handles.append(module.register_forward_hook(partial(_after, see, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _trace(model: nn.Module, size: int) -> dict[str, _Ran]:
    """For each module that ran exactly once and gave one tensor: when it was done, and how its output is a map."""
    starts: dict[str, int] = {}
    order: list[tuple[str, tuple[int, ...], Layout | None]] = []
    modules = dict(model.named_modules())
    first = next(iter(model.parameters()), torch.zeros(()))
    flags = [(module, module.training) for module in modules.values()]
    grey = torch.zeros(2, 3, size, size, dtype=first.dtype, device=first.device)
    places, key = Places(grey), _key(model, grey)

    def see(name: str, output: Any) -> None:
        layout = places.layout(output) if isinstance(output, Tensor) else None
        order.append((name, tuple(getattr(output, "shape", ())), layout))
        _LAYOUTS.setdefault(modules[name], {})[key] = layout

    model.eval()
    try:
        with (
            torch.no_grad(),
            _hooked(modules, lambda name, _: starts.setdefault(name, len(order)), before=True),
            _hooked(modules, see),
            places,
        ):
            model(grey)
    except Exception as error:  # each architecture has its own way to refuse a size
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{type(model).__name__} does not take an image of {size} x {size}: {reason}. Pass its size as `size`."
        ) from error
    finally:
        for module, flag in flags:
            module.training = flag
    names = [name for name, *_ in order]
    return {
        name: _Ran(starts[name], at, shape, layout)
        for at, (name, shape, layout) in enumerate(order)
        if names.count(name) == 1
    }


def _parts(name: str, module: nn.Module, ran: dict[str, _Ran]) -> dict[str, nn.Module]:
    """The children that ran; a list of modules does not run itself, but its members do."""
    found: dict[str, nn.Module] = {}
    for child, part in module.named_children():
        path = f"{name}.{child}" if name else child
        found |= {path: part} if path in ran else _parts(path, part, ran)
    return found


def _encoder(model: nn.Module, ran: dict[str, _Ran]) -> list[str]:
    """A ViT's projection of the patches and its blocks: the outermost row of like modules that give tokens.

    Nothing where tokens of another grid are anywhere, or maps of one beside or after: it is then a stage of several.
    """
    rows = {n: _parts(n, m, ran) for n, m in model.named_modules() if isinstance(m, nn.Sequential | nn.ModuleList)}
    grids = {each.grid for each in ran.values() if each.tokens}
    for name in sorted(rows, key=lambda each: each.count(".")):
        of = {path: part for path, part in rows[name].items() if ran[path].grid and [*part.parameters()]}
        # by grid and not by shape: a class token may join between two blocks
        like = {(type(part), ran[path].grid, ran[path].tokens) for path, part in of.items()}
        around = (parts for outer, parts in rows.items() if name.startswith(f"{outer}."))
        stage = any(len({ran[path].grid for path in parts} - {None}) > 1 for parts in around)
        if len(of) < 2 or len(like) > 1 or len(grids) > 1 or stage or not ran[next(iter(of))].tokens:
            continue
        start = ran[next(iter(of))].start
        if {each.grid for each in ran.values() if each.at >= start} - {None} == grids:
            before = [
                n
                for n, m in model.named_modules()
                if isinstance(m, nn.Conv2d | nn.Linear) and n in ran and ran[n].at < start and {ran[n].grid} == grids
            ]
            return sorted(before, key=lambda path: ran[path].at)[-1:] + list(of)
    return []


def _stages(model: nn.Module, ran: dict[str, _Ran]) -> list[str]:
    """A CNN's last layer at each resolution, not within a module that goes on to the next resolution."""

    def grids(name: str) -> set[tuple[int, int] | None]:
        below = (each.grid for path, each in ran.items() if path.startswith(f"{name}." if name else ""))
        return {*below} - {None}

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        for path, part in _parts(name, module, ran).items():
            inside = grids(path)
            if not ran[path].shape:
                several[path] = inside
            # a stage begins at the resolution before it; what has three, or all there are, is a row of stages
            if len(inside) > 2 or (len(inside) == 2 and inside == everything):
                yield from walk(path, part)
            elif ran[path].grid and not any(kind in type(part).__name__ for kind in _PASSING):
                yield path, part

    everything = grids("")
    several: dict[str, set[tuple[int, int] | None]] = {}
    last: dict[tuple[int, int] | None, str] = {}
    for path, part in sorted(walk("", model), key=lambda each: ran[each[0]].at):
        if ran[path].grid not in last or not any(kind in type(part).__name__ for kind in _CLOSING):
            last[ran[path].grid] = path
    for path, inside in several.items():
        if any(grid not in last or ran[last[grid]].at < ran[path].at for grid in inside):
            raise ModelError(
                f"{path} of {type(model).__name__} gives no single tensor but several, and blocks are found by the map "
                "that a module gives; expected one tensor. Name the layers yourself: `activations` takes any that "
                "gives a map."
            )
    return sorted(last.values(), key=lambda path: ran[path].at)
