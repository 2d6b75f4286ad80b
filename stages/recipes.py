"""For the stages that train: how params say that a model is trained."""

from optogram.models.training.loop import Recipe
from optogram.params.models import ClassifierTraining, Training


def recipe_of(training: Training | ClassifierTraining, *, images: int, seed: int) -> Recipe:
    """The recipe, fitted to so many images: a small album has fewer than a batch, or fewer steps than the warmup."""
    return Recipe(
        epochs=training.epochs,
        batch=training.batch,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup=training.warmup,
        seed=seed,
    ).fitted(images)
