"""GaborNet: a multiplicative filter network, OmniMotion's net for frame codes and for the canonical field.

Source: Fathony et al., Multiplicative Filter Networks, ICLR 2021, in the form of OmniMotion (Wang et al., ICCV 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from everypoint.models.dense import dense
from everypoint.numerics import fast

FREQUENCY_SCALE = 256.0
ENCODED_SCALE = 4.0  # the same for inputs that are encoded by periods already
POINT = 3  # inputs that the distribution of the widths was made for


class DrawnLinear(nn.Linear):
    """A linear layer with torch's default initial values, drawn from ``generator`` alone."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__(inputs, outputs)
        bound = inputs**-0.5
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def reset_parameters(self) -> None:
        """Nothing: torch's own draws would disturb its global generator."""


class GaborFilter(nn.Module):
    """g(x) = sin(W x + b) exp(-gamma |x - mu|^2 / 2), one W row, b, gamma and centre mu for each of the outputs.

    Args:
        inputs, outputs: widths.
        shape: shape parameter of the Gamma distribution that the initial gamma are drawn from (rate 1).
        scale: factor of the initial W beside sqrt(gamma).
        wider: factor of the initial gamma; below 1 the filters reach farther.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        shape: float,
        scale: float,
        generator: torch.Generator,
        wider: float = 1.0,
    ) -> None:
        super().__init__()
        gamma = _gamma_draws(outputs, shape, generator)
        weight = _uniform((outputs, inputs), inputs**-0.5, generator)
        self.weight = nn.Parameter(weight * scale * gamma.sqrt()[:, None])
        gamma = gamma * wider
        self.bias = nn.Parameter(_uniform((outputs,), math.pi, generator))
        self.mu = nn.Parameter(_uniform((outputs, inputs), 1.0, generator))
        self.gamma = nn.Parameter(gamma)

    def forward(self, x: Tensor, square: Tensor, value: Tensor | None = None) -> Tensor:
        """Filter values [..., outputs] at ``x`` [..., inputs]; ``square`` [..., inputs + 1] is (x, |x|^2).

        The exponent is linear in (x, |x|^2), so a second matrix product gives it whole. ``value`` [..., outputs] is
        multiplied by the filter.
        """
        gamma = self.gamma[:, None]
        factors = torch.cat([gamma * self.mu, -0.5 * gamma], -1)
        exponent = dense(square, factors, -0.5 * self.gamma * self.mu.square().sum(-1))
        phase = dense(x, self.weight, self.bias)
        if fast(x):
            return _Wave.apply(phase, exponent, value)
        wave = phase.sin() * exponent.exp()
        return wave if value is None else wave * value


class _Wave(torch.autograd.Function):
    """sin(phase) exp(exponent) value, in few passes: the sine is computed again for the gradient, not kept."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, phase: Tensor, exponent: Tensor, value: Tensor | None
    ) -> Tensor:
        envelope = exponent.exp()
        out = phase.sin().mul_(envelope)
        ctx.save_for_backward(phase, envelope, value)
        return out if value is None else out.mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        phase, envelope, value = ctx.saved_tensors
        wave = phase.sin().mul_(envelope)
        of_value = None if value is None else grad * wave
        grad = grad if value is None else grad * value
        return phase.cos().mul_(envelope).mul_(grad), wave.mul_(grad), of_value


class GaborNet(nn.Module):
    """z = g_0(x); z = g_k(x) * (A_k z + c_k) for k = 1..layers; output B z + d. No activation at the end.

    Args:
        inputs, hidden, outputs: widths.
        layers: multiplications; there are ``layers + 1`` filters.
        alpha: the gamma are drawn from Gamma(alpha / (layers + 1), rate 1).
        generator: source of every initial value.
        encoded: the inputs are a periodic encoding. With the plain initial values its filters see next to nothing
            (the square distance grows with the number of inputs) of a signal beyond the encoding's own frequencies;
            so they begin as wide as for three inputs, and slow.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int,
        outputs: int,
        alpha: float,
        generator: torch.Generator,
        encoded: bool = False,
    ) -> None:
        super().__init__()
        filters = layers + 1
        scale = (ENCODED_SCALE * math.sqrt(inputs / POINT) if encoded else FREQUENCY_SCALE) / math.sqrt(filters)
        wider = POINT / inputs if encoded else 1.0
        self.filters = nn.ModuleList(
            GaborFilter(inputs, hidden, alpha / filters, scale, generator, wider) for _ in range(filters)
        )
        self.linears = nn.ModuleList(DrawnLinear(hidden, hidden, generator) for _ in range(layers))
        self.last = DrawnLinear(hidden, outputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [..., outputs] at ``x`` [..., inputs]."""
        square = torch.cat([x, x.square().sum(-1, keepdim=True)], -1)
        z = self.filters[0](x, square)
        for linear, gabor in zip(self.linears, self.filters[1:], strict=True):
            z = gabor(x, square, dense(z, linear.weight, linear.bias))
        return dense(z, self.last.weight, self.last.bias)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _gamma_draws(count: int, shape: float, generator: torch.Generator) -> Tensor:
    """Draws [count] of Gamma(shape, rate 1), by inverting its distribution: torch's own sampler takes no generator."""
    from scipy.special import gammaincinv

    uniform = torch.rand(count, dtype=torch.float64, generator=generator)
    return torch.from_numpy(gammaincinv(shape, uniform.numpy())).float()
