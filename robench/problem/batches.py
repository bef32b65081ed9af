"""Networks that take batches of one size alone, as a traced `view(8, -1)` makes them.

Whatever the number of images, they are given batches of that size, and the rest of the evaluation knows nothing of it.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import counted, first_line
from .architectures.normalise import Around
from .memory import out_of_memory
from .noise import random_images
from .outputs import as_logits, bare
from .shapes import Inputs

USUAL = (1, 4, 8, 16, 32, 64, 128, 256, 10, 20, 50, 100, 200, 3, 5, 6, 7, 9, 12, 15, 18, 24, 25, 30, 36, 40, 48, 60, 96)
"""Sizes to try, the most usual first; 2 has been tried before."""
NAMED = 24  # numbers of an error message that are tried as sizes
LARGEST = 1024  # of these


class InBatchesOf(Around):
    """A network that is given exactly `size` images at a time; the last are repeated to fill up, and then left out."""

    def __init__(self, network: nn.Module, size: int):
        super().__init__(network)
        self.size = size

    def forward(self, x: Inputs) -> Tensor:
        padding = x[-1:].detach().expand(-len(x) % self.size, *x.shape[1:])
        answers = [self.network(piece.contiguous()) for piece in torch.split(torch.cat([x, padding]), self.size)]
        return torch.cat([answer.clone() for answer in answers])[: len(x)]  # it may answer in the same buffer again


def answering(network: nn.Module, x: Inputs, classes: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The network as a function from any number of images to logits, (N, K), and what to note about it.

    `x` are a few images, at least two; `classes` those of the data, where known. Raises what `as_logits` raises about
    `x` where no size of batch helps.
    """
    raised: Exception | None = None
    try:
        found = as_logits(network, x, classes)
    except Exception as error:  # whatever the network's own code raises
        if out_of_memory(error):
            raise
        raised = error
    # Noise says whether it is the number of the images, or one of the images, on which the network raises.
    noise = random_images(tuple(x.shape[1:])).to(x.device)
    of_two = _failure(network, _rows(noise, 2))
    if raised is None and of_two is None:
        return found
    of_many = _failure(network, _rows(noise, len(x))) if raised is not None else None
    if raised is not None and of_many is None and of_two is None:
        raise raised
    for size in _sizes(len(x), of_two, of_many):
        if _failure(network, _rows(noise, size)) is None:
            part, notes = bare(network, _rows(noise, size), classes)
            module, more = as_logits(InBatchesOf(part, size), x, classes)
            exactly = size == 1 or _failure(network, _rows(noise, size - 1)) is not None
            return module, (*notes, *more, _note(size, len(x), exactly=exactly))
    if raised is not None:
        raise raised
    return found


def _sizes(many: int, of_two: Exception | None, of_many: Exception | None) -> Iterator[int]:
    """Sizes that may be the one: which of two and `many` fail is known already."""
    if of_many is None:
        yield many
    messages = " ".join(first_line(error) for error in (of_many, of_two) if error is not None)
    named = [int(n) for n in re.findall(r"\d+", messages) if len(n) <= 4 and 0 < int(n) <= LARGEST][:NAMED]
    if of_two is None:  # it takes small ones: the largest is the fastest
        yield from sorted({n for n in (*named, *USUAL, 2) if n < many}, reverse=True)
    else:
        yield from dict.fromkeys((*named, *USUAL))


def _failure(network: nn.Module, x: Inputs) -> Exception | None:
    """Why a network does not answer about each of these images; a smaller or larger number of answers counts too."""
    try:
        bare(network, x)
    except Exception as error:  # whatever the network's own code raises
        return error
    return None


def _rows(images: Tensor, rows: int) -> Tensor:
    """So many of the images, in turn."""
    return images[torch.arange(rows, device=images.device) % len(images)]


def _note(size: int, many: int, *, exactly: bool) -> str:
    images = counted(size, "image")
    if exactly:
        return f"the model takes batches of exactly {images}: rows are padded"
    return f"the model takes no batch of {many} images, so it is given {images} at a time: rows are padded"
