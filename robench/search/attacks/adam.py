"""The moments of Adam, Kingma and Ba 2015, algorithm 1, https://arxiv.org/abs/1412.6980"""

from jaxtyping import Int
from torch import Tensor

from ...problem.shapes import Inputs, per_example

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def moments(mean: Inputs, square: Inputs, grad: Inputs) -> tuple[Inputs, Inputs]:
    """The first and second moment after one more gradient."""
    return BETA1 * mean + (1 - BETA1) * grad, BETA2 * square + (1 - BETA2) * grad.square()


def unbiased(mean: Inputs, square: Inputs, gradients: Int[Tensor, "B"]) -> tuple[Inputs, Inputs]:
    """The average gradient and the root of the average square after so many gradients; the root is positive."""
    t = per_example(gradients.to(mean.dtype), mean)
    return mean / (1 - BETA1**t), (square / (1 - BETA2**t)).sqrt() + EPSILON
