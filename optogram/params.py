"""The params of a run: pydantic models of params.yaml, whose defaults are the demo; profiles are overlays on these."""

import itertools
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from optogram.errors import ParamError, nearest
from optogram.sections import (
    Activations,
    Baselines,
    LoadClassifier,
    ReferenceSets,
    Section,
    Targets,
    TrainClassifier,
    VisualScores,
    Vital,
)


class SceneSplit(Section):
    """One split of rendered scenes."""

    count: PositiveInt


class Scenes(Section):
    """Scenes rendered by us: 64 x 64 pixels, every label and mask known."""

    bias: float = Field(
        default=0.6, ge=0, le=1, description="share of a tied shape's images on its tied background, in train"
    )
    strong_bias: float = Field(default=1.0, ge=0, le=1, description="likewise in train_biased")
    shard: PositiveInt = Field(default=2048, description="images a shard")
    splits: dict[Literal["train", "train_biased", "reference", "eval", "biased"], SceneSplit] = Field(
        default={
            "train": SceneSplit(count=40_000),
            "train_biased": SceneSplit(count=20_000),
            "reference": SceneSplit(count=2000),
            "eval": SceneSplit(count=2000),
            "biased": SceneSplit(count=2000),
        },
        description="training splits lack the held-out combinations; biased has the four groups of the spurious cue",
    )


class PhotoSplit(Section):
    """One split of photographs."""

    limit: PositiveInt | None = None


class Photos(Section):
    """Photographs in a folder or zip of class folders, or a Hugging Face dataset."""

    path: str = Field(default="", description="folder or zip of class folders, or a dataset saved to disk")
    size: PositiveInt = Field(default=64, description="pixels a side; the shorter side is resized, the centre cropped")
    on_bad: Literal["skip", "refuse"] = Field(default="skip", description="files that are no usable image")
    min_side: PositiveInt = Field(default=8, description="smaller images count as bad")
    reference_share: float = Field(
        default=0.2, gt=0, lt=1, description="part of the training photographs for reference"
    )
    shard: PositiveInt = Field(default=512, description="images a shard")
    splits: dict[Literal["train", "reference", "eval"], PhotoSplit] = Field(
        default={}, description="train, reference, eval; limit = images, balanced"
    )


class Texts(Section):
    """Text pools; each is decomposed against in turn."""

    pools: list[Literal["descriptions", "words", "words_10k", "words_30k", "class", "random"]] = Field(
        default=["descriptions", "words", "class", "random"],
        description="built-in ones; also words_10k, words_30k: so many most common words, whatever `words` is",
    )
    words: PositiveInt = Field(default=2000, description="most common English words in the pool `words`")
    random: PositiveInt = Field(default=2000, description="unit Gaussian vectors in the pool `random`")
    files: dict[str, str] = Field(default={}, description="your own pools: name -> text file, one description a line")

    @property
    def names(self) -> list[str]:
        """All pools, built-in ones first."""
        return [*self.pools, *sorted(self.files)]

    @model_validator(mode="after")
    def _names_differ(self) -> "Texts":
        if both := sorted({*self.pools} & {*self.files}):
            raise ValueError(f"{both[0]!r} is both a built-in pool and in files; name yours otherwise")
        return self


class Training(Section):
    """A CLIP trained here."""

    width: PositiveInt = 128
    layers: PositiveInt = 4
    head_width: PositiveInt = 16
    patch: PositiveInt = 8
    embed: PositiveInt = 128
    text_width: PositiveInt = 128
    text_layers: PositiveInt = 2
    context: PositiveInt = 32
    merges: PositiveInt = 3000
    epochs: PositiveInt = 5
    batch: PositiveInt = 32
    texts_per_image: PositiveInt = 8
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    warmup: PositiveInt = 200


class TrainClip(Section):
    """CLIPs trained on images/train."""

    models: dict[str, Training] = Field(default={"demo": Training()}, description="name -> architecture and schedule")


class ClipSource(Section):
    """A pretrained CLIP."""

    spec: str
    checkpoint: str | None = None


class LoadClip(Section):
    """Pretrained CLIPs."""

    models: dict[str, ClipSource] = Field(
        default={}, description="name -> {spec: open_clip:ViT-L-14/laion2b_s32b_b82k, checkpoint: local file}"
    )


class Contributions(Section):
    """The cache of direct contributions."""

    splits: list[str] = Field(default=["reference", "eval", "biased"], description="reference gives means and texts")
    shard: PositiveInt = Field(default=512, description="images a shard; a killed run resumes at the first missing one")
    batch: PositiveInt = Field(default=64, description="images a forward pass")
    tokens: Literal["all", "class"] = Field(
        default="all", description="all tokens' contributions, or the class token's only (small at ImageNet scale)"
    )


class Ablation(Section):
    """Mean-ablation."""

    means: Literal["reference", "eval"] = Field(
        default="reference", description="split whose means replace a component"
    )


class TextSpan(Section):
    """TextSpan, Algorithm 1 of Gandelsman (2025)."""

    layers: PositiveInt = Field(default=4, description="the last K attention layers")
    size: PositiveInt = Field(default=16, description="descriptions a head; at most the head's dimension")
    sizes: list[PositiveInt] = Field(
        default=[1, 2, 4, 6, 8, 10, 12, 14, 16], description="m on the accuracy curve, up to size"
    )
    rank: PositiveInt | None = Field(default=None, description="dimensions of the head's space kept; null = all")

    @property
    def curve(self) -> list[int]:
        """The sizes that are within `size`, and `size` itself."""
        return sorted({*(m for m in self.sizes if m <= self.size), self.size})


class Roles(Section):
    """Roles of heads, and retrieval."""

    images: PositiveInt = Field(default=8, description="top images a description")
    queries: PositiveInt = Field(default=6, description="query images for nearest neighbours")
    neighbours: PositiveInt = Field(default=6, description="neighbours a query")
    permutations: PositiveInt = Field(default=10_000, description="for the p-value of the agreement")


class Spurious(Section):
    """Spurious cues: heads of one attribute are ablated."""

    split: str = Field(default="biased", description="images with a known `group`")
    attribute: str = Field(default="background", description="the cue; heads named after it are ablated")
    random_heads: PositiveInt = Field(default=10, description="heads in each random draw, as in the thesis")
    draws: PositiveInt = Field(default=5, description="random draws; the best and the mean are reported")


class Segmentation(Section):
    """Zero-shot segmentation by heatmaps."""

    images: PositiveInt = Field(default=1000, description="images of eval that are scored")
    shown: PositiveInt = Field(default=6, description="images shown in the report")


class Joint(Section):
    """Joint decomposition over heads and tokens."""

    images: PositiveInt = Field(default=4, description="images shown a head")


class SecondOrder(Section):
    """Second-order effects of neurons: what an MLP sends to the embedding through the heads after it."""

    layers: list[NonNegativeInt] = Field(default=[0, 1, 2], description="MLP layers, from 0; the last has no effect")
    splits: list[str] = Field(default=["reference", "eval"], description="reference gives directions, eval the rest")
    shard: PositiveInt = Field(default=512, description="images a shard")
    batch: PositiveInt = Field(default=64, description="images a forward pass")


class Neurons(Section):
    """Neurons: their directions, texts and groups."""

    largest: PositiveInt = Field(default=100, description="images with the largest effects, which give the direction")
    sizes: list[PositiveInt] = Field(default=[4, 8, 16, 32], description="texts m on the accuracy curve")
    sparsity: PositiveInt = Field(default=16, description="texts m in whose coefficients a neuron is told")
    shown: PositiveInt = Field(default=512, description="neurons of a layer with a page of their own")
    images: PositiveInt = Field(default=8, description="top images a neuron, with their activation maps")
    texts: PositiveInt = Field(default=8, description="texts a neuron that its page shows and that form its groups")
    grouped: PositiveInt = Field(default=16, description="top images a neuron that may form groups")
    separation: float = Field(default=0.3, gt=0, lt=1, description="silhouette from which groups count as separate")
    permutations: PositiveInt = Field(default=1000, description="for the p-value of the agreement with the labels")

    @property
    def curve(self) -> list[int]:
        """The sizes, `sparsity` among them."""
        return sorted({*self.sizes, self.sparsity})


class Indirect(Section):
    """Indirect effects: each neuron is intervened on, one by one, which is slow."""

    images: PositiveInt = Field(default=32, description="images of reference")
    largest: PositiveInt = Field(default=16, description="images with the largest effects, which give the direction")
    neurons: PositiveInt | None = Field(default=None, description="the first so many of a layer; null = all")


class Concepts(Section):
    """Concepts that an image's active neurons name."""

    images: PositiveInt = Field(default=200, description="images of eval that are looked at")
    shown: PositiveInt = Field(default=8, description="images shown in the report")
    texts: PositiveInt = Field(default=10, description="concepts an image")
    percentile: float = Field(default=98, gt=0, lt=100, description="of a neuron's norms: above it, it is active")


class Adversarial(Section):
    """Semantic adversarial examples for pairs of classes."""

    attribute: str = Field(default="shape", description="whose values are the classes")
    pairs: list[tuple[str, str]] = Field(
        default=[
            ("circle", "square"),
            ("square", "circle"),
            ("triangle", "star"),
            ("star", "cross"),
            ("ring", "circle"),
        ],
        description="true class, then the class that the image shall be taken for",
    )
    pool: str = Field(default="descriptions", description="text pool that cues are mined from")
    sparsity: PositiveInt = Field(default=16, description="texts in a neuron's decomposition")
    neurons: PositiveInt = Field(default=100, description="neurons that write most along the pair's difference")
    phrases: PositiveInt = Field(default=25, description="candidate phrases")
    descriptions: PositiveInt = Field(default=50, description="descriptions generated a task, of which some are drawn")
    chosen: PositiveInt = Field(default=10, description="descriptions drawn a repeat")
    images: PositiveInt = Field(default=10, description="images a description")
    repeats: PositiveInt = 3
    generator: str = Field(default="grammar", description="grammar, or transformers:NAME-OR-FOLDER")


class Dask(Section):
    """Where the shards of a cache are computed; the bytes are the same everywhere."""

    address: str | None = Field(default=None, description="a scheduler on a shared disk: tcp://127.0.0.1:8786")
    processes: int = Field(default=0, ge=0, description="local processes; 0 and no address = a plain loop")
    threads: PositiveInt = Field(default=1, description="torch threads a process")


class Verify(Section):
    """How far recomputed values may be off where bytes differ: another CPU, GPU or thread count rounds differently."""

    absolute: float = Field(default=1e-5, ge=0, description="largest |new - old| that passes …")
    relative: float = Field(default=1e-4, ge=0, description="… or largest |new - old| / |old|")


class Params(Section):
    """All of params.yaml."""

    seed: int = Field(default=0, ge=0, description="every random choice derives from it")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto = CUDA where there is one")
    clips: list[str] = Field(default=["demo"], description="models that are decomposed: trained or loaded ones, below")
    classifiers: list[str] = Field(
        default=["resnet", "vit", "resnet_biased"],
        min_length=1,
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
    def _models_exist(self) -> "Params":
        for kind in ("clip", "classifier"):
            sections = (f"train_{kind}", f"load_{kind}")
            known = [name for section in sections for name in getattr(self, section).models]
            for name in getattr(self, f"{kind}s"):
                if name not in known:
                    where = " and ".join(f"{section}.models" for section in sections)
                    raise ValueError(f"{kind}s names {name!r}, but {where} have {known}")
        if self.photos.splits and (not self.photos.path or self.photos.path.startswith("hf:")):
            raise ValueError(
                f"photos.path = {self.photos.path!r}, expected a folder or zip of class folders: "
                "`make demo PROFILE=photos IMAGES=photos.zip`. A hub dataset: save it with `save_to_disk` first"
            )
        for where, names in (
            ("targets.inner", self.targets.inner or []),
            ("targets.layer", self.targets.layer),
            ("targets.neurons", self.targets.neurons),
            ("targets.split", self.targets.split),
            ("vital.layers", self.vital.layers),
            ("vital.weights", self.vital.weights),
            ("vital.inner_weights", self.vital.inner_weights),
            ("reference_sets.models", self.reference_sets.models),
            ("visual_scores.second", [self.visual_scores.second] if self.visual_scores.second else []),
        ):
            for name in names:
                if name not in self.classifiers:
                    raise ValueError(f"{where} names {name!r}, but classifiers has {self.classifiers}")
        if self.classifiers and self.visual_scores.clip not in self.clips:
            raise ValueError(f"visual_scores.clip = {self.visual_scores.clip!r}, but clips has {self.clips}")
        # zeroshot is the classifier's name; DVC's run cache is blind to nested keys called size and nfiles
        if bad := sorted(name for name in self.texts.files if name in ("zeroshot", "size", "nfiles") or "/" in name):
            raise ValueError(f"texts.files: {bad[0]!r} cannot name a pool; choose another plain word")
        sections = ("train_clip", "load_clip", "train_classifier", "load_classifier")
        for one, other in itertools.combinations(sections, 2):
            if both := sorted({*getattr(self, one).models} & {*getattr(self, other).models}):
                raise ValueError(f"{both[0]!r} is both in {one}.models and in {other}.models; names must differ")
        if unknown := sorted({*self.activations.layers} - {*self.classifiers}):
            raise ValueError(f"activations.layers names {unknown[0]!r}, but classifiers are {self.classifiers}")
        if both := sorted({*self.scenes.splits} & {*self.photos.splits}):
            raise ValueError(f"split {both[0]!r} is both in scenes.splits and in photos.splits; empty one of them")
        splits = {*self.scenes.splits, *self.photos.splits}
        trained = [training.split for training in self.train_classifier.models.values()]
        cached = [*self.contributions.splits, *self.activations.splits]
        for needed in ("reference", "eval", *cached, self.spurious.split, *trained):
            if needed not in splits:
                raise ValueError(f"split {needed!r} is used, but scenes.splits and photos.splits have {sorted(splits)}")
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """The validated params at `path`; ParamError naming every bad key, its value and the fix."""
    try:
        values = YAML(typ="safe").load(path.read_text())
    except FileNotFoundError:
        raise ParamError(f"{path}: no such file. Run where it is, or write one with `optogram profile demo`.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamError(f"{path} is not YAML: {error}") from None
    return validated(values or {}, str(path))


def validated(values: dict[str, Any], source: str) -> Params:
    """`values` as Params; ParamError that names `source` and every key that is wrong."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                siblings = _fields_at(item["loc"][:-1])
                problems.append(f"{source}: {where} is not a known key.{nearest(str(item['loc'][-1]), siblings)}")
            else:
                found = "" if isinstance(item["input"], dict) else f" (found {item['input']!r})"
                at = f"{where}: " if where else ""
                problems.append(f"{source}: {at}{item['msg'].removeprefix('Value error, ')}{found}.")
        raise ParamError("\n".join(problems)) from None


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """Known keys of the section at a location such as ("train_clip", "models", "demo")."""
    value: Any = Params()
    for part in location:
        value = value.get(part, next(iter(value.values()), None)) if isinstance(value, dict) else getattr(value, part)
    return sorted(type(value).model_fields) if isinstance(value, Section) else []
