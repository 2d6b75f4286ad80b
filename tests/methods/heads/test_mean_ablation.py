"""Mean-ablation against the expanded heads with components replaced by hand."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from synthetic_contributions import expand, synthetic

from optogram.errors import ParamError
from optogram.methods.heads.mean_ablation import ablate_components, ablate_heads, ablate_layers, mean_ablate
from optogram.methods.heads.roles import fall_tests
from optogram.metrics.classification import ZeroShotTask, score

EMBED = 16


def question(images, seed=0):
    """A random classifier of two attributes, and labels with some unknown."""
    rng = np.random.default_rng(seed)
    attribute, value = ["a", "a", "a", "b", "b"], ["1", "2", "3", "x", "y"]
    classifier = xr.Dataset(
        {
            "classifier": (("class", "embed"), rng.standard_normal((5, EMBED)).astype(np.float32)),
            "attribute": ("class", attribute),
            "value": ("class", value),
        }
    )
    label = np.stack([rng.integers(-1, 3, images), rng.integers(0, 2, images)], 1)
    labels = xr.DataArray(label, dims=("image", "attribute"), coords={"attribute": ["a", "b"]})
    return classifier, labels, xr.DataArray([["1", "2", "3"], ["x", "y", ""]], dims=("attribute", "value"))


@pytest.fixture(params=["itself", "another set"])
def sets(request):
    whole = synthetic(2, images=70)
    evaluated, other = whole.isel(image=slice(30, None)), whole.isel(image=slice(0, 30))
    return (evaluated, None, evaluated) if request.param == "itself" else (evaluated, other, other)


def literal(evaluated, means_over, heads=(), mlps=False, class_token=False):
    own, other = expand(evaluated), expand(means_over)
    result = evaluated.embedding.values.astype(np.float64)
    for layer, head in heads:
        result += other.sel(layer=layer, head=head).values.mean(0) - own.sel(layer=layer, head=head).values
    for block in range(evaluated.sizes["block"] if mlps else 0):
        result += means_over.mlp.values[:, block].mean(0) - evaluated.mlp.values[:, block]
    if class_token:
        result += means_over.token.values[:, 0].mean(0) - evaluated.token.values[:, 0]
    return result


def test_mean_ablate_replaces_components_by_their_means(sets):
    evaluated, reference, means_over = sets
    for ask, expected in (
        ({}, {}),
        ({"mlps": True}, {"mlps": True}),
        ({"class_token": True, "mlps": True}, {"class_token": True, "mlps": True}),
        ({"heads": [(2, 1), (0, 0)]}, {"heads": [(2, 1), (0, 0)]}),
        ({"layers": [1], "heads": [(1, 0), (2, 0)]}, {"heads": [(1, 0), (1, 1), (2, 0)]}),
        ({"layers": [2], "mlps": True}, {"heads": [(2, 0), (2, 1)], "mlps": True}),
    ):
        ours = mean_ablate(evaluated, reference, **ask)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, literal(evaluated, means_over, **expected), atol=2e-4)


def test_all_attention_and_mlps_ablated_leave_one_embedding():
    ds = synthetic(3)
    ours = mean_ablate(ds, mlps=True, layers=[0, 1, 2])
    np.testing.assert_allclose(ours, np.broadcast_to(ds.embedding.values.mean(0), ours.shape), atol=1e-4)


def test_the_evaluated_set_is_not_changed():
    ds = synthetic(3)
    before = ds.copy(deep=True)
    mean_ablate(ds, heads=[(0, 1)])
    xr.testing.assert_identical(ds, before)


def test_components_match_scores_of_ablated_embeddings(sets):
    evaluated, reference, means_over = sets
    asked = question(evaluated.sizes["image"])
    ours = ablate_components(evaluated, reference, *asked)
    np.testing.assert_allclose((ours.gained - ours.lost) / ours["count"], ours.accuracy - ours.accuracy[0], atol=1e-6)
    assert (ours.lost + ours.gained).sel(ablation="mlps").min() > 0
    for name, kind in (("none", {}), ("mlps", {"mlps": True}), ("class_token", {"class_token": True})):
        expected = score(literal(evaluated, means_over, **kind), *asked)
        here = ours.sel(ablation=name)
        np.testing.assert_allclose(here.accuracy, expected.accuracy)
        np.testing.assert_allclose(here.margin, expected.margin, atol=1e-4)


def test_layers_accumulate_from_the_first(sets):
    evaluated, reference, means_over = sets
    asked = question(evaluated.sizes["image"])
    ours = ablate_layers(evaluated, reference, *asked)
    assert ours.accuracy.dims == ("ablated", "attribute")
    for count in range(4):
        heads = [(layer, head) for layer in range(count) for head in (0, 1)]
        expected = score(literal(evaluated, means_over, heads), *asked)
        np.testing.assert_allclose(ours.accuracy.sel(ablated=count), expected.accuracy)
        np.testing.assert_allclose(ours.margin.sel(ablated=count), expected.margin, atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 3])
def test_every_head_alone(sets, blocks):
    evaluated, reference, means_over = sets
    asked = question(evaluated.sizes["image"])
    lazy = evaluated.chunk(image=-(-evaluated.sizes["image"] // blocks))
    ours = ablate_heads(lazy, reference, *asked, layers=[2, 0])
    assert ours.layer.values.tolist() == [2, 0]
    base = score(evaluated.embedding.values, *asked)
    np.testing.assert_allclose(ours.base_accuracy, base.accuracy)
    for layer in (0, 2):
        for head in (0, 1):
            expected = score(literal(evaluated, means_over, [(layer, head)]), *asked)
            here = ours.sel(layer=layer, head=head)
            np.testing.assert_allclose(here.accuracy, expected.accuracy)
            np.testing.assert_allclose(here.margin_drop, base.margin - expected.margin, atol=1e-4)
            np.testing.assert_allclose(here.accuracy_drop, base.accuracy - expected.accuracy, atol=1e-12)


def test_the_error_of_a_fall_is_over_the_same_images():
    ds = synthetic(6, images=50)
    classifier, labels, names = question(50)
    ours = ablate_heads(ds, None, classifier, labels, names)
    task = ZeroShotTask.prepare(classifier, labels, names)
    before, margin = task.outcome(ds.embedding.values @ classifier.classifier.values.T)
    np.testing.assert_allclose(ours.margin_spread, np.nanstd(margin, 0), rtol=1e-5)
    after, left = task.outcome(literal(ds, ds, [(1, 1)]) @ classifier.classifier.values.T)
    here = ours.sel(layer=1, head=1)
    expected = np.nanstd(margin - left, 0, ddof=1) / np.sqrt((~np.isnan(margin)).sum(0))
    np.testing.assert_allclose(here.margin_drop_error, expected, rtol=1e-4)
    np.testing.assert_array_equal(here.lost, ((before == 1) & (after == 0)).sum(0))
    np.testing.assert_array_equal(here.gained, ((before == 0) & (after == 1)).sum(0))
    np.testing.assert_allclose((here.lost - here.gained) / ours["count"], here.accuracy_drop)


def test_falls_of_the_margin_have_the_p_values_of_scipys_test():
    images = 12
    ds = synthetic(6, images=images)
    classifier, labels, names = question(images)
    task = ZeroShotTask.prepare(classifier, labels, names)
    weights = classifier.classifier.values.T
    _, margin = task.outcome(ds.embedding.values @ weights)
    places = [(layer, head) for layer in ds.layer.values for head in ds["head"].values]
    falls = np.stack([margin - task.outcome(literal(ds, ds, [at]) @ weights)[1] for at in places])
    theirs = stats.ttest_1samp(falls, 0, axis=1, nan_policy="omit").pvalue
    ours = fall_tests(ablate_heads(ds, None, classifier, labels, names)).margin_p
    adjusted = stats.false_discovery_control(np.asarray(theirs).ravel())
    np.testing.assert_allclose(ours.values.ravel(), adjusted, rtol=2e-3)


def test_errors_name_what_is_wrong():
    ds = synthetic()
    with pytest.raises(ParamError, match="no head 7 of layer 1"):
        mean_ablate(ds, heads=[(1, 7)])
    with pytest.raises(ParamError, match="no head 0 of layer 9"):
        mean_ablate(ds, layers=[9])
    with pytest.raises(ParamError, match="overlap"):
        mean_ablate(ds, class_token=True, heads=[(1, 1)])
