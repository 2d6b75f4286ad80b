"""Stage report: every finding, as pages to look at."""

from optogram.pipeline.declared import producers
from optogram.pipeline.stage import Input, Stage, at
from optogram.report.build import build_report
from optogram.report.registry import needs
from stages.doorway import Doorway, run, through

FEEDS = producers(needs(), leave="report")

STAGE = Stage(
    "report",
    family="report",
    desc="Write the report",
    inputs=tuple(Input(kind, kind) for kind in dict.fromkeys(need.split("/")[0] for need in FEEDS)),
    out="report",
    params=tuple(
        sorted({"clips", "classifiers", *(key for of in FEEDS.values() for one in of for key in one.over.values())})
    ),
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write the folder report of what the sections need, as far as the params have it made."""
    params = door.params.model_dump(mode="json")
    found = {kind: {name: {} for name in params[f"{kind}s"]} for kind in ("clip", "classifier")}
    drawing = [*params["sample"]["models"], *params["generate"]["models"]]
    keys = [of["group"] for of in (one.over for stages in FEEDS.values() for one in stages) if "group" in of]
    found |= {"prior": {name: {} for name in drawing}, "group": {name: {} for key in keys for name in at(params, key)}}
    images = {}
    for need, stages in FEEDS.items():
        kind = next((kind for kind in found if f"{{{kind}}}" in need), "clip")
        for stage in stages:
            for instance in stage.instances(params):
                first, *below = stage.filled(stage.out, instance, params).split("/")
                model = instance.get("group", instance.get("model"))
                if model is None:
                    images["/".join(below)] = door.opened(first, *below)
                elif model in found[kind]:
                    part = "/".join([first, *(name for name in below if name != model)])
                    found[kind][model][part] = door.opened(first, *below)
    build_report(door.path("out"), images, *found.values())


if __name__ == "__main__":
    run(main)
