"""The moving average of the weights over the steps of a training, which the training then ends with.

Gowal et al. 2020, section 4.3, https://arxiv.org/abs/2010.03593, after Izmailov et al. 2018,
https://arxiv.org/abs/1803.05407.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def weight_average(module: nn.Module, decay: float) -> AveragedModel:
    """The average of a module's weights and of its running statistics, to be updated after every step.

    A step has `decay` times the share of the next one. The shares add up to 1 from the first step on, as in Adam.
    """

    @torch.no_grad()
    def averaged(averages: Sequence[Tensor], tensors: Sequence[Tensor], count: Tensor | int) -> None:
        share = (1 - decay) / (1 - decay ** (int(count) + 1))
        for average, tensor in zip(averages, tensors, strict=True):
            if average.is_floating_point():
                average.lerp_(tensor, share)
            else:  # how many batches batch-norm has seen
                average.copy_(tensor)

    return AveragedModel(module, multi_avg_fn=averaged, use_buffers=True)
