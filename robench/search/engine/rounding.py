"""The classifier in bfloat16: copies that answer nearly as in float32, or have nearly its gradients, in less time."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...problem.checkpoints.programs import in_bfloat16, scripts
from ...problem.classifier import Classifier
from ...problem.module_copy import own_copy
from ...problem.shapes import Inputs, Logits
from ..attack import Model
from .rounded_gradient import exact_outputs, is_plain, is_worth, round_weights
from .trial import answers, first_images, objection

TRIED = 2  # images of a batch that a TorchScript program must compute with its weights channels last


def rounded(classifier: Classifier) -> Model:
    """The classifier in bfloat16, answering in float32.

    The weights of convolutions and dense layers are rounded once. Layers that read the image have the outputs of
    float32: near 1, neighbouring bfloat16 numbers are 1/256 apart, so that rounding the image would remove small
    perturbations of it. The last layer computes in float32, because rounding would make near logits equal.

    Raises UserError if the model has no such layers, or if it has a TorchScript program that cannot be rewritten.
    """
    programs = scripts(classifier.module)
    copies = {id(program): in_bfloat16(program, channels_last=True) for program in programs}
    module = own_copy(classifier.module, copies)
    if programs and not _answers(module, classifier):
        copies = {id(program): in_bfloat16(program, channels_last=False) for program in programs}
        module = own_copy(classifier.module, copies)
    device = classifier.device.type
    calls = _calls(module, classifier)
    if not calls and not programs:
        raise UserError("no layer of this model can be rounded to bfloat16; leave --precision out")
    readers = {*calls[:1], *_readers_of_the_image(module, classifier)}
    for layer in set(calls[:-1]) - set(calls[-1:]):
        if layer in readers:
            layer.forward = _through(layer, device)
        else:
            round_weights(layer)
    for last in calls[-1:]:
        last.forward = _in_float32(last, device)

    def model(x: Inputs) -> Logits:
        with torch.autocast(device, dtype=torch.bfloat16):
            logits: Tensor = module(x.clone())  # it may write into its input
        return logits.float()

    return model


def with_rounded_gradients(classifier: Classifier, x: Inputs) -> Model:
    """The classifier with the logits of float32, bit for bit, and gradients from weights rounded to bfloat16.

    Only gradients of plain convolutions and matrix products are rough, where that saves time; that of the last is not.
    Tried on images of `x`: if a logit is another one, or gradients differ by more than rounding, as where a model
    replaces its own weights, it is the classifier itself.
    """
    shared = [*scripts(classifier.module), *classifier.module.parameters()]
    module = own_copy(classifier.module, {id(part): part for part in shared})
    calls = _calls(module, classifier)
    forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {
        layer: exact_outputs(layer, layer.forward)
        for layer in set(calls) - set(calls[-1:])
        if is_plain(layer) and is_worth(layer)
    }
    if not forwards:
        return classifier
    for layer, forward in forwards.items():
        layer.forward = forward

    near = copy.copy(classifier)
    near.module = module

    images = first_images(classifier, x)
    plain, copied = (answers(of, images, classifier.device) for of in (classifier, near))
    same = plain.logits is not None and copied.logits is not None and torch.equal(plain.logits, copied.logits)
    return near if same and not objection(plain, copied) else classifier


def _in_float32(layer: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """A layer that computes in float32, also inside autocast."""
    exactly: Callable[[Tensor], Tensor] = torch.autocast(device, enabled=False)(layer.forward)
    return lambda x: exactly(x.float())


def _through(layer: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """A layer with the outputs of float32, rounded, and the gradient of bfloat16, which takes half the time."""
    exactly = _in_float32(layer, device)
    if is_plain(layer):
        return exact_outputs(layer, lambda x: exactly(x).bfloat16())
    rough = copy.deepcopy(layer)
    round_weights(rough)

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = exactly(x).bfloat16()
        if not (torch.is_grad_enabled() and x.requires_grad):
            return outputs
        source: Tensor = rough.forward(x)
        return source + (outputs - source.detach())

    return forward


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
    with _hooks(module, lambda layer, inputs, output: calls.append(layer)), torch.no_grad():
        module(torch.zeros(1, *classifier.shape, device=classifier.device))
    return calls


def _readers_of_the_image(module: nn.Module, classifier: Classifier) -> set[nn.Module]:
    """The convolutions and dense layers that read the image other than through another such layer.

    They meet the NaN of which an image is made here, because all such layers return zeros.
    """
    readers = set()

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if inputs[0].isnan().any():
            readers.add(layer)
        return torch.zeros_like(output)

    with suppress(Exception), _hooks(module, hook), torch.no_grad():  # the model may refuse such an image
        module(torch.full((1, *classifier.shape), torch.nan, device=classifier.device))
    return readers


@contextmanager
def _hooks(module: nn.Module, hook: Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]) -> Iterator[None]:
    """Calls a hook after each convolution and dense layer."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
