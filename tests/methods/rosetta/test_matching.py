"""Best buddies and what is made of them, against the definitions and where the answer is known."""

import numpy as np
import pytest
import torch

from optogram.errors import ParamError
from optogram.methods.rosetta.correlation import pearson
from optogram.methods.rosetta.matching import (
    Nearest,
    assigned,
    best_buddies,
    concepts,
    false_discovery_threshold,
    merged,
    neighbours,
    paired,
)


def literal(r, k):
    """Eq. 4.3."""

    def near(row):
        return [place for place in sorted(range(len(row)), key=lambda at: -row[at])[:k] if row[place] > 0]

    return {(a, b) for a in range(r.shape[0]) for b in range(r.shape[1]) if b in near(r[a]) and a in near(r[:, b])}


@pytest.mark.parametrize("k", [1, 3, 5, 40])
def test_pairs_are_those_of_the_equation(k):
    r = np.random.default_rng(k).uniform(-1, 1, (30, 20))
    found = best_buddies(r, k)
    assert {tuple(pair) for pair in found.tolist()} == literal(r, k)
    values = r[tuple(found.T)]
    assert (np.diff(values) <= 0).all()
    assert best_buddies(r, k, least=0.5).tolist() == found[values >= 0.5].tolist()


def test_ranks_say_which_neighbour_each_is():
    r = np.array([[0.9, 0.8, 0.1], [0.7, 0.85, 0.2]])
    found = paired(neighbours(r, 2))
    ranks = {(int(a), int(b)): (int(i), int(j)) for a, b, _, i, j in zip(*found, strict=True)}
    assert ranks == {(0, 0): (1, 1), (1, 1): (1, 1), (0, 1): (2, 2), (1, 0): (2, 2)}


def test_units_that_correlate_with_nothing_have_no_buddies():
    r = np.array([[0.0, -0.4], [0.0, 0.0]])
    assert best_buddies(r, 5).shape == (0, 2)


def test_a_model_with_itself_leaves_each_unit_to_the_others():
    r = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
    found = paired(neighbours(r, 1, itself=False))
    assert {(int(a), int(b)) for a, b in zip(found.a, found.b, strict=True)} == {(0, 1), (1, 0)}


def test_two_copies_with_shuffled_channels_are_matched_entirely():
    maps = torch.randn(64, 40, 6, 6, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found = best_buddies(pearson([([maps], [maps[:, order]])]), 1)
    assert dict(found.tolist()) == dict(enumerate(order.argsort().tolist()))
    assert sorted(assigned(pearson([([maps], [maps[:, order]])])).tolist()) == sorted(found.tolist())


@pytest.mark.parametrize("seed", range(20))
def test_independent_units_have_no_pair_at_the_threshold(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(64, 60, 4, 4, generator=generator) for _ in range(2))
    shuffles = [torch.randperm(64, generator=generator) for _ in range(4)]
    real, *nulls = (pearson([([a], [maps])]) for maps in (b, *(b[order] for order in shuffles)))
    real_pairs, *null_pairs = (paired(neighbours(r, 5)).r for r in (real, *nulls))
    threshold = false_discovery_threshold(real_pairs, null_pairs)
    assert not (real_pairs >= threshold).any()


def test_planted_pairs_are_at_the_threshold():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 60, 4, 4, generator=generator) for _ in range(2))
    b[:, :40] += 2 * a[:, 20:]
    shuffles = [torch.randperm(64, generator=generator) for _ in range(4)]
    real, *nulls = (pearson([([a], [maps])]) for maps in (b, *(b[order] for order in shuffles)))
    threshold = false_discovery_threshold(paired(neighbours(real, 5)).r, [paired(neighbours(r, 5)).r for r in nulls])
    found = best_buddies(real, 5, least=threshold)
    assert dict(found.tolist()) == {unit: unit - 20 for unit in range(20, 60)}


def test_the_threshold_is_the_least_that_keeps_the_share_of_chance():
    real, nulls = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), [np.array([0.55, 0.3]), np.array([0.65])]
    shares = {t: (1 + sum((null >= t).sum() for null in nulls)) / 2 / (real >= t).sum() for t in real}
    for rate in (0.15, 0.2, 0.3, 0.5):
        expected = min((t for t in real if shares[t] <= rate), default=np.inf)
        assert false_discovery_threshold(real, nulls, rate) == expected
    assert false_discovery_threshold(np.empty(0), nulls) == np.inf


def test_units_with_partners_in_all_models_are_merged():
    pairs = {"one": np.array([[4, 0], [4, 2], [1, 3]]), "other": np.array([[4, 7]])}
    assert merged(pairs) == {1: {"one": [3]}, 4: {"one": [0, 2], "other": [7]}}


def test_concepts_are_components():
    alike = np.array([[3, 8], [8, 3], [8, 5], [1, 9], [2, 2]])
    assert concepts([3, 5, 8, 1, 2], alike) == [[3, 5, 8], [1], [2]]
    assert concepts([], alike) == []


def test_a_k_below_one_is_refused():
    with pytest.raises(ParamError, match="k = 0"):
        best_buddies(np.eye(2), 0)


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("cuts", [(3, 9), (1, 2, 11), (5,)])
def test_blocks_of_rows_have_the_nearest_of_the_whole(cuts, itself):
    r = np.random.default_rng(0).integers(-3, 9, (12, 12)) / 10  # many are equal
    whole, nearest = neighbours(r, 4, itself=itself), Nearest(4, itself=itself)
    for start, stop in zip((0, *cuts), (*cuts, 12), strict=True):
        nearest.add(r[start:stop])
    for one, other in zip(whole, nearest.found(), strict=True):
        np.testing.assert_array_equal(one, other)
