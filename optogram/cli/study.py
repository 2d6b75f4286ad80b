"""`optogram study`: make a form for people to answer, and analyse the answers that it saves."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from optogram.cli.terminal import console

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command()
def make(
    model: Annotated[str, typer.Argument(help="A classifier whose targets were visualised, such as resnet.")],
    out: Annotated[Path, typer.Option(help="The form; its key goes beside it as NAME.key.json.")] = Path("study.html"),
    participants: Annotated[int, typer.Option(help="How many people: each has a number and an order.")] = 30,
    questions: Annotated[int, typer.Option(help="Targets in each of the three parts, at most.")] = 10,
    seed: Annotated[
        int | None, typer.Option(help="Draws targets, orders and assignments. Default: one by lot, kept in the key.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Only these, such as vital,maco. Default: all.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a form and key that are there.")] = False,
) -> None:
    """Write a blinded form as one HTML file. Keep the key to yourself; give the form and a number to each person."""
    import secrets

    from optogram.catalog.find import open as open_artifact
    from optogram.study.form import make_study, write_study

    drawings = [open_artifact(f"{kind}/{model}") for kind in ("vital", "baselines")]
    study = make_study(
        open_artifact(f"targets/{model}"),
        drawings,
        participants=participants,
        questions=questions,
        # a seed that people can guess lets them make the key again
        seed=secrets.randbits(32) if seed is None else seed,
        methods=[method.strip() for method in methods.split(",") if method.strip()],
        studied=model,
    )
    key = write_study(out, study, force=force)
    asked = {part: len(study.form["participants"][0][part]) for part in ("name", "word", "references")}
    counts = f"{asked['name']} to name, {asked['word']} words, {asked['references']} sets of reference images"
    console.print(f"{out}: form {study.form['id']} for participants 1 to {participants}; {counts}.", markup=False)
    console.print(f"{key}: which picture is whose. Do not give it away; the analysis needs it.", markup=False)


@app.command()
def analyse(
    answers: Annotated[list[Path], typer.Argument(help="Files that the form saved, or folders of them.")],
    key: Annotated[Path, typer.Option(help="The key that was written with the form.")] = Path("study.key.json"),
    clip: Annotated[
        Path | None, typer.Option(help="A CLIP's folder to compare words with; one trained on few words knows few.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a standalone page with plots to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write over a page that is there.")] = False,
) -> None:
    """Score the methods: means with 95% intervals, differences, agreement; for named pictures similarity to the class.

    Without --clip answers are compared with the class's name by spelling alone.
    """
    from optogram.study.analysis import analyse as score
    from optogram.study.analysis import clip_encoder
    from optogram.study.answers import read_answers
    from optogram.study.form import refuse_existing
    from optogram.study.results import TITLES, difference_table, says, score_table, write_results

    if html:
        refuse_existing(html, force)
    answered = read_answers(answers, key)
    parts = score(answered, encode=clip_encoder(clip) if clip else None, seed=seed)
    for part in parts:
        console.print(Text(f"\n{TITLES[part.name]}", style="bold"))
        console.print(Text(says(part)))
        for found in (score_table(part), difference_table(part)):
            table = Table(box=None, header_style="bold", pad_edge=False)
            for column in found.columns:
                table.add_column(column, justify="left" if column == found.columns[0] else "right")
            for r, row in enumerate(found.rows):
                cells = [Text(cell, "bold" if (r, c - 1) in found.best else "") for c, cell in enumerate(row)]
                table.add_row(*cells)
            if found.rows:
                console.print(table)
    if html:
        write_results(html, answered, parts, encoder=f"the CLIP {clip.resolve().name}" if clip else "", force=force)
        console.print(f"The page: {html}", markup=False, highlight=False)
