"""Reading artifacts that lie in a folder on this machine."""

from pathlib import Path

import numpy as np
import xarray as xr

from optogram.errors import ArtifactError, nearest
from optogram.store.rows import LocalEntrypoint
from optogram.store.write import PROTOCOL


def read(path: Path, *, chunks: dict[str, int] | None = None) -> xr.Dataset:
    """Open the artifact at `path` lazily; `chunks={}` for dask arrays in the stored chunks.

    Raises ArtifactError if there is none (naming its neighbours) or if it was written by another protocol version;
    later, when values are read, for a file that is missing, cut short or damaged.
    """
    if not (path / "zarr.json").is_file():
        beside = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise ArtifactError(f"No artifact at {path}.{nearest(path.name, beside)} `dvc repro` makes it.")
    return checked(xr.open_dataset(path, engine=LocalEntrypoint, chunks=chunks), str(path))


def checked(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """The dataset, if its protocol version is ours; ArtifactError otherwise."""
    found = dataset.attrs.get("protocol")
    if found != PROTOCOL:
        raise ArtifactError(
            f"{name}: artifact protocol {found}, expected {PROTOCOL}. It was written by another version of Optogram; "
            "rerun the stage that makes it, or open it with that version."
        )
    # numpy's StringDType knows few of the casts and joins that users need: strings become plain Python ones
    strings = {name: variable for name, variable in dataset.variables.items() if variable.dtype.kind == "T"}
    return dataset.assign(
        {name: _plain(dataset[name]) for name in strings if name not in dataset.coords}
    ).assign_coords(
        {
            name: (c.dims, np.array(c.values.tolist(), dtype=str), c.attrs)
            for name, c in strings.items()
            if name in dataset.coords
        }
    )


def _plain(strings: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(_objects, strings, dask="parallelized", output_dtypes=[object], keep_attrs=True)


def _objects(strings: np.ndarray) -> np.ndarray:
    """Plain Python strings; a function of the module, so that what was opened can be pickled."""
    return strings.astype(object)
