"""Stage drawn: whether what was asked for is seen in the samples of one model, by a judge and by a CLIP."""

import numpy as np

from optogram.data.pools import zeroshot_prompts
from optogram.methods.generative.truth import headline, truth
from optogram.models.judging.judge import load_judge
from optogram.models.loading.clip_folders import encode_images, load_clip
from optogram.models.text_embeddings import embed_zeroshot
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "drawn",
    family="generative",
    desc="Whether what was asked for is seen in samples of {model}",
    over={"model": "drawn.models"},
    options=("model",),
    inputs=(
        Input("samples", "samples/{model}"),
        Input("judge", "judges/{model.judge}"),
        Input("clip", "models/{model.clip}"),
        Input("images", "images/eval"),
        Input("trained", "images/{model.split}"),
    ),
    out="drawn/{model}",
    params=("drawn.models.{model}",),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write drawn/<model>."""
    samples, images = (door.open(name).load() for name in ("samples", "images"))
    # requests are for one object
    one = images["label"].sel(attribute="count") == 0 if "count" in images["attribute"] else None
    real = images if one is None else images.isel(image=np.flatnonzero(one))
    clip = load_clip(door.folder("clip"), door.params.device)
    found = truth(
        samples,
        real,
        door.open("trained"),
        judge=load_judge(door.folder("judge"), device=door.params.device),
        zeroshot=embed_zeroshot(clip, zeroshot_prompts(real)),
        embedding=encode_images(clip, samples["pixels"].values).numpy(),
        real_embedding=encode_images(clip, real["pixels"].values).numpy(),
    )
    door.write(found, "What is seen in samples")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
