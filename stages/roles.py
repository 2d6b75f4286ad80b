"""Stage roles: what each head is about, checked against its ablation; images per description; neighbours per head."""

from collections.abc import Sequence

import numpy as np

from optogram.errors import DataError
from optogram.methods.ablation import ablate_heads
from optogram.methods.roles import agreement, measured_roles, named_roles, neighbours, top_images
from stages.doorway import Doorway, run


def main(argv: Sequence[str] | None = None) -> None:
    """Write roles/<model>."""
    paths = ("contributions", "embeddings", "textspan", "images", "out", "metrics")
    door = Doorway("roles", argv, paths=paths, sections=("seed", "roles"))
    options, images = door.params.roles, door.open("images")
    evaluated, reference = door.open("contributions", "eval"), door.open("contributions", "reference")
    spans = door.open("textspan").isel(pool=0, drop=False).load()
    texts = door.open("embeddings", str(spans.pool.values))
    layers = spans.layer.values.tolist()

    task = (door.open("embeddings", "zeroshot"), images.label, images.value_name)
    ablated = ablate_heads(evaluated, reference, *task, layers=layers)
    names = images.attribute.values.tolist()
    named = named_roles(spans, texts.attribute.values)
    measured = {by: measured_roles(ablated, by=by) for by in ("accuracy", "margin")}
    queries = np.linspace(0, images.sizes["image"] - 1, options.queries).round().astype(int).tolist()
    near = neighbours(evaluated, queries, options.neighbours, layers=layers, centred=True)
    top = top_images(evaluated, spans.rename(direction="directions"), texts.embedding.values, options.images)

    found = ablated[["accuracy_drop", "margin_drop"]].assign(
        named=named.named,
        name_score=named.score.reindex(attribute=names, fill_value=0.0),
        measured=measured["accuracy"],
        measured_by_margin=measured["margin"],
        top_image=top.top_image,
        top_score=top.score.fillna(0),
        neighbour=near.neighbour.rename(k="near"),
        neighbour_score=near.score.rename(k="near"),
    )
    found = found.assign_coords(query=images.image.values[queries])
    metrics: dict[str, object] = {"named": int((named.named != "").sum())}
    try:
        if len(names) == 1:
            raise DataError(f"the images are labelled by {names[0]} only, so there are no roles to tell apart.")
        for by, suffix in (("accuracy", ""), ("margin", "_by_margin")):
            truth = agreement(named.named, measured[by], seed=door.params.seed, permutations=options.permutations)
            metrics |= {f"{name}{suffix}": value for name, value in truth._asdict().items()}
    except DataError as error:
        metrics["truth_skipped"] = str(error)
    found.attrs |= metrics
    door.write(found, "Roles of heads")
    door.write_metrics(metrics)


if __name__ == "__main__":
    run(main)
