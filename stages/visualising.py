"""For the stages of feature visualisation: what several of them take from params."""

from stages.doorway import Doorway


def reference_split(door: Doorway) -> str:
    """The split of the references, by default that which the classifier was trained on: of a loaded one we know none
    better than `train`, or reference."""
    if chosen := door.params.targets.split.get(door.args.model):
        return chosen
    trained = door.params.train_classifier.models.get(door.args.model)
    splits = [*door.params.scenes.splits, *door.params.photos.splits]
    return trained.split if trained else "train" if "train" in splits else "reference"
