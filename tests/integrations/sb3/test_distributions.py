import copy

import numpy as np
import pytest
import torch

from byzgym.integrations.sb3 import DirichletDistribution


def test_dirichlet_equals_torch():
    ours = DirichletDistribution(4, min_concentration=0.1)
    raw = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    ours.proba_distribution(raw)
    theirs = torch.distributions.Dirichlet(0.1 + torch.nn.functional.softplus(raw + np.log(np.e - 1)))
    credits = torch.full((7, 4), 0.25)
    torch.testing.assert_close(ours.log_prob(credits), theirs.log_prob(credits))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    # At raw 0 and without the offset the distribution is uniform, with density (n - 1)! everywhere.
    uniform = DirichletDistribution(4, min_concentration=1e-9).proba_distribution(torch.zeros(1, 4))
    assert uniform.log_prob(credits[:1]).item() == pytest.approx(np.log(6), abs=1e-4)


@pytest.mark.global_rng
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_extreme_concentrations(scale):
    torch.manual_seed(0)
    raw = (scale * torch.randn(500, 6)).requires_grad_()
    distribution = DirichletDistribution(6).proba_distribution(raw)
    for credits in (distribution.sample(), distribution.mode()):
        assert credits.min() >= 0
        torch.testing.assert_close(credits.sum(1), torch.ones(500))
        log_prob = distribution.log_prob(credits)
        assert torch.isfinite(log_prob).all()
    (log_prob.sum() + distribution.entropy().sum()).backward()
    assert torch.isfinite(raw.grad).all()


def test_used_distributions_can_be_copied():
    raw = 2 * torch.zeros(1, 3, requires_grad=True)  # tensors inside a graph cannot be copied
    distribution = DirichletDistribution(3, 0.5).proba_distribution(raw)
    again = copy.deepcopy(distribution).proba_distribution(raw)
    assert distribution.mode().tolist() == again.mode().tolist()


def test_mode():
    raw = torch.log(torch.expm1(torch.tensor([[2.0, 4.0, 0.5], [0.5, 0.25, 0.25]]))) - np.log(np.e - 1)
    mode = DirichletDistribution(3, min_concentration=1e-9).proba_distribution(raw.float()).mode()
    expected = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
    torch.testing.assert_close(mode, expected, atol=1e-4, rtol=1e-4)
