"""Room report: the style sheet, which pages link and charts take their colours from."""

from pathlib import Path


def css() -> str:
    """Text of report.css."""
    return (Path(__file__).parent / "templates/report.css").read_text()
