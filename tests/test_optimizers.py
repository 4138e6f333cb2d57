"""Muon: its steps of matrices against the singular value decomposition, those of all else against AdamW."""

import copy

import pytest
import torch
from torch import nn

from ircdeblur.training.optimizers import Muon, is_matrix, orthogonal


def net():
    """A convolution whose weights are a matrix of 24 x 180, and one with few channels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(20, 24, 3), nn.ReLU(), nn.Conv2d(24, 3, 1))


def loss(model, seed):
    x = torch.randn(2, 20, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (model(x) - x[:, :3, 1:-1, 1:-1]).square().mean()


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (30, 30), (3, 20, 60)])
def test_orthogonal_is_that_of_the_singular_value_decomposition(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.mT @ orthogonal(matrix) @ v.mT
    values = found.diagonal(dim1=-2, dim2=-1)
    # The same directions to rounding; singular values near 1 are what the iteration promises.
    assert float((found - values.diag_embed()).abs().max()) < 1e-10
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3


def test_a_step():
    model = net()
    other = copy.deepcopy(model)
    groups = {"lr": 0.01, "weight_decay": 0.1}
    muon = Muon([{"params": list(model.parameters()), **groups}])
    adam = torch.optim.AdamW([{"params": list(other.parameters()), **groups}])
    before = model[0].weight.detach().clone()
    for optimizer, one in ((muon, model), (adam, other)):
        loss(one, 0).backward()
        gradient = one[0].weight.grad
        optimizer.step()
    assert [is_matrix(p) for p in model.parameters()] == [True, False, False, False]
    for p, q in list(zip(model.parameters(), other.parameters(), strict=True))[1:]:
        assert torch.equal(p, q)
    change = model[0].weight.detach() - (1 - 0.01 * 0.1) * before
    u, _, v = torch.linalg.svd(gradient.reshape(24, -1), full_matrices=False)
    along = -(u.T @ change.reshape(24, -1) @ v.T).diagonal()
    # Against the gradient in all its directions alike.
    assert 0.5 < float(along.min() / along.mean()) < float(along.max() / along.mean()) < 1.5
    assert float(along.min()) > 0
    # As large as Adam's steps usually are; the singular values of what is nearly orthogonal are 0.9 on average.
    assert float(change.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.25)


def test_learns_and_goes_on_from_its_state():
    whole, stopped = net(), net()
    first = Muon(whole.parameters(), 0.01)
    start = loss(whole, 0).item()

    def train(model, optimizer, seeds):
        for seed in seeds:
            optimizer.zero_grad()
            loss(model, seed).backward()
            optimizer.step()

    train(whole, first, range(30))
    assert loss(whole, 0).item() < 0.5 * start
    before = Muon(stopped.parameters(), 0.01)
    train(stopped, before, range(12))
    after = Muon(stopped.parameters(), 0.01)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    train(stopped, after, range(12, 30))
    for p, q in zip(whole.parameters(), stopped.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_matrices_are_stepped_together_as_each_alone():
    """Some of one shape, some of another; a convolution's may lie otherwise in memory."""
    torch.manual_seed(0)
    shapes = ((24, 8, 3, 3), (24, 72), (72, 24), (24, 72), (40, 20))
    together = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    together[0].data = together[0].data.to(memory_format=torch.channels_last)
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    optimizers = Muon([{"params": together, "weight_decay": 0.1}], 0.01), *(Muon([p], 0.01) for p in alone)
    for one in optimizers[1:]:
        one.param_groups[0]["weight_decay"] = 0.1
    for _ in range(3):
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        # A batched product may add up in another order.
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
