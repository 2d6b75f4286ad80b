"""`python -m benchmarks.pictures`: the pictures of the documents, taken of this checkout's report by Chromium.

Each picture holds the digest that dvc.lock has of the report, so that a test sees when it is of another one.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from ruamel.yaml import YAML

from optogram.errors import OptogramError

DOCS = Path(__file__).parents[1] / "docs"
REPORT = Path("artifacts/report")
PAGES = {"report": "index.html", "head": "heads/demo-L3H3.html", "gallery": "visualisations/resnet_biased.html"}
WIDTH, HEIGHT = 1280, 1400
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def report_digest(lock: Path = Path("dvc.lock")) -> str:
    """What dvc.lock says the report is."""
    return YAML(typ="safe").load(lock.read_text())["stages"]["report"]["outs"][0]["md5"]


def shoot(browser: str, page: Path, to: Path) -> None:
    """Write the top of a page as a PNG of 256 colours, once its scripts have drawn it."""
    options = ["--headless", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=8000"]
    if os.getuid() == 0:  # Chromium has no sandbox for root
        options.append("--no-sandbox")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [browser, *options, f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        info = PngInfo()
        info.add_text("report", report_digest())
        Image.open(shot).convert("RGB").quantize(256).save(to, optimize=True, pnginfo=info)


def main() -> None:
    """Take all of them; OptogramError if there is no browser, or no report."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise OptogramError(f"No browser: expected one of {', '.join(BROWSERS)}. Install Debian's chromium.")
    for name, page in PAGES.items():
        if not (REPORT / page).is_file():
            raise OptogramError(f"No page {page} in {REPORT}. `make demo` makes the report.")
        shoot(browser, REPORT / page, DOCS / f"{name}.png")
        print(f"docs/{name}.png")


if __name__ == "__main__":
    main()
