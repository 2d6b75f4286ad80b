"""Labels of neurons: shares counted one by one, names summed one by one, planted agreement beside chance."""

from fractions import Fraction

import numpy as np
import pytest
import xarray as xr

from optogram.errors import DataError, ShapeError
from optogram.methods.neurons.labels import named_values, shared_values, value_agreement

NAMES = xr.DataArray(
    [["red", "green", "blue"], ["circle", "star", ""]], {"attribute": ["colour", "shape"]}, ("attribute", "value")
)


def labelled(rows):
    return xr.DataArray(np.array(rows, np.int16), {"attribute": ["colour", "shape"]}, ("image", "attribute"))


def literal_shared(top, labels):
    """One neuron at a time, in exact fractions."""
    best = (Fraction(0), "", "")
    for at, attribute in enumerate(NAMES.attribute.values):
        for value in range(NAMES.sizes["value"]):
            among = sum(labels[i, at] == value for i in top)
            of_all = sum(row[at] == value for row in labels)
            excess = Fraction(int(among), len(top)) - Fraction(int(of_all), len(labels))
            if excess > best[0]:
                best = excess, str(attribute), str(NAMES.values[at, value])
    return best


@pytest.mark.parametrize("seed", range(5))
def test_shared_values_are_counted_one_by_one(seed):
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(-1, 3, 40), rng.integers(-1, 2, 40)], 1)
    top = np.stack([rng.choice(40, 6, replace=False) for _ in range(30)])
    found = shared_values(top, labelled(labels), NAMES)
    for neuron in range(30):
        excess, attribute, value = literal_shared(top[neuron], labels)
        assert (found.image_attribute[neuron], found.image_value[neuron]) == (attribute, value)
        assert found.excess[neuron].item() == pytest.approx(float(excess))
    assert found.excess.dtype == np.float32


def test_ties_and_nothing_shared():
    # images 0 and 1 have green and circle, both as often: the first attribute wins
    labels = labelled([[1, 0], [1, 0], [0, 1], [2, 1]])
    found = shared_values(xr.DataArray([[1, 0], [2, 3]], dims=("neuron", "rank")), labels, NAMES)
    assert found.image_attribute.values.tolist() == ["colour", "shape"]
    assert found.image_value.values.tolist() == ["green", "star"]
    found = shared_values([[0, 1, 2, 3], [3, 2, 1, 0]], labels, NAMES)
    assert found.image_attribute.values.tolist() == found.image_value.values.tolist() == ["", ""]
    assert found.excess.values.tolist() == [0, 0]
    unknown = shared_values([[0], [1]], labelled([[-1, -1], [-1, -1]]), NAMES)
    assert unknown.image_value.values.tolist() == ["", ""]


def test_labels_must_fit():
    labels = labelled([[0, 0], [1, 1]])
    with pytest.raises(ShapeError, match=r"positions 0 to 2; expected \(neuron, rank\) of 2 labelled images"):
        shared_values([[0, 2]], labels, NAMES)
    with pytest.raises(ShapeError, match=r"shape \(2,\)"):
        shared_values([0, 1], labels, NAMES)
    with pytest.raises(ShapeError, match=r"go up to 3, but value_name has shape \(2, 3\)"):
        shared_values([[0]], labels + 2, NAMES)


def literal_named(weights, attributes, values):
    """One text at a time."""
    total = {}
    for weight, attribute, value in zip(weights, attributes, values, strict=True):
        pairs = list(zip(attribute.split("+"), value.split("+"), strict=True)) if attribute else []
        for pair in pairs:
            total[pair] = total.get(pair, 0) + max(weight, 0) / len(pairs)
    return max(sorted(total), key=total.get) if max(total.values(), default=0) > 0 else ("", "")


@pytest.mark.parametrize("seed", range(5))
def test_named_values_are_summed_one_by_one(seed):
    rng = np.random.default_rng(seed)
    texts = [
        ("colour", "red"),
        ("shape", "circle"),
        ("", ""),
        ("colour+shape", "red+circle"),
        ("colour+shape", "blue+star"),
    ]
    drawn = np.array(texts)[rng.integers(0, 5, (30, 4))]
    # eighths are summed exactly, so that ties are ties
    weight = (rng.integers(-8, 8, (30, 4)) / 8).astype(np.float32)
    found = named_values(weight, drawn[..., 0], drawn[..., 1])
    expected = [literal_named(w, *d.T) for w, d in zip(weight, drawn, strict=True)]
    assert list(zip(found.attribute.values.tolist(), found.value.values.tolist(), strict=True)) == expected


def test_names_need_positive_weights_and_fitting_pairs():
    found = named_values([[-1.0, 0.0]], [["colour", "shape"]], [["red", "star"]])
    assert (found.attribute.item(), found.value.item()) == ("", "")
    found = named_values([[1.0], [2.0]], [[""], [""]], [[""], [""]])
    assert found.value.values.tolist() == ["", ""]
    # a class may be called "salt+pepper": only several attributes make it two values
    found = named_values([[1.0]], [["class"]], [["salt+pepper"]])
    assert found.value.values.tolist() == ["salt+pepper"]
    with pytest.raises(DataError, match=r"'colour\+shape', but the values 'red'"):
        named_values([[1.0]], [["colour+shape"]], [["red"]])
    with pytest.raises(ShapeError, match=r"attributes \(1, 2\)"):
        named_values([[1.0]], [["", ""]], [[""]])


def test_agreement_beside_chance():
    attribute = ["colour", "colour", "shape", "shape", "", "colour", "shape"]
    value = ["red", "blue", "star", "red", "", "red", "star"]
    ours = value_agreement(attribute, value, attribute, value, seed=0, permutations=10_000)
    assert (ours.agreement, ours.neurons) == (1, 6)
    # colour red and shape red are two values: red twice, star twice, blue and the other red once
    assert ours.chance == pytest.approx((4 + 4 + 1 + 1) / 36)
    assert ours.p_value == pytest.approx(2 * 2 / 720, abs=0.003)
    half = value_agreement(attribute, value, ["colour"] * 6 + [""], ["red"] * 6 + [""], seed=0, permutations=100)
    assert (half.agreement, half.chance, half.p_value, half.neurons) == (
        pytest.approx(2 / 5),
        pytest.approx(2 / 5),
        1,
        5,
    )


def test_agreement_needs_neurons_with_both():
    with pytest.raises(DataError, match="no neuron has both"):
        value_agreement(["colour", ""], ["red", ""], ["", "colour"], ["", "red"], seed=0, permutations=10)
    with pytest.raises(ShapeError, match="labels are of 2, 2, 1, 1 neurons"):
        value_agreement(["", ""], ["", ""], [""], [""], seed=0, permutations=10)
