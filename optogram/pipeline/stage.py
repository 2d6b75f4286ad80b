"""What a stage is, declared once: dvc.yaml, the command line, the checks and the stage's test all read it.

In every template `{name}` stands for a variable that the stage is repeated over, and `{name.field}` for a field of its
value. `${key}` is left for DVC, which puts in what params.yaml has at that key.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from typing import Any, Literal

ARTIFACTS = "artifacts"
CHECKED = "metrics/.checked"
"""What check_params writes below artifacts/."""


@dataclass(frozen=True)
class Input:
    """An artifact, or a folder of artifacts, that reaches the stage as the option `--name PATH`.

    `path` is a template below artifacts/. Of a folder, `parts` are what the stage depends on; the whole if there are
    none.
    """

    name: str
    path: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, and all that DVC, the doorway, the schedule and the tests must know of it.

    - `name`; its `family`, of `optogram.params.families`; and `desc`, which says in one line what it does.
    - `over`: the variables that it is repeated over, and where in params.yaml the values of each are. Of a mapping,
      the keys are the values. Nothing: it runs once.
    - `options`: those variables that its command line has as `--name VALUE`.
    - `inputs`: what it reads of artifacts/. `sources`: files from outside the pipeline, as `${key}` of params.yaml; a
      shell never sees them.
    - `out`: the template of what it writes below artifacts/. `shipped`: the out is kept in the repository's own remote.
    - `params`: the keys of params.yaml that it uses. `threads` is added unless it is `exact`, which says that the stage
      adds no floats, or each on its own.
    - `switch`: the section of the params whose `run` says whether it runs, of methods. A stage that does not run, and
      what needs it, writes an empty artifact whose attribute `skipped` says why.
    - `metrics`: whether it writes its headline (optogram/metrics/headline.py) to artifacts/metrics.
    - `pool`: the work pool, "gpu" if a GPU helps. `retries`: how often it is tried again, of stages that resume or meet
      a network. `timeout`: seconds, None for no limit.
    - `constant`: what it writes is always the same, so that nothing runs again for it. `cached`: DVC keeps the out.
    """

    name: str
    family: str
    desc: str
    out: str
    over: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    sources: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    switch: str = ""
    metrics: bool = False
    exact: bool = False
    shipped: bool = False
    pool: Literal["cpu", "gpu"] = "cpu"
    retries: int = 0
    timeout: int | None = None
    constant: bool = False
    cached: bool = True

    def __post_init__(self) -> None:
        """ValueError for a template with a variable that the stage is not repeated over."""
        used = {name for text in self._templates() for name in re.findall(r"(?<!\$)\{(\w+)", text)}
        if unknown := sorted({*used, *self.options} - {*self.over}):
            raise ValueError(
                f"Stage {self.name} uses {{{unknown[0]}}}, but is repeated over {[*self.over] or 'nothing'}"
            )

    def _templates(self) -> Iterator[str]:
        yield from (self.desc, self.out, *self.sources, *self.params)
        for one in self.inputs:
            yield from (one.path, *one.parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of params.yaml that its outs depend on, `threads` first where sums are made."""
        switch = (f"{self.switch}.run",) if self.switch and self.switch not in self.params else ()
        return (*(() if self.exact else ("threads",)), *self.params, *switch)

    @property
    def needs(self) -> list[str]:
        """Templates of what it depends on below artifacts/, sorted. What reads no artifact waits for check_params."""
        found = {f"{one.path}/{part}" if part else one.path for one in self.inputs for part in one.parts or ("",)}
        return sorted(found) or ([CHECKED] if self.out != CHECKED else [])

    @property
    def metrics_file(self) -> str:
        """The template of the file of its headline numbers, below artifacts/; "" if it has none."""
        return f"metrics/{'_'.join([self.name, *(f'{{{name}}}' for name in self.over)])}.json" if self.metrics else ""

    def arguments(self) -> list[str]:
        """Its command line after `python -m stages.NAME`, as templates."""
        words = [word for name in self.options for word in (f"--{name}", f"{{{name}}}")]
        paths = {one.name: one.path for one in self.inputs} | {"out": self.out}
        paths |= {"metrics": self.metrics_file} if self.metrics else {}
        return words + [word for name, path in paths.items() for word in (f"--{name}", f"{ARTIFACTS}/{path}")]

    def instances(self, params: Mapping[str, Any]) -> list[dict[str, str]]:
        """Every instance with these params (the plain content of params.yaml): the value of each variable, by name."""
        names, keys = [*self.over], [*self.over.values()]
        return [dict(zip(names, map(str, one), strict=True)) for one in product(*(at(params, key) for key in keys))]

    def filled(self, template: str, instance: Mapping[str, Any], params: Mapping[str, Any]) -> str:
        """A template with an instance's variables, their fields, and DVC's `${key}` put in."""

        def variable(found: re.Match[str]) -> str:
            name, _, key = found[1].partition(".")
            return str(at(params, self.over[name])[instance[name]][key] if key else instance[name])

        text = re.sub(r"(?<!\$)\{([\w.]+)\}", variable, template)
        return re.sub(r"\$\{([\w.]+)\}", lambda found: str(at(params, found[1])), text)


def at(params: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key."""
    return reduce(lambda value, part: value[part], key.split("."), params)
