"""Sections of params.yaml: what classifiers take for their classes, and pictures that are led by them."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from optogram.params.sections import Method, Name, Section


class Npca(Method):
    """Neural PCA of each class: the parts of its logit that vary together over its images (DiG-IN, section G)."""

    split: str = Field(default="reference", description="images of the classes; the paper takes those of the training")
    components: PositiveInt = Field(default=4, description="a class, those first that move its logit most")
    shown: PositiveInt = Field(default=6, description="images at either end of each that are named")
    batch: PositiveInt = Field(default=64, description="images a forward pass")


class SpuriousScores(Method):
    """How much of the maps of units and components lies outside the objects (DiG-IN, section F.3, Table 2)."""

    split: str = Field(default="eval", description="images with masks")
    attribute: str = Field(default="background", description="what spurious units follow, of the images' labels")
    units: PositiveInt = Field(default=4, description="a class, those first that move its logit most")
    least: float = Field(
        default=0.05, ge=0, lt=1, description="share of the logit's variance that a component must have"
    )
    images: PositiveInt = Field(default=16, description="of the class, those that activate a unit or component most")
    blocks: PositiveInt = Field(default=3, description="last blocks at which maps are taken")
    layers: dict[str, list[str]] = Field(default={}, description="classifier -> layers in place of the last blocks")
    shown: PositiveInt = Field(default=4, description="images of each whose maps are kept")
    batch: PositiveInt = Field(default=64, description="images a pass")


class Guiding(Section):
    """How the inputs of a diffusion model are optimised (DiG-IN, Algorithm 1)."""

    steps: PositiveInt = Field(default=10, description="of the diffusion; the paper takes 20 or 25")
    scale: float = Field(default=1.0, ge=0, description="of guidance without a classifier; 1 = none. The paper takes 3")
    iterations: NonNegativeInt = Field(default=10, description="of Adam; the paper takes 15 or 20")
    latents_rate: float = Field(default=0.03, ge=0, description="learning rate of the latents z_T")
    states_rate: float = Field(default=0.05, ge=0, description="of what each step is told, C_t")
    null_rate: float = Field(
        default=0.05, ge=0, description="of what it is told besides, O_t; counts for a scale but 1"
    )
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float | None = Field(default=None, gt=0, description="largest component of a gradient; null = no bound")
    crops: PositiveInt = Field(default=1, description="of each picture, whose losses are averaged; 1 = the picture")
    noise: float = Field(default=0.0, ge=0, description="deviation of what is added to each")
    finals: PositiveInt = Field(default=3, description="last steps whose predicted pictures are looked at")
    renormalised: bool = Field(default=True, description="whether z_T keeps its length")
    stop: float | None = Field(default=None, description="loss at which an image is done; null = none")
    differentiated: PositiveInt | None = Field(
        default=None, description="last steps that gradients pass; null = all, which is exact"
    )


class Keeping(Section):
    """What of an image stays, and how its mask is cleaned before (eq. 19)."""

    pixels: float = Field(default=250.0, ge=0, description="weight of pixels outside of the mask, w_PX")
    encoded: float = Field(default=25.0, ge=0, description="weight of latents outside of it, w_VAE")
    erode: PositiveInt = Field(default=1, description="side of the kernel in pixels, odd; 1 = none")
    dilate: PositiveInt = 7
    blur: float = Field(default=1.0, ge=0, description="pixels")


class Masks(Section):
    """Where the objects are."""

    source: str = Field(
        default="images", description="their own masks; or attention, that of the class' words; or a folder or zip"
    )
    threshold: float = Field(default=0.3, ge=0, lt=1, description="of the largest attention")
    points: PositiveInt = Field(default=5, description="that tell the segmenter where the object is")
    segmenter: str | None = Field(default=None, description="folder of a SAM of transformers; null = attention alone")


class CounterfactualGroup(Section):
    """A classifier, and images that it is to see as something else."""

    classifier: Name = Field(description="that leads: a classifier, or a CLIP, which sees the attribute's values")
    attribute: str | None = Field(default=None, description="of the labels, for a CLIP; null = that of the classes")
    others: list[Name] = Field(default=[], description="classifiers of the same classes that have no part in it")
    judge: Name | None = Field(default=None, description="of train_judge.models, who has no part either")
    diffusion: Name = Field(description="of train_diffusion or load_diffusion, which draws")
    of: Literal["classes", "errors"] = Field(
        default="classes", description="images seen rightly, toward another class; or wrongly, toward their own"
    )
    split: str = "eval"
    images: PositiveInt = 16
    captions: str = Field(default="labels", description="or captioner:FOLDER of transformers; or a table image,caption")


class Counterfactuals(Method):
    """Images changed until a classifier sees another class (DiG-IN, section 5, Algorithm 2)."""

    groups: dict[Name, CounterfactualGroup] = Field(
        default={
            "resnet": CounterfactualGroup(
                classifier="resnet", others=["vit"], judge="judge", diffusion="prior", images=24
            ),
            "errors": CounterfactualGroup(
                classifier="resnet", others=["vit"], judge="judge", diffusion="prior", of="errors", images=8
            ),
        },
        description="name -> who is to see what as something else",
    )
    guidance: Guiding = Guiding(latents_rate=0.01, states_rate=0.017)
    below: NonNegativeInt = Field(default=0, description="noisiest steps that inversion and drawing leave out")
    repeats: NonNegativeInt = Field(default=5, description="of each step of the inversion, by its own result")
    null_text: NonNegativeInt = Field(default=0, description="most steps of Adam for null states a step; 0 = none")
    least: float = Field(default=18.0, description="PSNR in dB below which an inversion has failed")
    masks: Masks = Masks()
    kept: Keeping = Keeping()
    injected: list[float] = Field(
        default=[0.0], min_length=1, description="shares of the steps with the original's attention; the best is taken"
    )
    blended: list[float] = Field(
        default=[0.0], min_length=1, description="shares with the original outside of the mask; the best is taken"
    )


class DisagreementGroup(Section):
    """Two classifiers that are to disagree."""

    one: Name = Field(description="that is to see the class: a classifier, or a CLIP")
    other: Name = Field(description="that is not to see it")
    attribute: str | None = Field(default=None, description="of the labels, for a CLIP; null = that of the classes")
    others: list[Name] = Field(default=[], description="classifiers that have no part in it")
    judge: Name | None = Field(default=None, description="of train_judge.models, who has no part either")
    diffusion: Name = Field(description="of train_diffusion or load_diffusion, which draws")
    clip: Name | None = Field(default=None, description="by which similar real images are found; null = none are")
    split: str = Field(default="eval", description="of the real images")
    classes: list[str] = Field(default=[], description="empty = all that both have")
    samples: PositiveInt = Field(default=4, description="pictures a class")
    caption: str = Field(default="a picture of a {}", description="what each starts from, {} being the class")
    cue: str | None = Field(default=None, description="attribute that the judge is asked for")
    tied: dict[str, str] = Field(default={}, description="class -> value of it that was planted in a training")

    @field_validator("caption")
    @classmethod
    def _names_the_class(cls, caption: str) -> str:
        if "{}" not in caption:
            raise ValueError("expected {} where the class stands")
        return caption


_LOOKING = {
    "others": ["vit"],
    "judge": "judge",
    "diffusion": "prior",
    "clip": "demo",
    "classes": ["circle", "square", "star", "ring"],
    "cue": "background",
    "tied": {"circle": "water", "square": "sand"},
}


class Disagreement(Method):
    """Pictures of a class that one classifier sees and another does not (DiG-IN, section 4)."""

    groups: dict[Name, DisagreementGroup] = Field(
        default={
            "biased": DisagreementGroup.model_validate({"one": "resnet_biased", "other": "resnet", **_LOOKING}),
            "unbiased": DisagreementGroup.model_validate({"one": "resnet", "other": "resnet_biased", **_LOOKING}),
        },
        description="name -> who is to see what another does not",
    )
    guidance: Guiding = Guiding(iterations=15, latents_rate=0.0, states_rate=0.3, stop=0.3)
    of: Literal["logarithms", "confidences", "margins"] = Field(
        default="logarithms", description="-log p - log(1 - q); q - p, the paper's; or that of the logits' margins"
    )
    near: PositiveInt = Field(default=4, description="real images that are found for each picture")


class NeuronPicturesGroup(Section):
    """A classifier whose units are drawn."""

    classifier: Name = Field(description="whose units they are")
    judge: Name | None = Field(default=None, description="of train_judge.models, who tells what pictures show")
    diffusion: Name = Field(description="of train_diffusion or load_diffusion, which draws")
    split: str = Field(default="eval", description="of the real images")
    units: PositiveInt = Field(default=1, description="a class, those first that raise its logit most")
    samples: PositiveInt = Field(default=2, description="pictures a unit, and a text that is tried; the paper takes 8")


class NeuronPictures(Method):
    """Pictures that activate the units before a classifier's last layer most (DiG-IN, section F.1)."""

    groups: dict[Name, NeuronPicturesGroup] = Field(
        default={"resnet": NeuronPicturesGroup(classifier="resnet", judge="judge", diffusion="prior")},
        description="name -> whose units are drawn",
    )
    guidance: Guiding = Guiding(latents_rate=0.1, states_rate=0.08)
    top: PositiveInt = Field(default=5, description="real images of a unit, whose captions are tried")
    batch: PositiveInt = Field(default=64, description="images a forward pass")


SECTIONS = {
    "npca": Npca,
    "spurious_scores": SpuriousScores,
    "counterfactuals": Counterfactuals,
    "disagreement": Disagreement,
    "neuron_pictures": NeuronPictures,
}
