"""Stage roles: what each head is about, checked against its ablation; images per description; neighbours per head."""

import numpy as np

from optogram.methods.heads.mean_ablation import ablate_heads
from optogram.methods.heads.roles import fall_tests, measured_roles, named_roles, neighbours, top_images, truth
from optogram.metrics.headline import beside_chance
from optogram.pipeline.stage import Input, Stage
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "roles",
    family="heads",
    desc="Roles of heads in {model}, checked against their ablation; retrieval (Figures 2.4, 2.5)",
    over={"model": "clips"},
    inputs=(
        Input("contributions", "contributions/{model}", ("eval", "reference")),
        Input("embeddings", "embeddings/{model}"),
        Input("textspan", "textspan/{model}"),
        Input("images", "images/eval"),
    ),
    switch="roles",
    out="roles/{model}",
    params=("seed", "roles"),
    metrics=True,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write roles/<model>."""
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

    found = (
        ablated[["accuracy_drop", "margin_drop", "lost", "gained", "count"]]
        .merge(fall_tests(ablated))
        .assign(
            named=named.named,
            name_score=named.score.reindex(attribute=names, fill_value=0.0),
            measured=measured["accuracy"],
            measured_by_margin=measured["margin"],
            top_image=top.top_image,
            top_score=top.score,
            neighbour=near.neighbour.rename(k="near"),
            neighbour_score=near.score.rename(k="near"),
        )
    )
    found = found.assign_coords(query=images.image.values[queries])
    checked = truth(named.named, measured, names, seed=door.params.seed, permutations=options.permutations)
    found.attrs |= checked
    door.write(found, "Roles of heads")
    by, suffix = ("accuracy", "") if "agreement" in checked else ("margin", "_by_margin")
    door.write_metrics(
        beside_chance(f"heads whose role by {by} is their named one", checked, of="heads", suffix=suffix)
    )


if __name__ == "__main__":
    run(main)
