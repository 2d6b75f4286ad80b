"""Zero-shot accuracy of the demo CLIP on many fresh scenes, held-out ones included: `python -m benchmarks.zero_shot`.

The report's numbers are from the 2,000 images of images/eval; these are other draws from the same distribution.
"""

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from optogram.data.pools import zeroshot_prompts
from optogram.data.scenes import Scenes
from optogram.metrics.classification import score
from optogram.models.loading.clip_folders import encode_images, load_clip
from optogram.models.text_embeddings import embed_zeroshot

RESULTS = Path(__file__).parent / "zero_shot.json"


def main(count: int = 10_000, seed: int = 1) -> None:
    """Print and write accuracy, standard error and chance per attribute."""
    clip = load_clip(Path("artifacts/models/demo"))
    images = Scenes("eval", count, seed).read(0, count)
    embeddings = encode_images(clip, images.pixels.values).numpy()
    found = score(embeddings, embed_zeroshot(clip, zeroshot_prompts(images)), images.label, images.value_name)
    unseen = images.held_out.values
    fresh = score(
        embeddings[unseen], embed_zeroshot(clip, zeroshot_prompts(images)), images.label[unseen], images.value_name
    )
    table = Table(
        "attribute", "accuracy", "standard error", "held-out only", "chance", title=f"{count:,} scenes, seed {seed}"
    )
    measured: dict[str, dict[str, float]] = {}
    for name in found.attribute.values.tolist():
        accuracy, held_out, chance = (
            float(v.sel(attribute=name)) for v in (found.accuracy, fresh.accuracy, found.chance)
        )
        error = float(np.sqrt(accuracy * (1 - accuracy) / count))
        table.add_row(name, f"{accuracy:.4f}", f"{error:.4f}", f"{held_out:.4f}", f"{chance:.3f}")
        measured[name] = {"accuracy": round(accuracy, 4), "error": round(error, 4), "held_out": round(held_out, 4)}
    Console().print(table)
    results = {"scenes": count, "held_out": int(unseen.sum()), "seed": seed, "attributes": measured}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
