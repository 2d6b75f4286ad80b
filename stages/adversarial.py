"""Stage adversarial: images of one class that are taken for another, from phrases that neurons confuse (Table 3.3)."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from optogram.data.describing import describer
from optogram.data.image_makers import SceneMaker, stated_values
from optogram.data.scenes import ATTRIBUTES
from optogram.methods.adversarial import attack, binary_accuracy, mined_phrases, table
from optogram.models.folder import encode_images, load_clip
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write adversarial/<model>."""
    paths = ("model", "embeddings", "neurons", "indirect", "images", "out", "metrics")
    door = Doorway("adversarial", argv, paths=paths, sections=("seed", "second_order.layers", "adversarial"))
    options, images, seed = door.params.adversarial, door.open("images"), door.params.seed
    if "mask" not in images or options.attribute not in ATTRIBUTES:
        reason = "These images are no scenes of a known attribute: others cannot be made without a text-to-image model."
        door.write(xr.Dataset(attrs={"skipped": reason}), "Adversarial images")
        door.write_metrics({"skipped": reason})
        return
    pairs = [[SceneMaker(options.attribute, value, images.sizes["y"]) for value in pair] for pair in options.pairs]
    clip = load_clip(door.folder("model"), device=door.params.device)
    write = describer(options.generator, device=clip.device)
    zeroshot, pool = (door.open("embeddings", name).load() for name in ("zeroshot", options.pool))
    names = [[f"{options.attribute}:{value}" for value in of] for of in zip(*options.pairs, strict=True)]
    own, other = (zeroshot.classifier.sel({"class": of}).values for of in names)
    stated = [stated_values(text) for text in pool.text.values.tolist()]
    refused = np.array([not values or options.attribute in values for values in stated])
    layers = [str(layer) for layer in door.params.second_order.layers]
    r, indirect = (np.concatenate([door.open(name, at).r.values for at in layers]) for name in ("neurons", "indirect"))

    budget = {name: getattr(options, name) for name in ("neurons", "sparsity", "phrases", "repeats")}
    mined = mined_phrases(own, other, pool, r, indirect, np.tile(refused, (len(own), 1)), seed=seed, **budget)
    found = attack(
        mined,
        own,
        other,
        lambda task, phrases, count, key: write(phrases, pairs[task][0].noun, pairs[task][1].words, count, key),
        lambda task, texts, count, key: pairs[task][0](texts, count, key),
        lambda pixels: encode_images(clip, pixels).numpy(),
        seed=seed,
        **{name: getattr(options, name) for name in ("descriptions", "chosen", "images")},
    )
    values = np.array(ATTRIBUTES[options.attribute])[images.label.sel(attribute=options.attribute).values]
    of = np.isin(values, np.ravel(options.pairs))
    embeddings = encode_images(clip, images.pixels[of].values).numpy()
    found["accuracy"] = ("task", binary_accuracy(embeddings, values[of], options.pairs, own, other))
    found = found.assign_coords(task=[f"{own} taken for {other}" for own, other in options.pairs])
    door.write(found.assign_attrs(attribute=options.attribute), "Adversarial images")
    door.write_metrics({**table(found), "accuracy": dict(zip(found.task.values, found.accuracy.values, strict=True))})


if __name__ == "__main__":
    run(main)
