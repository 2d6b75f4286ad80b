"""`python -m benchmarks.costs`: the costs of this checkout's last run of each stage become the table that all see."""

import json

from optogram.pipeline.costs import TABLE, calibrate, recorded


def main() -> None:
    """Write the table, with this machine's calibration; say the sum."""
    stages = recorded()
    table = {"calibration": round(calibrate(), 6), "stages": dict(sorted(stages.items()))}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{sum(stages.values()):,.0f} CPU seconds of {len(stages)} stages, in {TABLE}")


if __name__ == "__main__":
    main()
