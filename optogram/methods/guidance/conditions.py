"""Methods, guidance: the counterfactuals and their controls by name, and what counts as one that is agreed on."""

import xarray as xr

FOUND, SWAPPED, PIXELS, WRONG = "counterfactual", "caption swapped", "pixels alone", "another class"
CONDITIONS = (FOUND, SWAPPED, PIXELS, WRONG)


def agreed_flips(found: xr.Dataset) -> xr.DataArray:
    """(condition, image) bool: flipped, and so say all models that had no part; without any, flipped.

    found: of a counterfactuals/<group> artifact, docs/artifacts/guidance.md.
    """
    if "other_label" not in found:
        return found["flip"]
    return found["flip"] & (found["other_label"] == found["target"]).all("model")
