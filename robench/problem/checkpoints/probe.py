"""Asks a model two random images before anything else is asked of it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError, counted, described
from ..noise import random_images
from .nested import by


def probe(
    module: nn.Module, path: Path, shape: tuple[int, ...], classes: int | None, made_for: tuple[int, ...] | None = None
) -> tuple[int, tuple[str, ...]]:
    """How many classes the model tells apart, and what to say about it, from its answer to two random images.

    Raises UserError when it takes no such images, or its answer is not finite logits for `classes` classes.
    """
    pixels = random_images(shape)
    tensors = [*module.parameters(), *module.buffers()]
    try:
        with torch.no_grad():
            logits = module.eval()(pixels.to(tensors[0].device) if tensors else pixels)
    except Exception as error:  # whatever the model's own code raises
        raise wrong_images(path, made_for or _reads(module, shape), shape, error) from error
    if not isinstance(logits, Tensor):
        raise UserError(
            f"{path} answers with {type(logits).__name__}, not logits; name a model that returns one tensor"
        )
    if logits.ndim != 2 or len(logits) != 2:
        raise UserError(
            f"{path} answers two images with a tensor of {by(logits.shape)}, not 2xK logits; name a classifier of "
            "images that takes batches of any size"
        )
    if not logits.isfinite().all():
        raise UserError(f"{path} answers random images with NaN or infinite logits; its weights or --normalise are off")
    outputs = logits.shape[1]
    if outputs < (classes or 2):
        raise UserError(
            f"labels reach {(classes or 2) - 1} but the model {path} has {counted(outputs, 'output')}; "
            "number labels from 0, not 1, or choose the data that it was trained on with --data"
        )
    more = classes is not None and outputs > classes
    return outputs, (f"the model has {outputs} outputs for {classes} classes",) if more else ()


def refuse_not_finite(path: Path, network: nn.Module) -> None:
    """Raises UserError naming the first weight that is NaN or infinite."""
    for key, tensor in network.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{path} has NaN or infinite weights in {key}; name a checkpoint from before training failed"
            )


def wrong_images(
    path: Path, wanted: tuple[int, ...] | None, shape: tuple[int, ...], error: Exception | None = None
) -> UserError:
    """What to say when a model cannot take images of `shape`; `wanted` may hold the channels alone, or be unknown."""
    if wanted is not None and wanted != shape:
        kind = f"{by(wanted)} images" if len(wanted) == 3 else f"{wanted[0]}-channel images"
        return UserError(f"{path} reads {kind}, but those of the data are {by(shape)}; choose other data with --data")
    why = described(error) if error is not None else "no message"
    return UserError(
        f"{path} fails on two images of {by(shape)} with {why}; "
        "choose the data that it was trained on with --data, or its architecture with --arch"
    )


def _reads(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The channels a model seems to want: those of its first convolution."""
    first = next((t for t in module.parameters() if t.ndim == 4), None)
    return None if first is None or first.shape[1] == shape[0] else (first.shape[1],)
