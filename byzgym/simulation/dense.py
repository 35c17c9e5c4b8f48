"""Per-worker gradients of multilayer perceptrons, by a hand-written forward and backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VALUES_AT_ONCE = 1 << 22
"""Numbers in the inputs that are evaluated at once."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Layer = tuple[Tensor, Tensor]  # weight [E, out, in], bias [E, out]


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """The linear layers of a module that is nothing but a multilayer perceptron with ReLU; else none."""
    # Not `children`, which leaves out a layer's second appearance.
    layers = list(module) if type(module) is nn.Sequential else []
    if layers and type(layers[0]) is nn.Flatten and (layers[0].start_dim, layers[0].end_dim) == (1, -1):
        layers = layers[1:]
    linear: list[Any] = layers[::2]
    parts: list[Any] = [*module.modules(), *module.parameters()]
    plain = (
        len(layers) % 2 == 1
        and len(list(module.parameters())) == 2 * len(linear)  # none shared by two layers
        and all(type(layer) is nn.Linear and layer.bias is not None for layer in linear)
        and all(type(layer) is nn.ReLU for layer in layers[1::2])
        and not any(getattr(part, kind, None) for part in parts for kind in _HOOKS)
    )
    return linear if plain else []


class DenseEngine:
    """Linear layers with ReLU between them.

    One forward and one backward pass over the samples of all workers; only the last product, which makes
    weight gradients, is split by worker.
    """

    draws = False

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._shapes = [(layer.out_features, layer.in_features) for layer in layers]
        self._sizes = [size for wide, narrow in self._shapes for size in (wide * narrow, wide)]
        self.num_parameters = sum(self._sizes)

    def samples_at_once(self, num_envs: int, sample_size: int) -> int:
        """See `GradientEngine.samples_at_once`."""
        return max(1, VALUES_AT_ONCE // (num_envs * sample_size))

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `GradientEngine.logits`."""
        return self._forward(self._layers(theta), x.flatten(2))[1].transpose(1, 2)

    def loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """See `GradientEngine.loss`."""
        return cross_entropy(self._forward(self._layers(theta), x.flatten(2))[1], y)

    @torch.no_grad()
    def loss_and_gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `GradientEngine.loss_and_gradient`."""
        layers = self._layers(theta)
        inputs, logits = self._forward(layers, x.flatten(2))
        log_p = F.log_softmax(logits, dim=1)  # [E, C, m]
        loss = 0 - log_p.gather(1, y[:, None]).mean((1, 2))
        delta = _logit_gradient(log_p.exp_(), y, x.shape[1])
        gradient = torch.empty_like(theta)
        self._backward(layers, inputs, delta, gradient[:, None])
        return loss, gradient

    @torch.no_grad()
    def sample_gradients(self, theta: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        """See `GradientEngine.sample_gradients`."""
        copies = weights.shape[1] // x.shape[1]
        layers = self._layers(theta)
        inputs, logits = self._forward(layers, x.flatten(2))
        p = torch.softmax(logits, dim=1).transpose(1, 2).repeat(1, copies, 1)  # [E, k q, C]
        delta = weights.sum(2, keepdim=True) * p - weights
        out = theta.new_empty(*weights.shape[:2], self.num_parameters)
        self._backward(layers, [values.repeat(1, copies, 1) for values in inputs], delta, out)
        return out

    def one_by_one(self, batch_size: int, device: torch.device) -> bool:
        """See `GradientEngine.one_by_one`."""
        return False

    @torch.no_grad()
    def gradients(
        self,
        theta: Tensor,
        x: Tensor,
        y: Tensor,
        generators: Sequence[torch.Generator],
        out: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        """See `GradientEngine.gradients`."""
        num_envs, num_workers, batch_size = y.shape
        layers = self._layers(theta)
        inputs, logits = self._forward(layers, x.reshape(num_envs, num_workers * batch_size, -1))
        delta = _logit_gradient(torch.softmax(logits, dim=1), y.flatten(1), batch_size)
        self._backward(layers, inputs, delta, out, rows)

    def _layers(self, theta: Tensor) -> list[Layer]:
        pieces = theta.split(self._sizes, dim=1)
        weights = [w.view(-1, *shape) for w, shape in zip(pieces[::2], self._shapes, strict=True)]
        return list(zip(weights, pieces[1::2], strict=True))

    def _forward(self, layers: list[Layer], x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The inputs of every layer, each [E, m, in], and the logits, transposed: [E, C, m].

        Classes come before samples because softmax over a short last dimension is ten times slower, and a
        product with few columns three times.
        """
        *hidden, (weight, bias) = layers
        inputs = [x]
        for hidden_weight, hidden_bias in hidden:
            z = torch.baddbmm(hidden_bias[:, None], inputs[-1], hidden_weight.transpose(1, 2))
            inputs.append(z.relu_())
        return inputs, torch.baddbmm(bias[:, :, None], weight, inputs[-1].transpose(1, 2))

    def _backward(
        self,
        layers: list[Layer],
        layer_inputs: list[Tensor],
        delta: Tensor,
        out: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        """Write the gradients for delta = d loss / d logits [E, h * B, C] into h rows of out [E, n, d]."""
        num_envs, num_workers = out.shape[:2] if rows is None else rows.shape
        for index in reversed(range(len(layers))):
            wide, narrow = self._shapes[index]
            start = sum(self._sizes[: 2 * index])
            by_worker = delta.reshape(num_envs * num_workers, -1, wide)
            inputs = layer_inputs[index].reshape(num_envs * num_workers, -1, narrow)
            # A product straight into the strided rows of `out` takes twice as long as this copy.
            weights = torch.bmm(by_worker.transpose(1, 2), inputs)
            place(weights.view(num_envs, num_workers, -1), out, start, rows)
            place(by_worker.sum(1).view(num_envs, num_workers, -1), out, start + wide * narrow, rows)
            if index:
                delta = torch.bmm(delta, layers[index][0])
                torch.ops.aten.threshold_backward.grad_input(delta, layer_inputs[index], 0, grad_input=delta)


def place(values: Tensor, out: Tensor, start: int, rows: Tensor | None) -> None:
    """Copy values [E, h, m] into the columns from ``start`` on of rows [E, h] of out [E, n, d]."""
    columns = out[..., start : start + values.shape[2]]
    if rows is None:
        columns.copy_(values)
    else:
        columns[torch.arange(len(rows), device=rows.device)[:, None], rows] = values


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over samples [E] from transposed logits [E, C, m]; a loss of zero is not -0."""
    return 0 - F.log_softmax(logits, dim=1).gather(1, y[:, None]).mean((1, 2))


def _logit_gradient(p: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Gradient of the mean loss at the logits, [E, m, C], from probabilities p [E, C, m] (overwritten)."""
    labels = y[:, None]
    p.scatter_add_(1, labels, p.new_full((1, 1, 1), -1.0).expand(labels.shape))
    return p.div_(batch_size).transpose(1, 2).contiguous()
