"""Stage visual_scores: how good the pictures of a classifier's targets are (section 4.2, Tables 1 to 3, Figure 6)."""

from collections.abc import Sequence

import xarray as xr

from optogram.methods.prototypes import references
from optogram.methods.visual_scores import score_table, visual_scores
from stages.doorway import Doorway, run
from stages.judging import SECTIONS, judges_of, second_of


def main(argv: Sequence[str] | None = None) -> None:
    """Write visual_scores/<model>."""
    paths = ("models", "targets", "vital", "baselines", "embeddings", "images", "out", "metrics")
    door = Doorway("visual_scores", argv, paths=paths, sections=("seed", *SECTIONS), options=("model",))
    targets = door.open("targets").load()
    trained = door.open("images", str(targets.attrs["split"]))
    pictures = [door.open(name)[["pixels", "status"]].load() for name in ("vital", "baselines")]
    names = targets.target.values.tolist()
    patches = references(targets, trained, (targets.sizes["y"], targets.sizes["x"]))
    found = visual_scores(
        targets,
        xr.concat(pictures, "method"),
        judges_of(door),
        door.open("images", "eval"),
        trained,
        controls=lambda name: patches(names.index(name)),
        images=door.params.visual_scores.images,
        seed=door.params.seed,
    )
    found.attrs |= {"clip": door.params.visual_scores.clip, "second": second_of(door) or ""}
    door.write(found, "Scores of the visualisations")
    door.write_metrics({row.pop("method"): row for row in score_table(found)})


if __name__ == "__main__":
    run(main)
