"""The doorway that every stage goes through: paths from argv, its own params, checked inputs, outs, metrics."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from optogram.closure import check_code, closure_digest
from optogram.errors import ArtifactError, OptogramError
from optogram.params import Params, load_params
from optogram.store.cluster import on_cluster
from optogram.store.digests import file_digest, folder_digest
from optogram.store.read import read
from optogram.store.write import Provenance, scratch_folder, write_dataset, write_sharded


class Doorway:
    """One run of a stage.

    `paths` are the names of the path options (`--images PATH`); `out` and `metrics` among them are outputs, the rest
    inputs. `sections` are the dotted params that the stage uses, as in dvc.yaml. Extra `options` are plain strings.
    """

    def __init__(
        self,
        stage: str,
        argv: Sequence[str] | None,
        *,
        paths: Sequence[str],
        sections: Sequence[str],
        options: Sequence[str] = (),
    ) -> None:
        parser = argparse.ArgumentParser(
            prog=f"python -m stages.{stage}", description=f"The stage {stage}, as dvc.yaml runs it."
        )
        for name in options:
            parser.add_argument(f"--{name}", required=True)
        for name in paths:
            parser.add_argument(f"--{name}", required=True, type=Path, metavar="PATH")
        self.stage = stage
        self.args = parser.parse_args(argv)
        self.params: Params = load_params()
        names = [section.format(**vars(self.args)) for section in sections]
        self.recorded = {name: value_at(self.params, name) for name in names}
        self._inputs: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """A path option's value."""
        return getattr(self.args, name)

    def open(self, name: str, *below: str) -> xr.Dataset:
        """An input artifact, lazily, its digest noted; ArtifactError if it was made with other params than today's."""
        path = self.path(name).joinpath(*below)
        dataset = read(path)
        for key, value in sorted(json.loads(dataset.attrs["params"]).items()):
            now = value_at(self.params, key)
            if now != value:
                raise ArtifactError(
                    f"{path} was made with {key} = {value}, but params.yaml now has {now}. Remake it: "
                    f"`dvc repro` reruns its stage ({dataset.attrs['stage']}) and what follows."
                )
        self._inputs["/".join([name, *below])] = dataset.attrs["digest"]
        return dataset

    def source(self, name: str) -> Path:
        """An input from outside the pipeline (a file or a folder of files), its digest noted."""
        path = self.path(name)
        if path.exists():
            self._inputs[name] = file_digest(path) if path.is_file() else folder_digest(path)
        return path

    def folder(self, name: str) -> Path:
        """An input folder of files (a model), its digest noted."""
        path = self.path(name)
        if not path.is_dir():
            raise ArtifactError(f"No folder at {path}. `dvc repro` makes it, or `dvc pull` fetches it.")
        self._inputs[name] = folder_digest(path)
        return path

    def provenance(self, title: str) -> Provenance:
        """What an out is made from: the inputs opened so far, the params, the code."""
        return Provenance(
            self.stage, title, dict(self.recorded), dict(self._inputs), closure_digest(f"stages.{self.stage}")
        )

    @contextmanager
    def scratch(self, title: str) -> Iterator[Path]:
        """This work's own scratch folder, locked, for stages that write a folder of files; see `scratch_folder`."""
        with scratch_folder(Path(".scratch"), self.provenance(title), self.path("out")) as folder:
            yield folder

    def write(self, dataset: xr.Dataset, title: str, *below: str) -> None:
        """Write a whole Dataset as the out (or as `below` it)."""
        write_dataset(self.path("out").joinpath(*below), dataset, self.provenance(title))

    def write_shards(
        self,
        compute: Callable[[int, int], xr.Dataset],
        title: str,
        *,
        total: int,
        shard: int,
        dim: str = "image",
        sample: xr.Dataset | None = None,
    ) -> None:
        """Write the out shard by shard along `dim`, resumably, on a Dask cluster if the params name one.

        Where the shards are made is no part of what they are: `dask` is not recorded. `sample` as in `write_sharded`.
        """
        made, dask, runner = self.provenance(title), self.params.dask, None
        if dask.address or dask.processes:
            check = partial(check_code, self.stage, made.code)
            runner = on_cluster(processes=dask.processes, address=dask.address, threads=dask.threads, check=check)
        out = self.path("out")
        write_sharded(out, compute, made, total=total, shard=shard, dim=dim, runner=runner, sample=sample)

    def write_metrics(self, values: dict[str, Any]) -> None:
        """Write the stage's metrics as sorted JSON, floats rounded to six digits, for `dvc metrics`."""
        path = self.path("metrics")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(rounded(values), indent=1, sort_keys=True) + "\n")
        temporary.replace(path)


def value_at(params: Params, key: str) -> Any:
    """The plain value at a dotted key of the params; None where there is none (any more)."""
    value: Any = params.model_dump(mode="json")  # as it is recorded: tuples are lists
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def rounded(value: Any) -> Any:
    """Plain JSON types; floats to six significant digits, so that metrics diff well."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.6g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a user's error is printed without a traceback and ends with status 2."""
    try:
        main()
    except OptogramError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None  # 2: the same again would fail again (flows/child.py)
    except KeyboardInterrupt:
        print("Stopped. What was finished is kept; the same command resumes.", file=sys.stderr)
        raise SystemExit(130) from None
