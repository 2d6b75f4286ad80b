"""For stages that score pictures of a classifier: what judges them, a second classifier and a CLIP, by params."""

from optogram.methods.visualisation.evaluators import Judges
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.clip_folders import load_clip
from stages.doorway import Doorway

SECTIONS = ("classifiers", "train_classifier.models", "visual_scores")


def judges_of(door: Doorway) -> Judges:
    """The classifier `--model`, the second one (by default the first other one), the CLIP of `visual_scores`."""
    device, second = door.params.device, second_of(door)
    return Judges(
        load_classifier_folder(door.folder("models", door.args.model), device),
        load_classifier_folder(door.folder("models", second), device) if second else None,
        load_clip(door.folder("models", door.params.visual_scores.clip), device),
        door.open("embeddings", "zeroshot").load(),
    )


def second_of(door: Doorway) -> str | None:
    """The name of the second classifier, if there is one."""
    options, model = door.params.visual_scores, door.args.model
    others = [name for name in door.params.classifiers if name != model]
    return options.second if options.second not in (None, model) else next(iter(others), None)
