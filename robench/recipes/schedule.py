"""Learning-rate schedules: the rate of a step is a function of its number, so a resumed training has the same rates."""

from collections.abc import Mapping
from itertools import pairwise
from math import cos, pi
from typing import Literal

RateSchedule = Literal["constant", "step", "multistep", "late-step", "thirds", "triangular", "piecewise", "cosine"]

DROPS: Mapping[str, tuple[float, ...]] = {
    "constant": (),
    "step": (1 / 2,),  # Tramèr and Boneh 2019, MNIST
    "multistep": (1 / 2, 3 / 4),  # Tramèr and Boneh 2019, CIFAR-10
    "late-step": (7 / 8,),  # RAMP, Jiang and Singh 2024, from random weights
    "thirds": (1 / 3, 2 / 3),  # E-AT, Croce and Hein 2022, fine-tuning
}
"""The shares of the training from which on the rate is a tenth of what it was."""

KNOTS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "triangular": ((0, 0), (2 / 5, 1), (1, 0)),  # Madaan et al. 2021
    "piecewise": ((0, 0), (2 / 5, 1), (4 / 5, 1 / 20), (1, 0)),  # MSD, Maini et al. 2020, CIFAR-10
}
"""Shares of the training and the factors of the highest rate there; the rate is linear between them."""


def rate(schedule: RateSchedule, lr: float, step: int, steps: int) -> float:
    """The learning rate of step number `step`, from 0, of `steps`; `lr` is the highest.

    A continuous schedule takes the share of the training after the step, as the code of Madaan et al. does: its last
    step has rate 0.
    """
    if schedule in DROPS:
        return lr / 10.0 ** sum(share <= step / steps for share in DROPS[schedule])
    after = (step + 1) / steps
    if schedule == "cosine":  # to 0 along half a wave: Carmon et al. 2019
        return lr * (1 + cos(pi * after)) / 2
    (first, low), (last, high) = next(pair for pair in pairwise(KNOTS[schedule]) if after <= pair[1][0])
    return lr * (low + (high - low) * (after - first) / (last - first))
