"""The doorway that every stage goes through: paths from argv, its own params, checked inputs, outs, metrics."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from optogram.errors import ArtifactError, OptogramError
from optogram.params.root import Params, load_params
from optogram.pipeline.closure import check_code, closure_digest
from optogram.pipeline.stage import Stage
from optogram.store.cluster import on_cluster
from optogram.store.digests import file_digest, folder_digest
from optogram.store.read import read
from optogram.store.rounding import use_threads
from optogram.store.write import Provenance, scratch_folder, write_dataset, write_sharded


class Skipped(Exception):
    """There is nothing for this stage to do, for the reason given: its artifact will be empty and say so."""


class Doorway:
    """One run of a stage as it is declared: its command line, its params, its number of threads."""

    def __init__(self, stage: Stage, argv: Sequence[str] | None) -> None:
        parser = argparse.ArgumentParser(prog=f"python -m stages.{stage.name}", description=f"{stage.desc}.")
        for option in stage.arguments()[::2]:
            if option.removeprefix("--") in stage.options:
                parser.add_argument(option, required=True)
            else:
                parser.add_argument(option, required=True, type=Path, metavar="PATH")
        self.stage, self._declared = stage.name, stage
        self.args = parser.parse_args(argv)
        self.params: Params = load_params()
        if not stage.exact:
            use_threads(self.params.threads)
        names = [stage.filled(key, vars(self.args), {}) for key in stage.keys]
        self.recorded = {name: value_at(self.params, name) for name in names}
        self._inputs: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """A path option's value."""
        return getattr(self.args, name)

    def open(self, name: str, *below: str) -> xr.Dataset:
        """An input artifact, lazily, its digest noted; ArtifactError if it was made with other params than today's.

        Raises Skipped if it is empty, as its own stage was skipped: `opened` gives it all the same.
        """
        dataset = self.opened(name, *below)
        if reason := dataset.attrs.get("skipped"):
            raise Skipped(reason)
        return dataset

    def opened(self, name: str, *below: str) -> xr.Dataset:
        """As `open`, for those to whom a skipped artifact is an answer too."""
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

    def source(self, name: str, named: str) -> Path:
        """An input from outside the pipeline that params.yaml names (a file or a folder of files), its digest noted.

        Its name comes from the params and not from the command line, which a shell reads.
        """
        path = Path(named)
        if path.exists():
            self._inputs[name] = file_digest(path) if path.is_file() else folder_digest(path)
        return path

    def folder(self, name: str, *below: str) -> Path:
        """An input folder of files (a model), its digest noted."""
        path = self.path(name).joinpath(*below)
        if not path.is_dir():
            raise ArtifactError(f"No folder at {path}. `dvc repro` makes it, or `dvc pull` fetches it.")
        self._inputs["/".join([name, *below])] = folder_digest(path)
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
        made, dask, threads, runner = self.provenance(title), self.params.dask, self.params.threads, None
        if dask.address or dask.processes:
            check = partial(check_code, self.stage, made.code)
            runner = on_cluster(processes=dask.processes, address=dask.address, threads=threads, check=check)
        out = self.path("out")
        write_sharded(out, compute, made, total=total, shard=shard, dim=dim, runner=runner, sample=sample)

    def skip(self, reason: str) -> None:
        """Write an empty artifact that says why, and metrics that do."""
        self.write(xr.Dataset(attrs={"skipped": reason}), f"{self.stage}, skipped")
        if self._declared.metrics:
            self.write_metrics({"skipped": reason})

    def check_switch(self) -> None:
        """Raise Skipped if the params leave the stage out."""
        switch = self._declared.switch
        if switch and not value_at(self.params, f"{switch}.run"):
            raise Skipped(f"Switched off: {switch}.run is false in params.yaml.")

    def write_metrics(self, values: dict[str, Any]) -> None:
        """Write the stage's metrics as sorted JSON, floats rounded to six digits, for `dvc metrics`."""
        path = self.path("metrics")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(rounded(values), indent=1, sort_keys=True) + "\n")
        temporary.replace(path)


def through(stage: Stage) -> Callable[[Callable[[Doorway], None]], Callable[..., None]]:
    """Make of a function of the doorway the stage's `main(argv=None)`."""

    def of(body: Callable[[Doorway], None]) -> Callable[..., None]:
        @wraps(body)
        def main(argv: Sequence[str] | None = None) -> None:
            door = Doorway(stage, argv)
            try:
                door.check_switch()
                body(door)
            except Skipped as reason:
                door.skip(str(reason))

        return main

    return of


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
