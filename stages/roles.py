"""Stage roles: what each head is about, checked against its ablation; images per description; neighbours per head."""

from collections.abc import Sequence

import numpy as np

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
    named, measured = named_roles(spans, texts.attribute.values), measured_roles(ablated)
    queries = np.linspace(0, images.sizes["image"] - 1, options.queries).round().astype(int).tolist()
    near = neighbours(evaluated, queries, options.neighbours, layers=layers, centred=True)
    top = top_images(evaluated, spans.rename(direction="directions"), texts.embedding.values, options.images)

    found = ablated[["accuracy_drop", "margin_drop"]].assign(
        named=named.named,
        name_score=named.score.reindex(attribute=names, fill_value=0.0),
        measured=measured,
        top_image=top.top_image,
        top_score=top.score.fillna(0),
        neighbour=near.neighbour.rename(k="near"),
        neighbour_score=near.score.rename(k="near"),
    )
    found = found.assign_coords(query=images.image.values[queries])
    metrics: dict[str, object] = {"named_heads": int((named.named != "").sum()), "heads": int(named.named.size)}
    if len(names) > 1:
        truth = agreement(named.named, measured, seed=door.params.seed, permutations=options.permutations)
        metrics |= truth._asdict()
        found.attrs |= truth._asdict()
    else:
        found.attrs["truth_skipped"] = (
            f"The images are labelled by one attribute only ({names[0]}): no role to tell apart."
        )
    door.write(found, "Roles of heads")
    door.write_metrics(metrics)


if __name__ == "__main__":
    run(main)
