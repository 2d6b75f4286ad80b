"""Standalone pages of the commands: one HTML file each, no network, light and dark; all text in them is escaped."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from optogram.errors import ArtifactError

HERE = Path(__file__).parent
REPORT = HERE / "templates"


def write_page(path: Path, template: str, *, plots: bool = False, **values: Any) -> None:
    """Render `template` with `values` into the file `path`; `plots` puts plotly into it, some 5 MB.

    Raises ArtifactError if the path does not end in .html (what it overwrites is a page) or cannot be written.
    """
    if path.suffix not in (".html", ".htm"):
        raise ArtifactError(f"{path} is no name for a page; expected one that ends in .html.")
    text = _pages().get_template(template).render(**values, **_assets(plots))
    try:
        path.write_text(text)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}. Name a file in a folder that is there.") from None


def _assets(plots: bool) -> dict[str, Markup]:
    """Our own style and scripts, and plotly's: the only values that are not escaped."""
    from plotly.offline import get_plotlyjs

    return {
        "style": Markup((REPORT / "report.css").read_text()),
        "script": Markup((REPORT / "report.js").read_text()),
        "plotly": Markup(get_plotlyjs()) if plots else Markup(""),
    }


@cache
def _pages() -> jinja2.Environment:
    folders = jinja2.ChoiceLoader([jinja2.FileSystemLoader(folder) for folder in (HERE / "page_templates", REPORT)])
    pages = jinja2.Environment(
        loader=folders, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pages.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False, "separators": (",", ":")}
    return pages
