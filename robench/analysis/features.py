"""The features that a model's last layer reads, and their picture in a plane."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from ..problem.classifier import Classifier, arithmetic
from ..problem.randomness import seeded
from .landscape import BATCH

FEWEST = 5  # images: fewer have no neighbourhoods that a plane could show
PERPLEXITY = 30.0  # neighbours that count for an image: van der Maaten and Hinton 2008 recommend 5 to 50


@dataclass(frozen=True)
class Penultimate:
    """What the last dense layer reads, and what the model answers."""

    features: Float[Tensor, "B features"]
    logits: Float[Tensor, "B classes"]


def penultimate(classifier: Classifier, images: Float[Tensor, "B C H W"], *, seed: int) -> Penultimate:
    """The inputs of the last `torch.nn.Linear` that runs, for images in [0, 1], in full float32.

    Raises UserError if no such layer can be observed, as in compiled models.
    """
    read: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        read.append(inputs[0])

    handles = [m.register_forward_pre_hook(record) for m in classifier.module.modules() if isinstance(m, nn.Linear)]
    features, logits, device = [], [], classifier.device
    try:
        with torch.no_grad(), arithmetic(device), seeded(seed, device):
            for some in torch.split(images, BATCH):
                read.clear()
                logits.append(classifier(some.to(device)).float().cpu())
                # Other layers than the last read tokens, positions, or weights of attention: more than a row an image.
                if not read or read[-1].ndim != 2 or len(read[-1]) != len(some):
                    raise UserError(
                        f"{classifier.name} shows no dense layer at its end, so no features before it; leave it out"
                    )
                features.append(read[-1].float().cpu())
    finally:
        for handle in handles:
            handle.remove()
    return Penultimate(torch.cat(features), torch.cat(logits))


def plane(features: Float[Tensor, "B features"], *, seed: int) -> Float[np.ndarray, "B 2"]:
    """A place in the plane for each of at least `FEWEST` rows, near those of similar rows: t-SNE.

    Distances between far rows mean nothing. Rows that are equal count once and share their place. After van der Maaten
    and Hinton 2008, https://jmlr.org/papers/v9/vandermaaten08a.html, in scikit-learn's implementation, from the first
    two principal components. Raises UserError if fewer than `FEWEST` rows differ.
    """
    from sklearn.manifold import TSNE  # takes a second
    from threadpoolctl import threadpool_limits

    rows, of_row = np.unique(features.double().numpy(), axis=0, return_inverse=True)
    if len(rows) < FEWEST:
        raise UserError(f"only {len(rows)} images have different features, too few for a picture of them; leave it out")
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    columns = np.pad(rows, ((0, 0), (0, max(0, 2 - rows.shape[1]))))  # principal components need two
    tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed % 2**32, n_jobs=1)
    with threadpool_limits(1):  # sums in another order would lead to other places
        places = tsne.fit_transform(columns)
    return np.asarray(places, dtype=np.float64)[of_row.reshape(-1)]
