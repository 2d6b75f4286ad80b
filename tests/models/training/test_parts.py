"""Gradients of parts of a batch: those of the batch, in the same bytes with one thread and with two."""

import pytest
import torch
from torch import nn

from optogram.models.training.parts import Parts

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 8])
def test_gradients_of_parts_are_those_of_the_batch(size, count):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(size, 3)
    expected = model(x).square().mean()
    gradients = torch.autograd.grad(expected, [*model.parameters()])
    parts = Parts(count, CPU)
    for _ in range(2):  # those of the step before are gone
        loss = parts.backward(lambda part: model(x[part]).square().mean(), size, model)
    torch.testing.assert_close(loss, expected.detach())
    for w, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(w.grad, gradient)


def test_one_part_is_the_batch_to_the_bit():
    torch.manual_seed(0)
    model, x = nn.Linear(64, 64), torch.randn(33, 64)
    expected = model(x).square().mean()
    expected.backward()
    gradient = model.weight.grad.clone()
    loss = Parts(1, CPU).backward(lambda part: model(x[part]).square().mean(), 33, model)
    assert torch.equal(loss, expected.detach())
    assert torch.equal(model.weight.grad, gradient)


def test_one_thread_and_two_give_the_same_bytes():
    torch.manual_seed(0)
    model, x, found = nn.Linear(64, 64), torch.randn(33, 64), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            loss = Parts(2, CPU).backward(lambda part: model(x[part]).square().mean(), 33, model)
            assert torch.get_num_threads() == threads, "the caller's number is kept"
            found.append((loss.numpy().tobytes(), model.weight.grad.numpy().tobytes()))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_an_error_in_a_part_is_the_caller_s():
    def fail(part):
        raise ValueError("in a part")

    with pytest.raises(ValueError, match="in a part"):
        Parts(2, CPU).backward(fail, 4, nn.Linear(1, 1))
