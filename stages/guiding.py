"""What the stages of guidance share: options as the library has them, and who looks at pictures."""

import torch
import xarray as xr

from optogram.data.pools import zeroshot_prompts
from optogram.guidance.options import Guidance
from optogram.methods.guidance.counterfactuals import Kept
from optogram.methods.image_objectives import zero_shot
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.classifiers import Classifier
from optogram.models.loading.clip_folders import load_clip
from optogram.models.loading.model_files import folder_kind
from optogram.models.text_embeddings import embed_zeroshot
from optogram.params.guidance import Guiding, Keeping
from stages.doorway import Doorway


def options_of(section: Guiding) -> Guidance:
    """The same field by field."""
    return Guidance(
        steps=section.steps,
        scale=section.scale,
        iterations=section.iterations,
        latents_rate=section.latents_rate,
        states_rate=section.states_rate,
        null_rate=section.null_rate,
        schedule=section.schedule,
        clip=section.clip,
        crops=section.crops,
        noise=section.noise,
        finals=section.finals,
        renormalised=section.renormalised,
        stop=section.stop,
        differentiated=section.differentiated,
    )


def kept_as(section: Keeping) -> Kept:
    """The same field by field."""
    return Kept(section.pixels, section.encoded, section.erode, section.dilate, section.blur)


def seer(door: Doorway, name: str, images: xr.Dataset) -> Classifier:
    """A classifier of the folder models; of a CLIP, that of the values of the images' `class_attribute`."""
    folder, device = door.folder("models", name), door.params.device
    if folder_kind(folder) != "clip":
        return load_classifier_folder(folder, device=device)
    clip, attribute = load_clip(folder, device), str(images.attrs["class_attribute"])
    asked = [each for each in zeroshot_prompts(images) if each[0] == attribute]
    texts = torch.from_numpy(embed_zeroshot(clip, asked)["classifier"].values)
    return zero_shot(clip, texts, [value for _, value, _ in asked], attribute=attribute)
