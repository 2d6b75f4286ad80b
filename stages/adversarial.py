"""Stage adversarial: images of one class that are taken for another, from phrases that neurons confuse (Table 3.3)."""

import numpy as np

from optogram.data.scenes import ATTRIBUTES
from optogram.methods.neurons.adversarial import attack, mined_phrases
from optogram.metrics.adversarial import headline
from optogram.models.loading.clip_folders import load_clip
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, Skipped, run, through
from stages.misleading import accuracy_on, refused_texts, what_attack_asks

STAGE = Stage(
    "adversarial",
    family="neurons",
    desc="Images of one class that {model} takes for another, by phrases that its neurons name (section 3.5)",
    over={"model": "clips"},
    inputs=(
        Input("model", "models/{model}"),
        Input("embeddings", "embeddings/{model}", ("${adversarial.pool}", "zeroshot")),
        Input("neurons", "neurons/{model}"),
        Input("indirect", "indirect/{model}"),
        Input("images", "images/eval"),
    ),
    switch="adversarial",
    out="adversarial/{model}",
    params=("seed", "second_order.layers", "adversarial"),
    metrics=True,
    pool="gpu",
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write adversarial/<model>."""
    options, images, seed = door.params.adversarial, door.open("images"), door.params.seed
    if "mask" not in images or options.attribute not in ATTRIBUTES:
        raise Skipped(
            "These images are no scenes of a known attribute: others cannot be made without a text-to-image model."
        )
    clip = load_clip(door.folder("model"), device=door.params.device)
    asks = what_attack_asks(options, clip, images.sizes["y"])
    zeroshot, pool = (door.open("embeddings", name).load() for name in ("zeroshot", options.pool))
    names = [[f"{options.attribute}:{value}" for value in of] for of in zip(*options.pairs, strict=True)]
    own, other = (zeroshot.classifier.sel({"class": of}).values for of in names)
    layers = [str(layer) for layer in door.params.second_order.layers]
    r, indirect = (np.concatenate([door.open(name, at).r.values for at in layers]) for name in ("neurons", "indirect"))
    mined = mined_phrases(
        own,
        other,
        pool,
        r,
        indirect,
        refused_texts(pool, options),
        neurons=options.neurons,
        sparsity=options.sparsity,
        phrases=options.phrases,
        repeats=options.repeats,
        seed=seed,
    )
    found = attack(
        mined,
        own,
        other,
        *asks,
        descriptions=options.descriptions,
        chosen=options.chosen,
        images=options.images,
        seed=seed,
    )
    found["accuracy"] = ("task", accuracy_on(images, options, clip, own, other))
    found = found.assign_coords(task=[f"{own} taken for {other}" for own, other in options.pairs])
    door.write(found.assign_attrs(attribute=options.attribute), "Adversarial images")
    door.write_metrics(headline(found).columns())


if __name__ == "__main__":
    run(main)
