"""The classifier in bfloat16: a copy that answers nearly as in float32, in about half the time."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...problem.classifier import Classifier
from ...problem.shapes import Inputs, Logits
from ..attack import Model
from .rounded_script import RoundedScript, scripts

TRIED = 2  # images of a batch that a TorchScript program must compute with its weights channels last


def rounded(classifier: Classifier) -> Model:
    """The classifier in bfloat16, answering in float32.

    The weights of convolutions and dense layers are rounded once. The first layer has the outputs of float32: near 1,
    neighbouring bfloat16 numbers are 1/256 apart, so that rounding the image would remove small perturbations of it.
    The last layer computes in float32, because rounding would make near logits equal.

    Raises UserError if the model has no such layers, or if it has a TorchScript program that cannot be rewritten.
    """
    programs = scripts(classifier.module)
    copies = {id(program): RoundedScript(program, channels_last=True) for program in programs}
    module = _copied(classifier, copies)
    if programs and not _answers(module, classifier):
        module = _copied(classifier, {id(p): RoundedScript(p, channels_last=False) for p in programs})
    device = classifier.device.type
    calls = _calls(module, classifier)
    if not calls and not programs:
        raise UserError("no layer of this model can be rounded to bfloat16; leave --precision out")
    for layer in set(calls[1:-1]) - {*calls[:1], *calls[-1:]}:
        _round(layer)
    if calls:
        first, last = calls[0], calls[-1]
        if first is not last:
            first.forward = _through(first, device)
        exactly = torch.autocast(device, enabled=False)(last.forward)
        last.forward = lambda x: exactly(x.float())

    def model(x: Inputs) -> Logits:
        with torch.autocast(device, dtype=torch.bfloat16):
            logits: Tensor = module(x.clone())  # it may write into its input
        return logits.float()

    return model


def _through(layer: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """A layer with the outputs of float32, rounded, and the gradient of bfloat16, which takes half the time."""
    exactly = torch.autocast(device, enabled=False)(layer.forward)
    rough = copy.deepcopy(layer)
    _round(rough)

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = exactly(x.float()).bfloat16()
        if not (torch.is_grad_enabled() and x.requires_grad):
            return outputs
        source: Tensor = rough.forward(x)
        return source + (outputs - source.detach())

    return forward


def _round(layer: nn.Module) -> None:
    """Round the weights and the biases of a layer."""
    for name, values in list(layer.named_parameters(recurse=False)):
        layer.register_parameter(name, nn.Parameter(values.bfloat16(), requires_grad=False))  # others may share it


def _copied(classifier: Classifier, copies: dict[int, RoundedScript]) -> nn.Module:
    """A copy of the module, in which these copies replace the programs with these ids."""
    module: nn.Module = copy.deepcopy(classifier.module, dict[int, object](copies))
    return module


def _answers(module: nn.Module, classifier: Classifier) -> bool:
    """Whether the module computes a batch without an error."""
    try:
        with torch.no_grad():
            module(torch.zeros(TRIED, *classifier.shape, device=classifier.device))
    except RuntimeError:
        return False
    return True


def _calls(module: nn.Module, classifier: Classifier) -> list[nn.Module]:
    """The convolutions and dense layers of a forward pass, in the order in which they are computed."""
    calls: list[nn.Module] = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: calls.append(layer))
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    ]
    try:
        with torch.no_grad():
            module(torch.zeros(1, *classifier.shape, device=classifier.device))
    finally:
        for hook in hooks:
            hook.remove()
    return calls
