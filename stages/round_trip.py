"""Stage round_trip: what the codec of a diffusion model leaves of images, by classifiers and by a CLIP."""

import numpy as np

from optogram.data.pools import zeroshot_prompts
from optogram.methods.generative.round_trip import headline, round_trip
from optogram.models.generative.diffusion_folders import load_diffusion
from optogram.models.loading.classifier_folders import load_classifier_folder
from optogram.models.loading.clip_folders import load_clip
from optogram.models.text_embeddings import embed_zeroshot
from optogram.params.generative import TrainDiffusion
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, Skipped, run, through

STAGE = Stage(
    "round_trip",
    family="generative",
    desc="What the codec of {model} leaves of images",
    over={"model": "train_diffusion.models"},
    options=("model",),
    inputs=(Input("diffusion", "diffusions/{model}"), Input("images", "images/eval"), Input("models", "models")),
    out="round_trip/{model}",
    params=("train_diffusion.models.{model}", "classifiers"),
    metrics=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write round_trip/<model>."""
    images, params = door.open("images"), door.params
    if "count" in images["attribute"]:  # a prior is asked for one object
        images = images.isel(image=np.flatnonzero((images["label"].sel(attribute="count") == 0).values))
    if not images.sizes["image"]:
        raise Skipped("There are no images of one object, which is what a prior is asked for.")
    clip = load_clip(door.folder("models", params.of(TrainDiffusion).models[door.args.model].clip), params.device)
    classifiers = {
        name: load_classifier_folder(door.folder("models", name), params.device) for name in params.classifiers
    }
    codec = load_diffusion(str(door.folder("diffusion")), device=params.device).codec
    found = round_trip(images.load(), codec, clip, embed_zeroshot(clip, zeroshot_prompts(images)), classifiers)
    door.write(found, f"What the codec of {door.args.model} leaves of images")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
