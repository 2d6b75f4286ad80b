import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from optogram.errors import DataError, ModelError, OptogramError, ParamError, ShapeError
from optogram.methods import matching_loss, reference_prototype, sort_match_loss, sort_match_prototype
from optogram.models.layers import activations


def algorithm_1(x, y):
    """Supplement A.1, line by line: x (1, channel, place), y (reference, channel, place).

    Sorting is stable, which the paper leaves open: it says which of equal activations is to become the larger one.
    """
    _, index_x = torch.sort(x, dim=2, stable=True)
    sorted_y, _ = torch.sort(y, dim=2)
    sorted_y = torch.mean(sorted_y, dim=0)
    inverse_index = index_x.argsort(-1)
    g = sorted_y[None].gather(-1, inverse_index)
    return torch.mean((x - g) ** 2)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 3, 2), nn.ReLU(), nn.Flatten()).eval()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 30), st.integers(0, 20), st.booleans()
)
def test_the_loss_and_its_gradient_are_algorithm_1_s(seed, references, channels, places, more, ties):
    """References with as many places or more; ties as after a ReLU."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(1, channels, places, generator=draw)
    y = torch.randn(references, channels, places + more, generator=draw)
    if ties:
        x, y = x.relu().round(decimals=0), y.relu().round(decimals=0)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, expected = sort_match_loss(ours, sort_match_prototype(y)), algorithm_1(theirs, y)
    torch.testing.assert_close(loss[0], expected, rtol=1e-5, atol=1e-7)
    found, gradient = (torch.autograd.grad(each.sum(), of)[0] for each, of in ((loss, ours), (expected, theirs)))
    torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-7)


def test_through_a_network_with_weights_against_the_literal_form():
    model, images = network(), torch.randn(6, 3, 12, 12)
    start = torch.randn(1, 3, 12, 12)
    layers, weights = ["1", "3"], {"1": 0.1}
    prototypes = reference_prototype(model, images, layers, batch=4)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    loss = matching_loss(activations(model, ours, layers), prototypes, weights)
    with torch.no_grad():
        y = activations(model, images, layers)
    x = activations(model, theirs, layers)
    each = [algorithm_1(x[name].flatten(2), y[name].flatten(2)) for name in layers]
    expected = 0.1 * each[0] + each[1]
    torch.testing.assert_close(loss[0], expected)
    loss.sum().backward()
    expected.backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_larger_references_give_their_lowest_ranks_as_gather_does():
    y = torch.arange(10.0).flip(0)[None, None]
    x = torch.tensor([[[1.0, 2.0, 0.0]]])
    assert float(sort_match_loss(x, sort_match_prototype(y))) == 0
    assert float(algorithm_1(x, y)) == 0


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_a_streamed_prototype_is_the_mean_of_sorted_activations(batch):
    model, images = network(), torch.randn(7, 3, 10, 10)
    found = reference_prototype(model, images, ["1", "3"], batch=batch)
    with torch.no_grad():
        expected = {name: each.flatten(2) for name, each in activations(model, images, ["1", "3"]).items()}
    assert list(found) == ["1", "3"]
    for name, each in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], each.sort(2).values.mean(0))
        torch.testing.assert_close(found[name], sort_match_prototype(each))


def test_activation_times_relevance_is_sorted_after_the_product():
    model, images = network(), torch.randn(5, 3, 10, 10)

    def relevance(part):
        return {name: each.cos() for name, each in activations(model, part, ["1", "3"]).items()}

    found = reference_prototype(model, images, ["1", "3"], relevance=relevance, batch=2)
    for name, each in activations(model, images, ["1", "3"]).items():
        torch.testing.assert_close(found[name], (each * each.cos()).detach().flatten(2).sort(2).values.mean(0))


def test_many_targets_are_those_of_each_alone():
    model = network()
    start = torch.randn(3, 3, 12, 12)
    each = [reference_prototype(model, torch.randn(4, 3, 12, 12), ["1", "3"]) for _ in range(3)]
    stacked = {name: torch.stack([one[name] for one in each]) for name in ("1", "3")}
    together = start.clone().requires_grad_()
    losses = matching_loss(activations(model, together, ["1", "3"]), stacked)
    losses.sum().backward()
    assert losses.shape == (3,)
    assert together.grad is not None
    for target in range(3):
        alone = start[target, None].clone().requires_grad_()
        loss = matching_loss(activations(model, alone, ["1", "3"]), each[target])
        loss.sum().backward()
        torch.testing.assert_close(losses[target], loss[0])
        torch.testing.assert_close(together.grad[target, None], alone.grad)


def test_one_prototype_serves_many_images():
    x, prototype = torch.randn(3, 2, 4, 4), sort_match_prototype(torch.randn(5, 2, 4, 4))
    torch.testing.assert_close(sort_match_loss(x, prototype), sort_match_loss(x, prototype.expand(3, -1, -1)))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 25))
def test_the_optimum_for_one_reference_is_its_histogram(seed, places):
    """Newton's step (the loss is quadratic within an order) reaches it: same values, in the image's own order."""
    draw = torch.Generator().manual_seed(seed)
    y, x = (torch.randn(1, 3, places, generator=draw) for _ in range(2))
    x.requires_grad_()
    prototype = sort_match_prototype(y)
    (gradient,) = torch.autograd.grad(sort_match_loss(x, prototype).sum(), x)
    found = (x - gradient * x.numel() / 2).detach()
    torch.testing.assert_close(found.sort(2).values, y.sort(2).values, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.argsort(2), x.argsort(2))
    assert float(sort_match_loss(found, prototype)) < 1e-10
    # any arrangement of the reference is an optimum, and nothing else is
    shuffled = y[..., torch.randperm(places, generator=draw)]
    assert float(sort_match_loss(shuffled, prototype)) == 0
    assert float(sort_match_loss(shuffled + 0.1, prototype)) == pytest.approx(0.01, rel=1e-3)


def test_an_optimised_image_gets_the_colours_and_edges_of_its_reference():
    model, reference = network(), torch.rand(1, 3, 12, 12)
    prototypes = reference_prototype(model, reference, ["1", "3"])
    image = (0.1 * torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))).requires_grad_()
    steps = torch.optim.Adam([image], 0.05)
    losses = []
    for _ in range(150):
        steps.zero_grad()
        loss = matching_loss(activations(model, image, ["1", "3"]), prototypes).sum()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize(
    ("features", "prototype", "message"),
    [
        ((1, 2, 4, 4), (3, 16), r"prototype has shape \(3, 16\), the features \(1, 2, 4, 4\). Expected \(2, rank\)"),
        ((2, 2, 4, 4), (3, 2, 16), r"or \(2, 2, rank\) with a target for each image"),
        ((1, 2, 4, 4), (16,), r"Expected \(2, rank\)"),
        ((1, 2, 4, 4), (2, 15), r"have 15 places a channel, the image 16.*Resize the references"),
        ((2, 16), (2, 16), r"features of the image have shape \(2, 16\); expected \(image, channel, y, x\)"),
        ((0, 2, 4), (2, 4), r"none of them 0"),
    ],
)
@pytest.mark.misfits
def test_shapes_that_do_not_fit(features, prototype, message):
    with pytest.raises(ShapeError, match=message):
        sort_match_loss(torch.zeros(features), torch.zeros(prototype))


def test_layers_and_weights_that_do_not_fit():
    x, p = torch.zeros(1, 2, 3, 3), torch.zeros(2, 9)
    for features, prototypes, weights, message in (
        ({"layer1": x}, {"layer2": p}, None, r"'layer1' has features but no prototype. Did you mean 'layer2'"),
        ({"layer1": x}, {"layer1": p, "layer2": p}, None, r"'layer2' has a prototype but no features"),
        ({"layer1": x}, {"layer1": p}, {"layer11": 2.0}, r"'layer11' has a weight but no features"),
        ({"layer1": x}, {"layer1": p}, {"layer1": -1.0}, r"weight of layer 'layer1' is -1.0"),
        ({"layer1": x}, {"layer1": p}, {"layer1": float("nan")}, r"is nan: expected a finite number"),
        ({"layer1": x}, {"layer1": p}, {"layer1": 0.0}, r"no layer to match features at"),
        ({}, {}, None, r"no layer to match features at"),
    ):
        with pytest.raises(ParamError, match=message):
            matching_loss(features, prototypes, weights)


def test_references_that_cannot_be_used():
    model, images = network(), torch.randn(2, 3, 10, 10)

    def short(part):
        return {name: each[..., 1:] for name, each in activations(model, part, ["1"]).items()}

    bad = images.clone()
    bad[1, 0, 0, 0] = float("nan")
    cases: list[tuple[type[OptogramError], str, dict]] = [
        (ShapeError, "no reference images", {"images": images[:0]}),
        (DataError, r"references 1 to 1: layer '1' has features that are not finite", {"images": bad, "batch": 1}),
        (ModelError, r"no layer '9'", {"layers": ["9"]}),
        (
            ShapeError,
            r"layer '1': relevance has shape \(2, 5, 8, 7\), activations \(2, 5, 8, 8\)",
            {"relevance": short},
        ),
        (ParamError, r"relevance lacks layer '1'", {"relevance": lambda part: {}}),
    ]
    for error, message, options in cases:
        with pytest.raises(error, match=message):
            reference_prototype(model, **{"images": images, "layers": ["1"], **options})
    with pytest.raises(ShapeError, match="features of the references"):
        sort_match_prototype(torch.zeros(0, 2, 4))
