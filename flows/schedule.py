"""Room flows: which stages may start now. Knows neither DVC nor Prefect."""

from collections.abc import Iterator

from flows.graph import Plan, Stage


class Schedule:
    """The doubtful stages of a plan, in order, at most `jobs` at once and `gpus` of the gpu pool among them.

    A stage is ready when its upstream is done; it is left out when something upstream of it failed.
    """

    def __init__(self, plan: Plan, *, jobs: int, gpus: int) -> None:
        self.plan, self.jobs, self.gpus = plan, jobs, gpus
        self.waiting = plan.doubtful
        self.running: dict[str, int | None] = {}
        self.failed: set[str] = set()
        self.left_out: dict[str, str] = {}

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.running and not self.waiting

    def start(self) -> Iterator[tuple[Stage, int | None]]:
        """Stages to start now, each with the number of its GPU slot (None in the cpu pool)."""
        for name in list(self.waiting):
            stage = self.plan.stages[name]
            lost = sorted(stage.upstream & (self.failed | set(self.left_out)))
            if lost:
                self.waiting.remove(name)
                self.left_out[name] = lost[0]
            elif len(self.running) < self.jobs and not stage.upstream & {*self.waiting, *self.running}:
                slot = None
                if stage.pool == "gpu":
                    free = set(range(self.gpus)) - set(self.running.values())
                    if not free:
                        continue
                    slot = min(free)
                self.waiting.remove(name)
                self.running[name] = slot
                yield stage, slot

    def end(self, name: str, *, ok: bool) -> None:
        """A running stage has ended."""
        del self.running[name]
        if not ok:
            self.failed.add(name)

    def stop(self) -> None:
        """Start nothing more."""
        self.left_out |= dict.fromkeys(self.waiting, "stopped")
        self.waiting = []
