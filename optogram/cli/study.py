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
    model: Annotated[
        str, typer.Argument(help="A classifier whose targets were visualised, such as resnet; or a group of images.")
    ],
    counterfactuals: Annotated[
        bool, typer.Option("--counterfactuals", help="Ask about pairs of counterfactuals of this group instead.")
    ] = False,
    out: Annotated[Path, typer.Option(help="The form; its key goes beside it as NAME.key.json.")] = Path("study.html"),
    participants: Annotated[int, typer.Option(help="How many people: each has a number and an order.")] = 30,
    questions: Annotated[int, typer.Option(help="Targets in each of the three parts, or pairs, at most.")] = 10,
    seed: Annotated[
        int | None, typer.Option(help="Draws targets, orders and assignments. Default: one by lot, kept in the key.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Only these, such as vital,maco. Default: all; of pairs 'counterfactual,pixels alone'.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a form and key that are there.")] = False,
) -> None:
    """Write a blinded form as one HTML file. Keep the key to yourself; give the form and a number to each person."""
    import secrets

    from optogram.catalog.find import open as open_artifact
    from optogram.study.form import make_study, write_study
    from optogram.study.pairs import METHODS, changed_images, make_pairs

    # a seed that people can guess lets them make the key again
    seed = secrets.randbits(32) if seed is None else seed
    only = [method.strip() for method in methods.split(",") if method.strip()]
    if counterfactuals:
        found = open_artifact(f"counterfactuals/{model}")
        images = open_artifact(changed_images(found, model))
        study = make_pairs(
            found,
            images,
            participants=participants,
            questions=questions,
            seed=seed,
            methods=only or METHODS,
            studied=model,
        )
    else:
        drawings = [open_artifact(f"{kind}/{model}") for kind in ("vital", "baselines")]
        study = make_study(
            open_artifact(f"targets/{model}"),
            drawings,
            participants=participants,
            questions=questions,
            seed=seed,
            methods=only,
            studied=model,
        )
    key = write_study(out, study, force=force)
    asked = {part: len(entries) for part, entries in study.form["participants"][0].items()}
    if counterfactuals:
        counts = f"{asked['pairs']} pairs of {study.key['methods'][0]!r} and {study.key['methods'][1]!r}"
    else:
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
    """Score the methods: means with 95% intervals, differences, agreement; for named pictures similarity to the class,
    for pairs of counterfactuals the share that prefers each.

    Without --clip answers are compared with the class's name by spelling alone.
    """
    from optogram.study.analysis import analyse as score
    from optogram.study.analysis import clip_encoder
    from optogram.study.answers import read_answers
    from optogram.study.form import refuse_existing
    from optogram.study.preferences import preferences
    from optogram.study.results import (
        TITLES,
        difference_table,
        preference_table,
        says,
        says_pairs,
        score_table,
        write_results,
    )

    if html:
        refuse_existing(html, force)
    answered = read_answers(answers, key)
    parts = score(answered, encode=clip_encoder(clip) if clip else None, seed=seed)
    pairs = preferences(answered, seed=seed)
    told = [(TITLES[part.name], says(part), [score_table(part), difference_table(part)]) for part in parts]
    if pairs:
        told.append((TITLES["pairs"], says_pairs(pairs), [preference_table(pairs)]))
    for title, text, tables in told:
        console.print(Text(f"\n{title}", style="bold"))
        console.print(Text(text))
        for found in tables:
            table = Table(box=None, header_style="bold", pad_edge=False)
            for column in found.columns:
                table.add_column(column, justify="left" if column == found.columns[0] else "right")
            for r, row in enumerate(found.rows):
                cells = [Text(cell, "bold" if (r, c - 1) in found.best else "") for c, cell in enumerate(row)]
                table.add_row(*cells)
            if found.rows:
                console.print(table)
    if html:
        write_results(
            html, answered, parts, pairs, encoder=f"the CLIP {clip.resolve().name}" if clip else "", force=force
        )
        console.print(f"The page: {html}", markup=False, highlight=False)
