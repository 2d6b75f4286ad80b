"""Room models: classifiers, their preprocessing in numbers, their blocks by name, and activations of any layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from optogram.errors import ModelError, nearest
from optogram.models.folder import Preprocess
from optogram.models.model_files import classifier_config, folder_kind
from optogram.models.spec import Preprocessing, UnitRange, load_model

PROBE = 224
"""Side of the image that `blocks` sends through a model: large enough for the last stage to be a map, not a point."""

# What only pools or passes on is no block, although it has a map
_PASSING = ("Pool", "Permute", "Identity", "Dropout")


@dataclass(frozen=True)
class Classifier:
    """A classifier in eval mode, without gradients of its parameters, and what its preprocessing does to colours.

    mean, std: (rgb,) such that the model takes (rgb in [0, 1] - mean) / std. size: (y, x) of the images that
    `preprocess` makes, or None if it leaves them as large as they come. classes: names of the logits in their order,
    and attribute: what of an image they are values of ("shape"); empty where nobody said.
    """

    model: nn.Module
    preprocess: Preprocessing
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int] | None
    classes: tuple[str, ...] = ()
    attribute: str = ""

    def normalise(self, rgb: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image rgb y x"]:
        """Colours in [0, 1] as the model takes them; gradients pass."""
        mean, std = (rgb.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (rgb - mean) / std


def load_classifier(spec: str, *, checkpoint: str | Path | None = None, device: str = "auto") -> Classifier:
    """The classifier that `spec` names (timm:, torchvision:, callable: or a folder, as `load_model`), ready to use.

    Size, mean and std are measured on plain grey images, so that they hold for whatever the preprocessing is. Only a
    folder knows `classes` and `attribute`.

    Raises ModelError as `load_model`, for a CLIP, and for a preprocessing that is no scaling of each colour.
    """
    folder = Path(spec) if spec and Path(spec).is_dir() else None
    if spec.startswith("open_clip:") or (folder and folder_kind(folder) == "clip"):
        raise ModelError(
            f"{spec} is a CLIP and has no classes. Expected timm:NAME, torchvision:NAME, callable:MODULE:FACTORY or a "
            "classifier's folder."
        )
    model, preprocess = load_model(spec, checkpoint=checkpoint, device=device)
    levels = np.array([0, 255, 51], np.uint8)
    small, large = (
        preprocess(np.broadcast_to(levels[:, None, None, None], (3, side, side, 3)).copy()) for side in (64, 96)
    )
    if small.ndim != 4 or small.shape[:2] != (3, 3):
        raise ModelError(f"{spec}: its preprocessing made {tuple(small.shape)} of 3 images; expected (3, 3, y, x).")
    colours = small.double().mean((2, 3))
    black, white, grey = colours.cpu()
    even = torch.allclose(small.double(), colours[:, :, None, None].expand(small.shape), atol=1e-4)
    if not even or not (white > black).all() or not torch.allclose(grey, black + 0.2 * (white - black), atol=1e-3):
        raise ModelError(
            f"{spec}: its preprocessing is not (rgb - mean) / std of each colour; black became {black.tolist()}, white "
            f"{white.tolist()}, a fifth of white {grey.tolist()}. Let the factory return an optogram.models.Preprocess."
        )
    std = 1 / (white - black)
    size = (small.shape[2], small.shape[3]) if small.shape == large.shape else None
    mean, deviation = ([round(value, 6) for value in values.tolist()] for values in (-black * std, std))
    if isinstance(preprocess, Preprocess | UnitRange):
        mean, deviation = preprocess.mean, preprocess.std
    found = Classifier(model, preprocess, three(mean), three(deviation), size)
    if folder is None:
        return found
    config = classifier_config(folder)
    return replace(found, classes=tuple(config["classes"]), attribute=config["attribute"])


def three(values: Sequence[float]) -> tuple[float, float, float]:
    """One number a colour."""
    red, green, blue = values
    return red, green, blue


class _Ran(NamedTuple):
    at: int
    shape: tuple[int, ...]


def blocks(model: nn.Module, *, size: int = PROBE) -> list[str]:
    """Names of the layers to match features at, from the first block to the last, found by one pass of a grey image.

    A CNN: the last layer at each resolution, as large a module as has its output: the stem, then each stage (of a
    ResNet `relu`, `layer1`, …, `layer4`; of a VGG the last ReLU before each pooling). A ViT: the projection of the
    patches, then each encoder block. VITAL takes these, or the first and the last (sections 3.4, A.1, C.1).

    size: side of the image, for a model that takes one size only (`Classifier.size`).

    Raises ModelError if the model takes no images of this size, or if no blocks are found.
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
) -> dict[str, Float[Tensor, "image channel y x"]]:
    """Outputs of the named layers in one pass, (image, channel, y, x), by name in the order asked; gradients pass.

    Tokens of a ViT are laid out as the grid of patches they come from; the class token and registers are left out.
    Outputs are copies: a later in-place ReLU does not change them. Hooks always go, also when the model fails.

    Raises ModelError for a name that the model lacks (with the nearest ones), a layer that does not run or runs more
    than once, one whose output is no map and no tokens, and for a model in training mode.
    """
    found, _ = outputs(model, images, layers)
    return {name: output.as_map(output.raw) for name, output in found.items()}


def outputs(
    model: nn.Module, images: Float[Tensor, "image rgb y x"], layers: Sequence[str]
) -> tuple[dict[str, Output], Any]:
    """As `activations`, before they are laid out as maps; and what the model itself gave.

    The pass goes on with a copy of each output, so that gradients can be taken in the outputs themselves.
    """
    modules = dict(model.named_modules())
    for name in layers:
        if not name or name not in modules:
            raise ModelError(
                f"{type(model).__name__} has no layer {name!r}.{nearest(name, list(modules)[1:])} "
                "`blocks` lists those that fit."
            )
    if model.training:
        raise ModelError(f"{type(model).__name__} is in training mode: call model.eval() before taking activations.")
    found: dict[str, Output] = {}
    grid: list[tuple[int, ...]] = []

    def keep(name: str, output: Any) -> Tensor:
        if name in found:
            raise ModelError(f"layer {name!r} runs more than once in a pass. Take the module around it.")
        as_map = partial(_as_map, name, grid=grid[-1] if grid else None, images=images)
        as_map(output)
        found[name] = Output(output, as_map)
        return output.clone()

    convolutions = {name: each for name, each in modules.items() if isinstance(each, nn.Conv2d)}
    with (
        _hooked(convolutions, lambda _, output: grid.append(tuple(output.shape[2:]))),
        _hooked({name: modules[name] for name in layers}, keep),
    ):
        final = model(images)
    for name in layers:
        if name not in found:
            raise ModelError(f"layer {name!r} of {type(model).__name__} does not run by itself. Take another one.")
    return {name: found[name] for name in layers}, final


def penultimate(model: nn.Module, images: Float[Tensor, "image rgb y x"]) -> Float[Tensor, "image channel"]:
    """Features from which the logits are a linear map: the input of the last nn.Linear; gradients pass.

    Raises ModelError if the logits are no nn.Linear's output, as with a convolution for a head.
    """
    with catching_head(model) as head:
        model(images)
    return head.features


class Head:
    """What a pass left: features (image, channel), and the logits (image, class) that a Linear made of them."""

    features: Tensor
    logits: Tensor


@contextmanager
def catching_head(model: nn.Module) -> Iterator[Head]:
    """Each pass of the model inside leaves its `features` and `logits` in the yielded Head; gradients pass.

    The pass raises ModelError as `penultimate`. Hooks always go.
    """
    head, last = Head(), []

    def linear(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        last[:] = [args[0], output]

    def whole(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if not last or last[1] is not output or output.ndim != 2:
            raise ModelError(
                f"the logits of {type(model).__name__} are not what an nn.Linear returns, so that there are no "
                "features before it. Take a model with a linear layer at its end."
            )
        head.features, head.logits = last
        last.clear()

    handles = [each.register_forward_hook(linear) for each in model.modules() if isinstance(each, nn.Linear)]
    handles.append(model.register_forward_hook(whole))
    try:
        yield head
    finally:
        for handle in handles:
            handle.remove()


def _as_map(name: str, output: Any, *, grid: tuple[int, ...] | None, images: Tensor) -> Tensor:
    """The output as (image, channel, y, x), a view."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if isinstance(output, Tensor) and output.ndim == 4:
        if images.shape[2] != images.shape[3] or output.shape[2] == output.shape[3]:
            return output
        raise ModelError(f"layer {name!r} gives {shape} for square images: channels are not second. Take another one.")
    if isinstance(output, Tensor) and output.ndim == 3 and grid is not None:
        first = output.shape[1] - grid[0] * grid[1]
        if first >= 0:  # class token and registers come first
            return output[:, first:].transpose(1, 2).unflatten(2, grid)
        raise ModelError(
            f"layer {name!r} gives {output.shape[1]} tokens, fewer than the {grid[0]} x {grid[1]} patches."
        )
    raise ModelError(
        f"layer {name!r} gives {shape}; expected a map (image, channel, y, x) or tokens (image, token, channel). "
        "`blocks` lists layers that fit."
    )


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], see: Callable[[str, Any], Any]) -> Iterator[None]:
    """`see(name, output)` after each of the modules, which give what it returns in place of the output, unless None.

    Hooks go also when an exception passes.
    """
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: see(name, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _trace(model: nn.Module, size: int) -> dict[str, _Ran]:
    """For each module that ran exactly once and gave one tensor: when it was done, and the shape."""
    order: list[tuple[str, tuple[int, ...]]] = []
    modules = dict(model.named_modules())
    first = next(iter(model.parameters()), torch.zeros(()))
    flags = [(module, module.training) for module in modules.values()]
    model.eval()
    try:
        with (
            torch.no_grad(),
            _hooked(modules, lambda name, out: order.append((name, tuple(getattr(out, "shape", ()))))),
        ):
            model(torch.zeros(1, 3, size, size, dtype=first.dtype, device=first.device))
    except Exception as error:  # each architecture has its own way to refuse a size
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{type(model).__name__} does not take an image of {size} x {size}: {reason}. Pass its size as `size`."
        ) from error
    finally:
        for module, flag in flags:
            module.training = flag
    names = [name for name, _ in order]
    return {name: _Ran(at, shape) for at, (name, shape) in enumerate(order) if names.count(name) == 1}


def _parts(name: str, module: nn.Module, ran: dict[str, _Ran]) -> dict[str, nn.Module]:
    """The children that ran; a list of modules does not run itself, but its members do."""
    found: dict[str, nn.Module] = {}
    for child, part in module.named_children():
        path = f"{name}.{child}" if name else child
        found |= {path: part} if path in ran else _parts(path, part, ran)
    return found


def _encoder(model: nn.Module, ran: dict[str, _Ran]) -> list[str]:
    """A ViT's projection of the patches and its blocks: the outermost row of like modules that give tokens."""
    rows = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    for name, row in sorted(rows, key=lambda each: each[0].count(".")):
        of = {path: part for path, part in _parts(name, row, ran).items() if len(ran[path].shape) == 3}
        of = {path: part for path, part in of.items() if next(part.parameters(), None) is not None}
        like = {(type(part), ran[path].shape) for path, part in of.items()}
        if len(of) > 1 and len(like) == 1:
            start = ran[next(iter(of))].at
            maps = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and n in ran and ran[n].at < start]
            return maps[-1:] + list(of)
    return []


def _stages(model: nn.Module, ran: dict[str, _Ran]) -> list[str]:
    """A CNN's last layer at each resolution, not within a module that goes on to the next resolution."""

    def sides(name: str) -> set[int]:
        below = [each.shape for path, each in ran.items() if path.startswith(f"{name}." if name else "")]
        return {_side(shape) for shape in below if _side(shape) > 1}

    def walk(name: str, module: nn.Module) -> Iterator[str]:
        for path, part in _parts(name, module, ran).items():
            inside = sides(path)
            # a stage begins at the resolution before it; what has three, or all there are, is a row of stages
            if len(inside) > 2 or (len(inside) == 2 and inside == everything):
                yield from walk(path, part)
            elif _side(ran[path].shape) > 1 and not any(kind in type(part).__name__ for kind in _PASSING):
                yield path

    everything = sides("")
    last: dict[int, str] = {}
    for path in sorted(walk("", model), key=lambda path: ran[path].at):
        last[_side(ran[path].shape)] = path
    return sorted(last.values(), key=lambda path: ran[path].at)


def _side(shape: tuple[int, ...]) -> int:
    """Of a square map; 0 for another shape, such as that of a map with its channels last."""
    return shape[2] if len(shape) == 4 and shape[2] == shape[3] else 0
