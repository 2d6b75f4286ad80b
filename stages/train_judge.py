"""Stage train_judge: train a judge on scenes and write its model folder."""

from optogram.models.judging.judge import save_judge
from optogram.models.training.curves import curves
from optogram.models.training.damage import Damage
from optogram.models.training.judge import JudgeTraining, train_judge
from optogram.models.training.strangers import Strangers
from optogram.params.judging import JudgeModel, TrainJudge
from optogram.pipeline.stage import Input, Stage
from optogram.progress import counted
from stages.doorway import Doorway, run, through

STAGE = Stage(
    "train_judge",
    family="generative",
    desc="Train the judge {model} on images/{model.split} (its checkpoint is shipped for the demo)",
    over={"model": "train_judge.models"},
    options=("model",),
    inputs=(Input("images", "images/{model.split}"),),
    out="judges/{model}",
    params=("seed", "train_judge.models.{model}"),
    shipped=True,
    pool="gpu",
    retries=1,
)


@through(STAGE)
def main(door: Doorway) -> None:
    """Write judges/<model>."""
    images, training = door.open("images"), training_of(door.params.of(TrainJudge).models[door.args.model])
    title = f"Judge {door.args.model}"
    with door.scratch(title) as scratch, counted(f"Training {title}", "images") as tell:
        judge, history = train_judge(
            images, training, seed=door.params.seed, device=door.params.device, scratch=scratch, progress=tell
        )
        save_judge(judge, door.path("out"), history=curves(history))


def training_of(model: JudgeModel) -> JudgeTraining:
    """What the params say, as the training takes it."""
    damage, strangers = model.damage, model.strangers
    return JudgeTraining(
        far=tuple(model.far),
        near=tuple(model.near),
        hidden=model.hidden,
        steps=model.steps,
        batch=model.batch,
        learning_rate=model.learning_rate,
        weight_decay=model.weight_decay,
        warmup=model.warmup,
        average=model.average,
        maps=model.maps,
        damage=Damage(damage.share, damage.blur, damage.noise, damage.shade, damage.patch, damage.components),
        strangers=Strangers(strangers.grounds, strangers.clouds, strangers.blobs),
    )


if __name__ == "__main__":
    run(main)
