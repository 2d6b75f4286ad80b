"""Room report: the pages of units: what every section has to say on one head, neuron, class or channel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from optogram.report.panels import Context, Tile
from optogram.report.provenance import Made
from optogram.report.section import Page, Part, Section, Unit


@dataclass(frozen=True)
class Article:
    """One unit as its page shows it; `before` and `after` are links to its neighbours, with their names."""

    unit: Unit
    tiles: list[Tile]
    parts: list[Part]
    before: tuple[str, str]
    after: tuple[str, str]


def unit_pages(context: Context, sections: Sequence[Section]) -> Iterator[Page]:
    """The page of every unit of every section, with what all sections say on it."""
    for section in sections:
        for model in section.models(context.findings):
            units = list(section.units(context, model))
            around = {unit: (units[k - 1], units[(k + 1) % len(units)]) for k, unit in enumerate(map(id, units))}
            for file, group in groupby(units, key=lambda unit: unit.file):
                articles = [_article(context, sections, unit, *around[id(unit)]) for unit in group]
                yield Page(file, "unit.html", {"articles": articles, "made": _made(articles), "section": section})


def _article(context: Context, sections: Sequence[Section], unit: Unit, before: Unit, after: Unit) -> Article:
    parts = [part for section in sections for part in section.unit(context, unit)]
    tiles = [tile for part in parts for tile in part.panel.tiles]
    links = ((f"{other.file.rpartition('/')[2]}#{other.anchor}", other.name) for other in (before, after))
    return Article(unit, tiles, [part for part in parts if part.title], *links)


def _made(articles: Sequence[Article]) -> list[Made]:
    """How all that stands on a page was made, each artifact once."""
    return list(dict.fromkeys(made for article in articles for part in article.parts for made in part.panel.made))
