"""Stage check_params: refuse a params.yaml that cannot be used, before any stage that reads it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from optogram.errors import OptogramError
from optogram.params.root import load_params
from optogram.pipeline.stage import Stage

STAGE = Stage(
    "check_params",
    family="images",
    desc="Check params.yaml before anything else; what it writes is always the same",
    sources=("params.yaml",),
    out="metrics/.checked",
    exact=True,
    cached=False,
    constant=True,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the same mark whatever the params are, so that what follows does not run again for it."""
    parser = argparse.ArgumentParser(prog="python -m stages.check_params", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, metavar="PATH")
    out: Path = parser.parse_args(argv).out
    load_params()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("params.yaml is checked whenever it changes.\n")


if __name__ == "__main__":
    try:  # without the doorway, whose arrays take longer to import than this takes
        main()
    except OptogramError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
