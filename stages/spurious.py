"""Stage spurious: ablate the heads whose descriptions name the spurious cue, and see the groups (Table 2.3)."""

from collections.abc import Sequence

import xarray as xr

from optogram.methods.roles import named_roles
from optogram.methods.spurious import debias, spurious_heads
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write spurious/<model>."""
    paths = ("contributions", "embeddings", "textspan", "images", "out", "metrics")
    door = Doorway("spurious", argv, paths=paths, sections=("seed", "spurious"))
    options, images = door.params.spurious, door.open("images")
    if "group" not in images:
        reason = f"images/{options.split} have no known groups: a spurious cue needs images labelled by class and cue."
        door.write(xr.Dataset(attrs={"skipped": reason}), "Spurious cue")
        door.write_metrics({"skipped": reason})
        return
    spans = door.open("textspan").isel(pool=0).load()
    texts = door.open("embeddings", str(spans.pool.values))
    chosen = spurious_heads(named_roles(spans, texts.attribute.values), options.attribute)
    found = debias(
        door.open("contributions", options.split),
        door.open("contributions", "reference"),
        chosen,
        door.open("embeddings", "zeroshot"),
        images.label,
        images.value_name,
        images.group.values,
        class_attribute=images.attrs["class_attribute"],
        seed=door.params.seed,
        layers=spans.layer.values.tolist(),
        random_heads=options.random_heads,
        draws=options.draws,
    )
    door.write(found.assign_attrs(attribute=options.attribute), "Spurious cue")
    door.write_metrics(
        {
            str(name): {"overall": float(one.overall), "worst_group": float(one.worst)}
            for name, one in ((name, found.sel(ablation=name)) for name in found.ablation.values)
        }
    )


if __name__ == "__main__":
    run(main)
