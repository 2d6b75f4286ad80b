"""Methods, guidance: the pictures of a unit by name, and what of its top images comes back in them."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

TEXT, FOUND, OTHER = "text alone", "optimised", "another text"
CONDITIONS = (TEXT, FOUND, OTHER)


def recognised(
    real: np.ndarray, drawn: np.ndarray, data: np.ndarray, strongest: np.ndarray, attributes: Sequence[str]
) -> xr.Dataset:
    """Whether a judge sees in pictures of units what their top images share: `common_`… to `seen` of the artifact.

    real: values by name (unit, rank, attribute), "" for none, of the top images. drawn: (condition, unit, sample,
    attribute), of pictures. data: (image, attribute), of images of any kind. strongest: (condition, unit) int, which
    picture activates the unit most. What a unit's top images share is their most common value of each attribute; that
    which they have most often beyond the data is `told`, of which the attribute is named.
    """
    units, rows = len(real), len(attributes)
    common = np.full((units, rows), "", dtype=object)
    share, among = np.zeros((units, rows)), np.zeros((units, rows))
    for unit, row in np.ndindex(units, rows):
        names, counts = np.unique(real[unit, :, row][real[unit, :, row] != ""], return_counts=True)
        if len(names):
            common[unit, row] = str(names[counts.argmax()])
            share[unit, row] = counts.max() / real.shape[1]
            among[unit, row] = (data[:, row] == common[unit, row]).mean()
    told = (share - among).argmax(1)
    hits = (drawn == common[None, :, None, :]) & (common[None, :, None, :] != "")
    of_told = np.take_along_axis(hits, told[None, :, None, None], 3)[..., 0]
    return xr.Dataset(
        {
            "common_value": (("unit", "attribute"), common.astype(str)),
            "common_share": (("unit", "attribute"), share),
            "data_share": (("unit", "attribute"), among),
            "recognised": (("condition", "unit", "attribute"), hits.mean(2)),
            "told": ("unit", np.array(attributes)[told]),
            "seen": (("condition", "unit"), np.take_along_axis(of_told, strongest[..., None], 2)[..., 0]),
        },
        {"attribute": [*attributes]},
    )


def of_told(found: xr.Dataset, name: str) -> xr.DataArray:
    """A variable with `attribute`, of the attribute that is `told` of each unit.

    found: of a neuron_pictures/<group> artifact, docs/artifacts/guidance.md.
    """
    return found[name].sel(attribute=found["told"])
