"""The ServerView: filled in, cut into parts, and with submissions rejected where it is made by hand."""

import pickle

import pytest
import torch

from byzgym.aggregation import ServerView
from byzgym.memory import Memory
from byzgym.simulation import Simulation

TINY = {"task": "synthetic", "num_workers": 7, "num_byzantine": 2, "attack": "sign_flip", "rounds": 4}
FIELDS = ("gradients", "theta", "learning_rate", "round", "rejected", "previous_update", "previous_credits")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_view(**fields):
    target = normal(3, 5, seed=1)
    given = {
        "gradients": normal(3, 4, 5).index_fill(1, torch.tensor([2]), torch.nan),
        "theta": normal(3, 5, seed=2),
        "learning_rate": torch.tensor([0.1, 0.2, 0.3]),
        "qv_loss": lambda theta: (theta - target).square().sum(1),
        "round": torch.tensor([4, 5, 6]),
    }
    return ServerView(**{**given, **fields})


def test_rows_that_are_not_finite_are_rejected():
    rows = normal(3, 4, 5)
    rows[1, 2, 0], rows[2, 3, 4] = torch.nan, -torch.inf
    view = make_view(gradients=rows)
    assert view.rejected.nonzero().tolist() == [[1, 2], [2, 3]]
    assert view.gradients[1, 2].tolist() == [0] * 5
    assert rows[1, 2].isnan().any()  # the caller's own stay as they are


def test_rows_whose_sum_overflows_are_accepted():
    assert not make_view(gradients=torch.full((3, 4, 5), 3e38)).rejected.any()


@pytest.mark.parametrize(
    "fields",
    [
        {"gradients": [[1.0]]},
        {"gradients": normal(4, 5)},
        {"gradients": normal(3, 4, 5).to_sparse()},
        {"theta": normal(3, 6)},
        {"theta": normal(3, 5).numpy()},
        {"learning_rate": torch.tensor([[0.3]])},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_bad_fields_are_named(fields):
    with pytest.raises((TypeError, ValueError), match=next(iter(fields))):
        make_view(**fields)


def test_gradient_of_the_qv_loss():
    view = make_view()
    expected = 2 * (view.theta - normal(3, 5, seed=1))
    torch.testing.assert_close(view.qv_gradient, expected)
    torch.testing.assert_close(view.qv_value, (expected / 2).square().sum(1))


def test_a_job_without_qv_samples():
    with pytest.raises(ValueError, match="no qv_loss"):
        _ = make_view(qv_loss=None).qv_value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qv_loss": lambda theta: theta.sum()}, r"qv_loss returns must have shape \[3\], got \[\]"),
        ({"qv_loss_and_gradient": lambda theta: (theta, theta)}, r"QV loss must have shape \[3\]"),
        (
            {"qv_loss_and_gradient": lambda theta: (theta[:, 0], theta[0])},
            "gradient of the QV loss",
        ),
        ({"qv_per_sample": lambda theta: (theta, None)}, r"gradients of qv_per_sample .* \[3, q, 5\]"),
        ({"qv_per_sample": lambda theta: (theta[:, None], theta)}, r"contrasts of qv_per_sample"),
    ],
)
def test_what_a_job_computes_wrongly_is_named(fields, message):
    view = make_view(**fields)
    with pytest.raises(ValueError, match=message):
        _ = view.qv_gradient, view.qv_sample_gradients


@pytest.mark.parametrize(
    "qv_loss",
    [
        lambda theta: theta.detach().sum(1),
        lambda theta: torch.no_grad()(torch.Tensor.sum)(theta, 1),
        lambda theta: torch.zeros(3, requires_grad=True),
    ],
    ids=["detached", "no_grad", "unrelated"],
)
@pytest.mark.parametrize("part", [None, torch.tensor([0, 2])])
def test_a_qv_loss_that_cannot_be_differentiated_is_named(qv_loss, part):
    view = make_view(qv_loss=qv_loss)
    view = view if part is None else view.of(part)
    with pytest.raises(ValueError, match=r"qv_loss must be differentiable in theta .*qv_loss_and_gradient"):
        _ = view.qv_gradient
    fast = make_view(qv_loss=qv_loss, qv_loss_and_gradient=lambda theta: (theta[:, 0], theta))
    assert torch.equal(fast.qv_gradient, fast.theta)


@pytest.mark.parametrize("name", ["qv_loss", "qv_loss_and_gradient"])
def test_errors_of_a_job_say_whose_they_are(name):
    with pytest.raises(TypeError, match="takes 0 positional arguments") as caught:
        _ = make_view(**{name: lambda: None}).qv_value
    assert caught.value.__notes__ == [f"raised by {name}"]


def test_losses_and_gradients_that_are_not_finite():
    bad = torch.tensor([[torch.nan, 1, 2, torch.inf, -torch.inf]]).expand(3, -1)
    view = make_view(
        qv_loss_and_gradient=lambda theta: (torch.tensor([torch.nan, torch.inf, 2.0]), bad),
        qv_per_sample=lambda theta: (bad[:, None], bad[:, None]),
    )
    torch.testing.assert_close(view.qv_value, torch.tensor([1e30, 1e30, 2.0]))
    for gradient in (view.qv_gradient, view.qv_sample_gradients[:, 0], view.qv_contrasts[:, 0]):
        assert gradient.tolist() == [[0, 1, 2, 0, 0]] * 3


def test_a_part_of_the_runs():
    memory, runs = Memory(3), torch.tensor([2, 0])
    view = make_view(memory=memory)
    part = view.of(runs)
    for name in (*FIELDS, "qv_value", "qv_gradient"):
        torch.testing.assert_close(getattr(part, name), getattr(view, name)[runs], msg=name)
    assert part.rejected[:, 2].all()
    part.memory.write("mine", torch.ones(2, 1))
    assert memory.read("mine", 1).tolist() == [[1], [0], [1]]
    with pytest.raises(ValueError, match="runs must name each run once"):
        view.of(torch.tensor([1, 1]))


def test_a_part_made_in_inference_mode():
    view, runs = Simulation.make(3, seed=0, **TINY).view, torch.tensor([2, 0])
    with torch.inference_mode():
        part = view.of(runs)
        torch.testing.assert_close(part.qv_gradient, view.qv_gradient[runs])
    theta = part.theta.clone().requires_grad_()
    part.qv_loss(theta).sum().backward()
    torch.testing.assert_close(theta.grad, part.qv_gradient)
    again = pickle.loads(pickle.dumps(view.of(runs)))
    torch.testing.assert_close(again.qv_value, part.qv_value)


def test_a_memory_of_other_runs_is_refused():
    with pytest.raises(ValueError, match="memory must be of 3 runs, got one of 2"):
        make_view(memory=Memory(2))
