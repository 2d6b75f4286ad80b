"""Sections of params.yaml: the neurons of a CLIP."""

from pydantic import Field, NonNegativeInt, PositiveInt

from optogram.params.sections import Method


class SecondOrder(Method):
    """Second-order effects of neurons: what an MLP sends to the embedding through the heads after it."""

    layers: list[NonNegativeInt] = Field(default=[1, 2], description="MLP layers, from 0; the last has no effect")
    splits: list[str] = Field(default=["reference", "eval"], description="reference gives directions, eval the rest")
    shard: PositiveInt = Field(default=512, description="images a shard")
    batch: PositiveInt = Field(default=64, description="images a forward pass")


class Neurons(Method):
    """Neurons: their directions, texts and groups."""

    largest: PositiveInt = Field(default=100, description="images with the largest effects, which give the direction")
    sizes: list[PositiveInt] = Field(default=[4, 8, 16, 32], description="texts m on the accuracy curve")
    sparsity: PositiveInt = Field(default=16, description="texts m in whose coefficients a neuron is told")
    shown: PositiveInt = Field(default=128, description="neurons of a layer with a page of their own")
    images: PositiveInt = Field(default=8, description="top images a neuron, with their activation maps")
    texts: PositiveInt = Field(default=8, description="texts a neuron that its page shows and that form its groups")
    grouped: PositiveInt = Field(default=16, description="top images a neuron that may form groups")
    separation: float = Field(default=0.3, gt=0, lt=1, description="silhouette from which groups count as separate")
    permutations: PositiveInt = Field(default=200, description="for the p-value of the agreement with the labels")

    @property
    def curve(self) -> list[int]:
        """The sizes, `sparsity` among them."""
        return sorted({*self.sizes, self.sparsity})


class Indirect(Method):
    """Indirect effects: each neuron is intervened on, one by one, which is slow."""

    images: PositiveInt = Field(default=24, description="images of reference")
    largest: PositiveInt = Field(default=12, description="images with the largest effects, which give the direction")
    neurons: PositiveInt | None = Field(default=64, description="the first so many of a layer; null = all")


class NeuronAblation(Method):
    """Accuracy with neurons' effects ablated or simplified."""


class Concepts(Method):
    """Concepts that an image's active neurons name."""

    images: PositiveInt = Field(default=200, description="images of eval that are looked at")
    shown: PositiveInt = Field(default=8, description="images shown in the report")
    texts: PositiveInt = Field(default=10, description="concepts an image")
    percentile: float = Field(default=98, gt=0, lt=100, description="of a neuron's norms: above it, it is active")


class Adversarial(Method):
    """Semantic adversarial examples for pairs of classes."""

    attribute: str = Field(default="shape", description="whose values are the classes")
    pairs: list[tuple[str, str]] = Field(
        default=[("circle", "square"), ("triangle", "star"), ("ring", "circle")],
        description="true class, then the class that the image shall be taken for",
    )
    pool: str = Field(default="descriptions", description="text pool that cues are mined from")
    sparsity: PositiveInt = Field(default=16, description="texts in a neuron's decomposition")
    neurons: PositiveInt = Field(default=100, description="neurons that write most along the pair's difference")
    phrases: PositiveInt = Field(default=25, description="candidate phrases")
    descriptions: PositiveInt = Field(default=50, description="descriptions generated a task, of which some are drawn")
    chosen: PositiveInt = Field(default=10, description="descriptions drawn a repeat")
    images: PositiveInt = Field(default=5, description="images a description")
    repeats: PositiveInt = 3
    generator: str = Field(default="grammar", description="grammar, or transformers:NAME-OR-FOLDER")
