"""Room models: generators, which draw images from latents: their specs, their folders, and the maps of their units.

callable:package.module:factory   a function that returns a torch module with the attributes below; a checkpoint
artifacts/generators/gan          a folder (config.json, model.safetensors) that `save_generator` wrote

The module takes latents (image, latent) float32 to images (image, rgb, y, x) in [0, 1]. Its attributes: `latent`, the
size of a latent; `unit_layers`, names of the layers whose maps are units. One with a mapping of its latents also has
`mapping`, a module from z to w; `w_mean`, the mean of w; and `synthesis`, which draws images of w.
examples/dcgan.py and examples/mobilestylegan.py are one of each.
"""

import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import optogram.models.generative.gan_networks  # noqa: F401  folders name it; so what opens them depends on it
from optogram.errors import ModelError, OptogramError, ParamError, ShapeError, nearest
from optogram.models.generative.weights import Checkpoints, fill_from
from optogram.models.loading.architectures import factory
from optogram.models.loading.clip_folders import pick_device
from optogram.models.loading.model_files import (
    CONFIG,
    WEIGHTS,
    check_files,
    fill,
    folder_kind,
    misfit,
    new_folder,
    unreadable,
    write_model,
)

KIND, HISTORY = "generator", "history.json"
_EXPECTED = "callable:MODULE:FACTORY, or the path of a generator's folder"


@dataclass(frozen=True, eq=False)
class StyleMapping:
    """How latents z become the styles w that images are drawn of: w_mean + psi (network(z) - w_mean).

    mean: w_mean, (1, style). psi: truncation; 1 is none, 0 draws the mean for every latent, between them images are
    plainer and alike (Karras et al. 2019, appendix B). Raises ParamError for a psi below 0.
    """

    network: nn.Module
    mean: Float32[Tensor, "1 style"]
    psi: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.psi < math.inf:
            raise ParamError(f"a generator: psi = {self.psi}, expected 0 (the mean) to 1 (no truncation). Change psi.")

    def __call__(self, latents: Float32[Tensor, "image latent"]) -> Float32[Tensor, "image style"]:
        """Styles of latents; gradients pass."""
        return self.mean + self.psi * (self.network(latents) - self.mean)


@dataclass(frozen=True, eq=False)
class Generator:
    """A module that draws images from latents, in eval mode, without gradients of its parameters.

    latent: size of a latent. layers: names of the layers whose maps are units, from the first that runs to the last.
    spec, arguments: the factory, and what it is called with, to make the module anew. mapping: of a generator that
    draws images of styles.
    """

    model: nn.Module
    latent: int
    layers: tuple[str, ...]
    spec: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mapping: StyleMapping | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def latents(self, seeds: Sequence[int]) -> Float32[Tensor, "image latent"]:
        """Normal latents, a row a seed, each drawn from its seed alone. Raises ParamError for what is no seed."""
        rows = [self._drawn(seed)[None] for seed in seeds]
        return torch.cat(rows or [torch.empty(0, self.latent)]).to(self.device)

    def images(self, latents: Float32[Tensor, "image latent"], *, batch: int = 8) -> Float32[Tensor, "image rgb y x"]:
        """Images in [0, 1] of the latents, drawn `batch` at once; gradients pass.

        An image's bytes follow from its own latent and from `batch`: kernels round by the number of images, so that
        the last batch is filled up. For the gradient of a few images, give their number.

        Raises ShapeError for latents of another shape.
        """
        self._check(latents, "latent", self.latent)
        return self._batches(latents, batch, self._forward)

    def styles(self, latents: Float32[Tensor, "image latent"]) -> Float32[Tensor, "image style"]:
        """The styles w of latents, truncated. Raises ModelError for a generator without a mapping."""
        self._check(latents, "latent", self.latent)
        return self._mapping()(latents.to(self.device))

    def images_of_styles(
        self, styles: Float32[Tensor, "image style"], *, batch: int = 8
    ) -> Float32[Tensor, "image rgb y x"]:
        """As `images`, of styles w. Raises ModelError for a generator without a mapping."""
        self._check(styles, "style", self._mapping().mean.shape[1])
        return self._batches(styles, batch, self._synthesis())

    def maps(
        self, latents: Float32[Tensor, "image latent"], layers: Sequence[str] | None = None, *, batch: int = 8
    ) -> tuple[Float32[Tensor, "image rgb y x"], dict[str, Float32[Tensor, "image _channel _y _x"]]]:
        """Images of the latents, and what the layers (by default all of `layers`) gave on the way, by name.

        Values are copies; gradients pass. Raises ShapeError as `images`, ModelError for a layer that is not among
        `layers`, with the nearest names.
        """
        self._check(latents, "latent", self.latent)
        names = self.layers if layers is None else tuple(layers)
        self._check_layers(names)
        with watching({name: self.model.get_submodule(name) for name in names}) as seen:
            images = self.images(latents, batch=batch)
        return images, {name: torch.cat(seen[name])[: len(latents)] for name in names}

    def with_layers(self, layers: Sequence[str] | None) -> "Generator":
        """The same with the units of these layers alone, in the order in which they run; None leaves all.

        Raises ModelError as `maps`.
        """
        if layers is None:
            return self
        self._check_layers(layers)
        return replace(self, layers=tuple(name for name in self.layers if name in layers))

    def truncated(self, psi: float) -> "Generator":
        """The same with another truncation. Raises ParamError as `StyleMapping`, ModelError without a mapping."""
        return replace(self, mapping=replace(self._mapping(), psi=psi))

    def _drawn(self, seed: int) -> Float32[Tensor, " latent"]:
        if not 0 <= operator.index(seed) < 2**63:
            raise ParamError(f"a generator: seed = {seed}, expected a whole number from 0 to 2^63 - 1. Change it.")
        return torch.randn(self.latent, generator=torch.Generator().manual_seed(operator.index(seed)))

    def _forward(self, latents: Tensor) -> Tensor:
        return self.model(latents) if self.mapping is None else self._synthesis()(self.mapping(latents))

    def _mapping(self) -> StyleMapping:
        if self.mapping is None:
            raise ModelError(f"{self.spec} has no mapping of its latents to styles. Take its latents themselves.")
        return self.mapping

    def _synthesis(self) -> Callable[[Tensor], Tensor]:
        made: Any = self.model
        return made.synthesis

    def _check_layers(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.layers:
                raise ModelError(
                    f"{self.spec} has no layer of units {name!r}; there are {', '.join(self.layers)}."
                    f"{nearest(name, list(self.layers))}"
                )

    def _check(self, rows: Tensor, name: str, width: int) -> None:
        if rows.ndim != 2 or rows.shape[1] != width or rows.dtype != torch.float32:
            raise ShapeError(
                f"{self.spec}: expected float32 (image, {name}) with {width} numbers a {name}, found {rows.dtype} of "
                f"shape {tuple(rows.shape)}. `latents(seeds)` makes some."
            )

    def _batches(self, rows: Tensor, batch: int, draw: Callable[[Tensor], Tensor]) -> Tensor:
        if batch < 1:
            raise ParamError(f"a generator: batch = {batch}, expected at least 1. Change it.")
        if not len(rows):
            return draw(rows.new_zeros(batch, rows.shape[1], device=self.device))[:0]
        parts = torch.cat([rows, rows[-1:].expand(-len(rows) % batch, -1)]).to(self.device).split(batch)
        return torch.cat([draw(part) for part in parts])[: len(rows)]


@contextmanager
def watching(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Copies of what the modules give in each pass inside, by name; their hooks always go."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str, _: nn.Module, __: Any, output: Any) -> None:
        seen[name].append(output.clone() if isinstance(output, Tensor) else output)

    handles = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def load_generator(spec: str, *, checkpoint: Checkpoints | None = None, device: str = "auto") -> Generator:
    """The generator that `spec` names (see the module), in eval mode, float32, without gradients of its parameters.

    checkpoint: of a `callable`, a .safetensors file or a .pt file of tensors, or one for each part of the module by its
    name; without it, the weights are those that the factory made. device: `auto` is CUDA where there is one.

    Raises ModelError for an unknown kind or name; a factory that fails, or whose module lacks an attribute or draws no
    images; a checkpoint that is unsafe, damaged or does not fit; and a folder that is damaged or not a generator's.

    >>> import optogram
    >>> generator = optogram.load_generator("callable:examples.dcgan:generator", device="cpu")
    >>> generator.images(generator.latents([0, 1, 2])).shape
    torch.Size([3, 3, 64, 64])
    """
    where = pick_device(device)
    kind, _, name = spec.partition(":")
    try:
        is_folder = bool(spec) and Path(spec).is_dir()
    except OSError as error:  # too long for a name, or in a folder that may not be entered
        raise ModelError(
            f"generator {spec!r} cannot be reached ({error.strerror}). Expected {_EXPECTED}: check its name."
        ) from error
    if is_folder:
        if checkpoint is not None:
            raise ModelError(f"{spec} is a folder with weights of its own. Leave the checkpoint {checkpoint} out.")
        return _folder(Path(spec), where)
    if kind != "callable" or not name:
        near = nearest(kind, ["callable"]) if name else ""
        raise ModelError(f"generator {spec!r}: no such folder, and no spec. Expected {_EXPECTED}.{near}")
    model = _built(spec, {})
    if checkpoint is not None:
        fill_from(model, checkpoint, spec)
    return generator_of(model.to(where), spec=spec)


def generator_of(
    model: nn.Module, *, spec: str, arguments: Mapping[str, Any] | None = None, psi: float = 1.0
) -> Generator:
    """The generator that a module is, which is put in eval mode, without gradients of its parameters.

    spec, arguments: the factory that makes the module anew. psi: truncation, where there is a mapping.

    Raises ModelError if an attribute is missing or misfits, with the nearest names of layers, and unless the module
    draws two images of two latents, in [0, 1], while each layer of `unit_layers` gives maps once.
    """
    model.eval().requires_grad_(False)
    latent, layers = getattr(model, "latent", None), getattr(model, "unit_layers", None)
    if not isinstance(latent, int) or latent < 1:
        raise ModelError(f"{spec}: its module has latent = {latent!r}; expected the size of a latent. Set it.")
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise ModelError(
            f"{spec}: its module has unit_layers = {layers!r}; expected names of the layers whose maps are units. Set "
            "it, as examples/dcgan.py does."
        )
    names = [name for name, _ in model.named_modules() if name]
    for layer in layers:
        if layer not in names:
            raise ModelError(f"{spec}: unit_layers names {layer!r}, which is no layer.{nearest(str(layer), names)}")
    generator = Generator(model, latent, tuple(layers), spec, dict(arguments or {}), _mapping_of(model, spec, psi))
    _try(generator)
    return generator


def _mapping_of(model: nn.Module, spec: str, psi: float) -> StyleMapping | None:
    network, mean = getattr(model, "mapping", None), getattr(model, "w_mean", None)
    if network is None:
        return None
    if not isinstance(network, nn.Module) or not callable(getattr(model, "synthesis", None)):
        raise ModelError(f"{spec}: its module has a mapping, but expected are a module `mapping` and a `synthesis`.")
    if not isinstance(mean, Tensor) or mean.ndim != 2 or len(mean) != 1:
        shape = tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__
        raise ModelError(f"{spec}: w_mean is {shape}; expected the mean of w as (1, style). Register it as a buffer.")
    return StyleMapping(network, mean, psi)


@torch.no_grad()
def _try(generator: Generator) -> None:
    spec, latents = generator.spec, generator.latents([0, 1])
    modules = {name: generator.model.get_submodule(name) for name in generator.layers}
    try:
        with watching(modules) as seen:
            images = generator.images(latents, batch=2)
    except Exception as error:  # the module's own code runs, and may raise anything
        raise ModelError(
            f"{spec} draws nothing of latents {tuple(latents.shape)}: {type(error).__name__}: {error}. Mend its module."
        ) from error
    if images.ndim != 4 or images.shape[:2] != (2, 3) or images.dtype != torch.float32:
        raise ModelError(
            f"{spec} makes {images.dtype} of shape {tuple(images.shape)} of 2 latents; expected float32 images "
            "(2, 3, y, x). Mend its module."
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ModelError(
            f"{spec} draws images from {low:.3g} to {high:.3g}; expected colours from 0 to 1. Scale and clamp them in "
            "its module, or give weights that are finite."
        )
    for name, outputs in seen.items():
        shapes = [tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__ for output in outputs]
        if len(outputs) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 2:
            raise ModelError(
                f"{spec}: its layer {name} gave {shapes or 'nothing'} for 2 latents; expected one map (2, channel, y, "
                "x). Name another in unit_layers."
            )


def save_generator(
    generator: Generator,
    path: Path | str,
    *,
    dtype: torch.dtype = torch.float16,
    history: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder, whole or not at all; weights as `dtype`. history: kept in history.json beside them.

    Raises ModelError if `path` exists, if spec and arguments make another module, and for weights that `dtype` cannot
    hold.
    """
    state = generator.model.state_dict()
    for name, w in state.items():
        if w.is_floating_point() and not torch.isfinite(w.to(dtype)).all():
            raise ModelError(f"{generator.spec}: {name} is too large for {dtype}. Save it with dtype=torch.float32.")
    _check_rebuilt(generator, state)
    psi = None if generator.mapping is None else generator.mapping.psi
    config = {"kind": KIND, "spec": generator.spec, "arguments": dict(generator.arguments), "psi": psi}
    with new_folder(Path(path)) as part:
        write_model(part, config, generator.model, dtype)
        if history is not None:
            (part / HISTORY).write_text(json.dumps(history, sort_keys=True) + "\n")


def _check_rebuilt(generator: Generator, state: dict[str, Tensor]) -> None:
    """Raises ModelError unless the rebuilt module has the same tensors, and draws the same of them."""
    spec, arguments = generator.spec, generator.arguments
    model = _built(spec, arguments).to(generator.device)
    if problem := misfit(model, state):
        raise ModelError(f"{spec} with {dict(arguments)} is not the generator to be saved: {problem}.")
    model.load_state_dict(state)
    psi = 1.0 if generator.mapping is None else generator.mapping.psi
    again, latents = generator_of(model, spec=spec, arguments=arguments, psi=psi), generator.latents([0, 1])
    with torch.no_grad():
        expected, found = generator.images(latents, batch=2), again.images(latents, batch=2)
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-3, atol=1e-4):
        raise ModelError(
            f"{spec} with {dict(arguments)} has the tensors of the generator to be saved, but draws other images of "
            "them. Name what was set after it was built in its arguments."
        )


def _folder(path: Path, where: torch.device) -> Generator:
    check_files(path, [CONFIG, WEIGHTS])
    if (kind := folder_kind(path)) != KIND:
        raise ModelError(f"{path} is the folder of a {kind}; expected a generator's. Give {_EXPECTED}.")
    try:
        config = json.loads((path / CONFIG).read_text())
        spec, arguments, psi = config["spec"], config["arguments"], config["psi"]
        if not (isinstance(spec, str) and isinstance(arguments, dict) and isinstance(psi, int | float | None)):
            raise ValueError("not a generator's config.json")
        weights = load_file(path / WEIGHTS)
    except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    model = _built(spec, arguments)
    fill(model, weights, path)
    return generator_of(model.to(where), spec=spec, arguments=arguments, psi=1.0 if psi is None else psi)


def _built(spec: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The module that a callable's factory makes; torch's own generator is left as it was."""
    make = factory(spec, spec.partition(":")[2])
    with torch.random.fork_rng(devices=[]):
        try:
            made: Any = make(**arguments)
        except OptogramError:
            raise
        except Exception as error:  # the factory's own code runs, and may raise anything
            said = f" with {dict(arguments)}" if arguments else ""
            raise ModelError(f"{spec}: the factory failed{said}: {type(error).__name__}: {error}.") from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{spec}: the factory returned {type(made).__name__}; expected a torch module.")
    return made
