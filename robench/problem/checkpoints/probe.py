"""Tries a model on two random images before anything else."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError, counted, described
from ..noise import random_images
from .nested import by


def probe(
    module: nn.Module, path: Path, shape: tuple[int, ...], classes: int | None, made_for: tuple[int, ...] | None = None
) -> tuple[int, tuple[str, ...]]:
    """The number of outputs of the model, and the note about it, from its logits for two random images.

    Raises UserError if it fails on such images, or does not return finite logits for at least `classes` classes.
    """
    pixels = random_images(shape)
    tensors = [*module.parameters(), *module.buffers()]
    try:
        with torch.no_grad():
            logits = module.eval()(pixels.to(tensors[0].device) if tensors else pixels)
    except Exception as error:  # whatever the model's own code raises
        raise wrong_images(path, made_for or _reads(module, shape), shape, error) from error
    if not isinstance(logits, Tensor):
        raise UserError(f"{path} returns {type(logits).__name__}, not logits; name a model that returns one tensor")
    if logits.ndim != 2 or len(logits) != 2:
        raise UserError(
            f"{path} returns a tensor of {by(logits.shape)} for two images, not 2xK logits; name an image classifier "
            "that accepts batches of any size"
        )
    if not logits.isfinite().all():
        raise UserError(f"{path} returns NaN or infinite logits for random images; check its weights and --normalise")
    outputs = logits.shape[1]
    if outputs < (classes or 2):
        raise UserError(
            f"labels reach {(classes or 2) - 1} but the model {path} has {counted(outputs, 'output')}; number labels"
            " from 0, not 1, correct the file of --labels, or choose the data that it was trained on with --data"
        )
    more = classes is not None and outputs > classes
    return outputs, (f"the model has {outputs} outputs for {classes} classes",) if more else ()


def refuse_not_finite(path: Path, network: nn.Module) -> None:
    """Raises UserError that names the first weight with NaN or infinite entries."""
    for key, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{path} has NaN or infinite weights in {key}; name a checkpoint from before the training diverged"
            )


def wrong_images(
    path: Path, wanted: tuple[int, ...] | None, shape: tuple[int, ...], error: Exception | None = None
) -> UserError:
    """The error for a model that fails on images of `shape`; `wanted` may hold only the channels, or be unknown."""
    if wanted is not None and wanted != shape:
        kind = f"{by(wanted)} images" if len(wanted) == 3 else f"{wanted[0]}-channel images"
        return UserError(f"{path} reads {kind}, but those of the data are {by(shape)}; choose other data with --data")
    why = described(error) if error is not None else "no message"
    return UserError(
        f"{path} fails on two images of {by(shape)} with {why}; "
        "choose the data that it was trained on with --data, or its architecture with --arch"
    )


def _reads(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The channels that the model seems to read: those of its first convolution, if they differ from `shape`."""
    first = next((t for t in module.parameters() if t.ndim == 4), None)
    return None if first is None or first.shape[1] == shape[0] else (first.shape[1],)
