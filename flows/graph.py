"""Room flows: the pipeline as DVC has it (never declared again), and which of its stages are stale."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.reasons import why
from optogram.errors import FlowError, nearest

POOLS = ("cpu", "gpu")
LOCK = Path("dvc.lock")
PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml.

    `pool`, `retries` (further attempts after a failure that is not the user's), `timeout` (seconds) and `constant` (its
    outs are always the same) come from its `meta`; `upstream` are the stages whose outs it reads.
    """

    name: str
    desc: str
    upstream: frozenset[str]
    outs: tuple[str, ...]
    pool: str = "cpu"
    retries: int = 0
    timeout: float | None = None
    constant: bool = False


@dataclass(frozen=True)
class Plan:
    """The stages that the targets need, each after its upstream, and why some of them are stale.

    `order` are all stages of the pipeline, as a plain `dvc repro` gets them done.
    """

    stages: dict[str, Stage]
    changed: dict[str, str]
    order: tuple[str, ...]

    @property
    def doubtful(self) -> list[str]:
        """Stages that are stale or may become so: the changed ones and all that follow them."""
        found: set[str] = set()
        spreading: set[str] = set()
        for name, stage in self.stages.items():
            if name in self.changed or stage.upstream & spreading:
                found.add(name)
                spreading |= set() if stage.constant else {name}
        return [name for name in self.stages if name in found]


def plan(targets: Sequence[str] = (), *, data_here: bool = True) -> Plan:
    """Read the graph and ask DVC what is stale.

    targets: stages, groups of stages ("textspan") or outs; all stages by default. Their upstream is included.
    data_here: whether data must be in this checkout (what a stage's own remote has, the shipped checkpoint, is fetched
        first); otherwise dvc.lock's word is taken for what is absent, as `dvc repro --allow-missing` does.

    Raises FlowError if there is no pipeline here, if a target is unknown, or if a stage's `meta` cannot be used.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(".")
        graph = repo.index.graph
    except DvcException as error:
        raise FlowError(
            f"The pipeline cannot be read: {error}. Run where dvc.yaml is; `dvc status` says more."
        ) from None
    with repo:
        nodes = {stage.addressing: stage for stage in repo.index.stages}
        wanted = set(nodes)
        if targets:
            asked = [stage for target in targets for stage in _collect(repo, target, sorted(nodes))]
            wanted = {s.addressing for stage in asked for s in {stage, *networkx.descendants(graph, stage)}}
        place = {name: number for number, name in enumerate(nodes)}
        order = list(networkx.lexicographical_topological_sort(graph.reverse(), key=lambda s: place[s.addressing]))
        chosen = [stage for stage in order if stage.addressing in wanted]
        _drop_torn_rwlock(repo)
        if data_here:
            _fetch_shipped(repo, chosen)
        status: dict[str, Any] = {}
        with repo.lock:  # `repo.status` would read dvc.lock anew for every target
            for stage in chosen:
                status |= stage.status(check_updates=True)
        if not data_here:
            with repo.lock:
                doubted = [stage for stage in chosen if stage.addressing in status]
                absent = [s for s in doubted if not s.changed(allow_missing=True, upstream=list(graph.successors(s)))]
            for stage in absent:
                del status[stage.addressing]
        return Plan(
            stages={stage.addressing: _stage(repo, graph, stage) for stage in chosen},
            changed=_reasons(repo, [stage for stage in chosen if stage.addressing in status], status),
            order=tuple(stage.addressing for stage in order),
        )


def _drop_torn_rwlock(repo: Any) -> None:
    """DVC notes who reads and writes what in a file that a kill may leave half-written, and then refuses to go on."""
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    path = Path(repo.tmp_dir, RWLOCK_FILE)
    hardlink = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(path.with_name(RWLOCK_LOCK)), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except ValueError:
            path.unlink()


def locked() -> dict[str, dict[str, Any]]:
    """dvc.lock's entries by stage; empty before the first run."""
    return (yaml.safe_load(LOCK.read_text()) or {}).get("stages", {}) if LOCK.exists() else {}


def _collect(repo: Any, target: str, known: list[str]) -> list[Any]:
    from dvc.exceptions import DvcException

    try:
        return [found.stage for found in repo.stage.collect_granular(target)]
    except DvcException:
        groups = sorted({name.partition("@")[0] for name in known})
        close = nearest(target, [*known, *groups]) or f" There are: {', '.join(groups)}."
        raise FlowError(f"No stage or out is called {target!r}.{close}") from None


def _stage(repo: Any, graph: Any, stage: Any) -> Stage:
    meta = stage.meta or {}
    pool, retries, timeout = meta.get("pool", "cpu"), meta.get("retries", 0), meta.get("timeout")
    constant = meta.get("constant", False)
    for key, value, valid, expected in (
        ("pool", pool, pool in POOLS, f"one of {', '.join(POOLS)}"),
        ("retries", retries, isinstance(retries, int) and retries >= 0, "a whole number, 0 or more"),
        ("constant", constant, isinstance(constant, bool), "true or false"),
        ("timeout", timeout, timeout is None or (isinstance(timeout, int | float) and timeout > 0), "seconds above 0"),
    ):
        if not valid:
            raise FlowError(f"dvc.yaml: meta.{key} of {stage.addressing} is {value!r}, expected {expected}.")
    return Stage(
        name=stage.addressing,
        desc=stage.desc or "",
        upstream=frozenset(found.addressing for found in graph.successors(stage)),
        outs=tuple(sorted(_path(repo, out) for out in stage.outs)),
        pool=pool,
        retries=retries,
        timeout=timeout,
        constant=constant,
    )


def _reasons(repo: Any, stages: list[Any], status: dict[str, Any]) -> dict[str, str]:
    """Why each of these stages runs, in plain words."""
    makers = {_path(repo, out): stage.addressing for stage in repo.index.stages for out in stage.outs}
    params = yaml.safe_load(PARAMS.read_text()) if PARAMS.exists() else None
    lock = locked()
    return {
        name: why(status[name], entry=lock.get(name, {}), makers=makers, params=params or {})
        for name in (stage.addressing for stage in stages)
    }


def _path(repo: Any, out: Any) -> str:
    return Path(out.fs_path).relative_to(repo.root_dir).as_posix()


def _fetch_shipped(repo: Any, stages: list[Any]) -> None:
    """Get outs that are not here and whose stage names the remote that keeps them, as `make demo` does."""
    from dvc.exceptions import DvcException

    for stage in stages:
        missing = [out for out in stage.outs if out.remote and out.hash_info and not out.exists]
        if missing:
            with contextlib.suppress(DvcException):  # no such object there: the stage makes it
                repo.pull(targets=[stage.addressing])
