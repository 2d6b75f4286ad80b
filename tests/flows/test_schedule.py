"""Which stages may start: order, limits, what is left out."""

from hypothesis import given
from hypothesis import strategies as st

from flows.graph import Plan, Stage
from flows.schedule import Schedule


def plan(stages, changed):
    """{name: (upstream, pool)} as a plan."""
    found = {
        name: Stage(name=name, desc="", upstream=frozenset(upstream), outs=(), pool=pool)
        for name, (upstream, pool) in stages.items()
    }
    return Plan(stages=found, changed=dict.fromkeys(changed, "why"), order=tuple(found))


DIAMOND = {"a": ((), "cpu"), "b": (("a",), "gpu"), "c": (("a",), "gpu"), "d": (("b", "c"), "cpu"), "e": ((), "cpu")}


def test_what_follows_a_changed_stage_is_doubtful_and_nothing_else():
    assert plan(DIAMOND, ["c"]).doubtful == ["c", "d"]
    assert plan(DIAMOND, []).doubtful == []


def test_independent_stages_start_at_once_and_the_gpu_pool_has_its_own_limit():
    schedule = Schedule(plan(DIAMOND, DIAMOND), jobs=4, gpus=1)
    assert [(s.name, slot) for s, slot in schedule.start()] == [("a", None), ("e", None)]
    schedule.end("a", ok=True)
    assert [(s.name, slot) for s, slot in schedule.start()] == [("b", 0)]
    assert list(schedule.start()) == []
    schedule.end("b", ok=True)
    assert [(s.name, slot) for s, slot in schedule.start()] == [("c", 0)]


def test_two_gpus_get_a_slot_each():
    schedule = Schedule(plan(DIAMOND, ["b", "c"]), jobs=4, gpus=2)
    assert sorted((s.name, slot) for s, slot in schedule.start()) == [("b", 0), ("c", 1)]


def test_a_failure_leaves_out_what_needs_it_and_nothing_else():
    schedule = Schedule(plan(DIAMOND, DIAMOND), jobs=1, gpus=1)
    [(first, _)] = schedule.start()
    schedule.end(first.name, ok=False)
    started = [stage.name for stage, _ in schedule.start()]
    schedule.end("e", ok=True)
    assert started == ["e"]
    assert list(schedule.start()) == []
    assert schedule.over
    assert set(schedule.left_out) == {"b", "c", "d"}
    assert schedule.left_out["b"] == "a"


def test_stop_starts_nothing_more():
    schedule = Schedule(plan(DIAMOND, DIAMOND), jobs=1, gpus=1)
    list(schedule.start())
    schedule.stop()
    schedule.end("a", ok=True)
    assert list(schedule.start()) == []
    assert schedule.over
    assert schedule.left_out["e"] == "stopped"


@given(st.data())
def test_any_graph_is_run_in_order_within_the_limits(data):
    count = data.draw(st.integers(1, 9))
    stages = {}
    for number in range(count):
        upstream = data.draw(st.sets(st.sampled_from(sorted(stages)))) if stages else set()
        stages[f"s{number}"] = (upstream, data.draw(st.sampled_from(["cpu", "gpu"])))
    changed = data.draw(st.sets(st.sampled_from(sorted(stages)), min_size=1))
    jobs, gpus = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
    schedule = Schedule(plan(stages, changed), jobs=jobs, gpus=gpus)
    doubtful, done, running = set(schedule.waiting), set(), []
    while not schedule.over:
        for stage, slot in schedule.start():
            assert (stage.upstream & doubtful) <= done
            assert (slot is not None) == (stage.pool == "gpu")
            running.append(stage.name)
        assert len(running) <= jobs
        assert sum(stages[name][1] == "gpu" for name in running) <= gpus
        assert running, "nothing runs, yet it is not over"
        name = running.pop(data.draw(st.integers(0, len(running) - 1)))
        schedule.end(name, ok=True)
        done.add(name)
    assert done == doubtful
