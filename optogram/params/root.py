"""The params of a run: pydantic models of params.yaml, whose defaults are the demo; profiles are overlays on these."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, create_model, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from optogram.errors import ParamError, nearest
from optogram.params.crosschecks import problems
from optogram.params.families import FAMILIES
from optogram.params.heads import Ablation, Joint, Roles, Segmentation, Spurious, TextSpan
from optogram.params.images import Photos, Scenes, Texts
from optogram.params.led import led
from optogram.params.models import Activations, Contributions, LoadClassifier, LoadClip, TrainClassifier, TrainClip
from optogram.params.neurons import Adversarial, Concepts, Indirect, NeuronAblation, Neurons, SecondOrder
from optogram.params.sections import Section
from optogram.params.visualisation import Baselines, ReferenceSets, Targets, VisualScores, Vital
from optogram.store.rounding import MOST_THREADS, THREADS

S = TypeVar("S", bound=Section)


class Dask(Section):
    """Where the shards of a cache are computed; the bytes are the same everywhere."""

    address: str | None = Field(default=None, description="a scheduler on a shared disk: tcp://127.0.0.1:8786")
    processes: int = Field(default=0, ge=0, description="local processes; 0 and no address = a plain loop")


class Verify(Section):
    """How far recomputed values may be off where bytes differ: another processor rounds differently."""

    absolute: float = Field(default=1e-5, ge=0, description="largest |new - old| that passes …")
    relative: float = Field(default=1e-4, ge=0, description="… or largest |new - old| / |old|")


class Known(Section):
    """params.yaml without the sections that families of `optogram.params.families` bring themselves."""

    seed: int = Field(default=0, ge=0, description="every random choice derives from it")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto = CUDA where there is one")
    threads: Annotated[int, Field(gt=0, le=MOST_THREADS)] | Literal["auto"] = Field(
        default=THREADS, description="sums are rounded by it; auto = the libraries' choice, other bytes elsewhere"
    )
    clips: list[str] = Field(default=["demo"], description="models that are decomposed: trained or loaded ones, below")
    classifiers: list[str] = Field(
        default=["resnet", "vit", "resnet_biased"],
        description="classifiers that are studied, trained or loaded below",
    )
    scenes: Scenes = Scenes()
    photos: Photos = Photos()
    texts: Texts = Texts()
    train_clip: TrainClip = TrainClip()
    load_clip: LoadClip = LoadClip()
    train_classifier: TrainClassifier = TrainClassifier()
    load_classifier: LoadClassifier = LoadClassifier()
    activations: Activations = Activations()
    contributions: Contributions = Contributions()
    ablation: Ablation = Ablation()
    textspan: TextSpan = TextSpan()
    roles: Roles = Roles()
    spurious: Spurious = Spurious()
    segmentation: Segmentation = Segmentation()
    joint: Joint = Joint()
    second_order: SecondOrder = SecondOrder()
    neurons: Neurons = Neurons()
    indirect: Indirect = Indirect()
    neuron_ablation: NeuronAblation = NeuronAblation()
    concepts: Concepts = Concepts()
    adversarial: Adversarial = Adversarial()
    targets: Targets = Targets()
    vital: Vital = Vital()
    baselines: Baselines = Baselines()
    visual_scores: VisualScores = VisualScores()
    reference_sets: ReferenceSets = ReferenceSets()
    dask: Dask = Dask()
    verify: Verify = Verify()

    @model_validator(mode="after")
    def _fits_together(self) -> "Known":
        if found := list(problems(self)) or list(led(self)):
            raise ValueError("\n".join(found))
        return self

    def of(self, section: type[S]) -> S:
        """The section that is of this class, which a family brings."""
        return next(value for value in vars(self).values() if isinstance(value, section))


def _brought() -> dict[str, Any]:
    """The fields of the sections that families bring, by their key: `SECTIONS` of optogram/params/<family>.py."""
    modules = [f"optogram.params.{family}" for family in FAMILIES]
    found = {
        key: of
        for name in modules
        if find_spec(name)
        for key, of in getattr(import_module(name), "SECTIONS", {}).items()
    }
    return {key: (of, of()) for key, of in found.items()}


if TYPE_CHECKING:
    Params = Known
else:
    Params = create_model("Params", __base__=Known, __doc__="All of params.yaml.", **_brought())


def load_params(path: Path = Path("params.yaml")) -> Params:
    """The validated params at `path`; ParamError naming every bad key, its value and the fix."""
    return validated(read_mapping(path), str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file's keys and values; ParamError if it is not there, is not YAML, or holds something else."""
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ParamError(f"{path}: no such file. Run where it is, or write one with `optogram profile demo`.") from None
    except OSError as error:
        raise ParamError(f"{path} cannot be read: {error.strerror}.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ParamError(f"{path} is not YAML in UTF-8: {error}") from None
    if values is not None and not isinstance(values, dict):
        raise ParamError(f"{path} holds a {type(values).__name__}, expected `key: value` lines, such as `seed: 0`.")
    return values or {}


def validated(values: dict[str, Any], source: str) -> Params:
    """`values` as Params; ParamError that names `source` and every key that is wrong."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                siblings = _fields_at(item["loc"][:-1])
                lines.append(f"{source}: {where} is not a known key.{nearest(str(item['loc'][-1]), siblings)}")
            else:
                found = "" if isinstance(item["input"], dict) else f" (found {item['input']!r})"
                at = f"{where}: " if where else ""
                for line in item["msg"].removeprefix("Value error, ").splitlines():
                    lines.append(f"{source}: {at}{line}{found}.")
        raise ParamError("\n".join(lines)) from None


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """Known keys of the section at a location such as ("train_clip", "models", "demo")."""
    value: Any = Params()
    for part in location:
        value = value.get(part, next(iter(value.values()), None)) if isinstance(value, dict) else getattr(value, part)
    return sorted(type(value).model_fields) if isinstance(value, Section) else []
