"""Where the checkout is: the folder around the current one that holds the pipeline, found as git finds its own."""

from pathlib import Path

from optogram.errors import CheckoutError


def find_checkout(start: str | Path | None = None) -> Path:
    """The nearest folder, `start` (by default the current folder) or one above it, that has both dvc.yaml and .dvc/.

    Raises CheckoutError if there is none, with the folder that the search began in.
    """
    try:
        begun = Path(start or ".").resolve(strict=True)
    except OSError as error:
        raise CheckoutError(f"{start or 'The current folder'} cannot be entered: {error.strerror}.") from None
    for folder in (begun, *begun.parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            return folder
    raise CheckoutError(
        f"{begun} is in no checkout of Optogram: neither it nor a folder above it has dvc.yaml and .dvc/. "
        "Go into a clone, or make one with `git clone`."
    )
