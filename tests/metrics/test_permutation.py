"""Shuffled pairs: p-values beside all orders counted out, and the same whatever goes at once."""

import itertools

import numpy as np
import pytest

from optogram.metrics import permutation as chance


def test_p_is_the_share_of_all_orders():
    left, right = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 0, 2, 1])
    found = chance.paired(left, right, seed=0, permutations=20_000)
    orders = [np.array(order) for order in itertools.permutations(range(6))]
    assert found.agreement == pytest.approx(4 / 6)
    assert found.chance == pytest.approx(1 / 3)
    assert found.chance == pytest.approx(np.mean([(right[order] == left).mean() for order in orders]))
    expected = np.mean([(right[order] == left).mean() >= 4 / 6 for order in orders])
    assert found.p_value == pytest.approx(expected, abs=0.01)


def test_blocks_of_draws_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    left, right = rng.integers(0, 3, (2, 40))
    whole = chance.paired(left, right, seed=2, permutations=1000)
    monkeypatch.setattr(chance, "_DRAWN", 300)
    assert chance.paired(left, right, seed=2, permutations=1000) == whole


def test_one_item_agrees_in_every_order():
    assert chance.paired(np.array([3]), np.array([3]), seed=0, permutations=10) == (1, 1, 1)
