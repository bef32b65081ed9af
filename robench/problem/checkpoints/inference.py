"""Infers what a file leaves open from clean images: the strides and paddings of a chain, and the normalisation."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError, counted
from ..architectures import chain as chains
from ..architectures.chain import Chain
from ..architectures.normalise import normalised, normalised_images
from ..classifier import arithmetic
from ..datasets import DATASETS
from ..noise import keyed, uniform
from ..split import Split
from .candidates import Candidates
from .choice import chosen
from .comparison import Answers, refusal, same_function
from .contents import Contents
from .nested import by
from .numbered import Numbered, numbered, weights_of_layers
from .own_normalisation import own_normalisation
from .waiting import BATCH, Wait

FIRST = 64  # images on which all candidates are compared
MORE = (256, 1000)  # images for those that are left
NORMALISED = 500  # images on which normalisations of a known architecture are compared
MARGIN = 1  # more correct answers to the first images, without which none can be clearly better
LIMIT = 24_000  # candidates on the first images
LEFT = 1000  # candidates on the second images
SHOWN = 3  # candidates in a message
NOISE = 16  # images of noise, on which equal functions are equal as well
ACTIVATIONS = tuple(
    map(chains.parse, ("leakyrelu", "leakyrelu0.2", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid"))
)
CIFAR10 = "0.4914,0.4822,0.4465/0.2023,0.1994,0.2010"
"""Another standard deviation that is common for CIFAR-10: the mean of the standard deviations of single images."""
CPU = torch.device("cpu")
BYTES = "0/0.00392156862745098"
"""The normalisation for pixels from 0 to 255."""


@dataclass(frozen=True)
class Inferred:
    """What was inferred: an architecture and a normalisation, as they are typed, and the note."""

    architecture: str  # empty if it was known
    normalisation: str | None  # None if no normalisation is clearly better than pixels in [0, 1]
    notes: tuple[str, ...]
    caution: str = ""  # for a reader of the number: the network may be another one

    def followed_by(self, normalisation: "Inferred") -> "Inferred":
        """The architecture that was inferred first, with the normalisation that was inferred for it."""
        cautions = "; ".join(filter(None, (self.caution, normalisation.caution)))
        notes = self.notes + normalisation.notes
        return Inferred(self.architecture, normalisation.normalisation, notes, cautions)


@dataclass(frozen=True, eq=False)
class Trial:
    """What candidates are compared on, and the normalisation if it is known."""

    images: Split
    normalisation: str | None = None
    device: torch.device = CPU  # of registered networks; chains are tried on the CPU


def inferred_chain(path: Path, contents: Contents, trial: Trial | None) -> Inferred | None:
    """The chain that the numbered layers in a file are; None if it has none, or other weights beside them.

    Raises UserError, with what to type, if the chain cannot be inferred.
    """
    sets = {layers.prefix: layers for layers in numbered(contents) if not layers.beside and layers.classifies}
    if not sets:
        return None
    places = [layers.place_by_number for layers in sets.values()]
    layers = sets[chosen(places, contents).place.prefix]
    if trial is None:
        raise UserError(
            f"{path} holds the layers of a chain ({layers.about}); name the data with --data (14 images or more), whose"
            f" clean images show its strides and paddings, or type it: --arch {chains.EXAMPLE}"
        )
    own = own_normalisation(contents.tensors, layers.place_by_number, nn.Sequential(), trial.images.shape)
    known = trial.normalisation or (own and (own.text or "none"))
    texts = [known] if known else usual_normalisations(trial.images.name, trial.images.shape)
    return ChainSearch(path, contents, layers, trial.images, texts).answer()


def usual_normalisations(data: str, shape: tuple[int, ...]) -> list[str]:
    """The normalisations to try for a data set, `none` first; for data without a name those of all that are alike."""
    name = data.partition(":")[0]
    channels = shape[0]
    alike = [n for n, other in DATASETS.items() if len(other.mean) == channels and tuple(other.shape) == shape]
    own = [name] if name in DATASETS and DATASETS[name].mean else alike
    found = ["none", *own, "0.5/0.5"]
    if channels == 3:
        found += ["imagenet", *([CIFAR10] if shape[1:] == (32, 32) else [])]
    return found


@dataclass(frozen=True, eq=False)
class _Candidate:
    chain: Chain
    normalisation: str
    answers: Answers

    @property
    def typed(self) -> str:
        return f"--arch {shlex.quote(chains.written(self.chain))} --normalise {self.normalisation}"


@dataclass(frozen=True, eq=False)
class ChainSearch:
    """The search for the chain that numbered layers are, on clean images."""

    path: Path
    contents: Contents
    layers: Numbered
    images: Split
    normalisations: Sequence[str]

    def answer(self) -> Inferred:
        """The chain and the normalisation that are clearly right. Raises UserError if none is."""
        with torch.no_grad(), arithmetic(torch.device("cpu")):
            found = self._left()
            best, *others = sorted(found, key=lambda candidate: candidate.answers.rank)
            if not best.answers.far_above_guessing(self.images.y):
                raise self._unclear(
                    "no stride, padding and pooling that fit make it a good classifier", [best, *others]
                )
            rivals = [other for other in others if not best.answers.clearly_better(other.answers)]
            rivals = [other for other in rivals if not self._same(best, other)]
            if rivals:
                raise self._unclear("several candidates are as good", [best, *rivals])
            also = self._assumed(best)
        return self._inferred(best, also)

    def _left(self) -> list[_Candidate]:
        """The candidates that no other is clearly better than, with their answers to all images."""
        left = self._first()
        for images in (*MORE, len(self.images)):
            if len(left) > LEFT:
                raise self._unclear(f"{len(left):,} combinations of stride, padding and pooling are as good", left)
            part = self.images.take(range(min(images, len(self.images))))
            left = _not_beaten([self._candidate(c.chain, c.normalisation, part) for c in left])
        return left

    def _first(self) -> list[_Candidate]:
        images = self.images.take(range(min(FIRST, len(self.images))))
        weights = weights_of_layers(self.contents, self.layers)
        candidates = self._candidates()
        found = []
        for text in self.normalisations:
            x = normalised_images(images.x, text)
            for chain, logits in candidates.logits(x, weights):
                found.append(_Candidate(chain, text, Answers.of(logits, images.y)))
        return _not_beaten(found)

    def _candidates(self) -> Candidates:
        limit = LIMIT // len(self.normalisations)
        candidates = Candidates(self.layers.layers, self.images.shape)
        number = candidates.count()
        if number == 0:
            raise refusal(
                self.path,
                f"matches no architecture that robench knows: its layers ({self._listed()}) fit images of"
                f" {by(self.images.shape)} with no usual stride,"
                " padding and pooling",
                f"choose the data that it was trained on with --data, or type --arch {chains.EXAMPLE}",
            )
        if number > limit:
            raise refusal(
                self.path,
                f"is a chain ({self._listed()}) that {number:,} strides, paddings and kinds of pooling fit",
                f"type the one it was trained with, like --arch {chains.EXAMPLE}",
            )
        return candidates

    def _candidate(self, chain: Chain, text: str, images: Split) -> _Candidate:
        return _Candidate(chain, text, Answers.of(self._logits(chain, text, images.x), images.y))

    def _logits(self, chain: Chain, text: str, x: Tensor) -> Tensor:
        network = chains.build(chain, self.layers.shapes, self.images.shape)
        names = self.layers.place(chain).names
        network.load_state_dict({key: self.contents.tensors[name].float() for key, name in names.items()}, strict=False)
        whole = normalised(network, text, self.images.shape[0]).eval()
        return torch.cat([whole(part) for part in torch.split(x, FIRST)])

    def _same(self, one: _Candidate, other: _Candidate) -> bool:
        """Whether two candidates are the same function, on clean images and on noise."""
        shape = self.images.shape
        size = shape[0] * shape[1] * shape[2]
        noise = uniform(keyed(0, torch.arange(NOISE), restart=0), 0, size).view(-1, *shape)
        x = torch.cat([self.images.x[:FIRST], noise])
        return same_function(*(self._logits(c.chain, c.normalisation, x) for c in (one, other)))

    def _assumed(self, best: _Candidate) -> list[str]:
        """What is less usual than ReLU and pixels in [0, 1], and as good. Raises UserError if anything is better."""
        others = []
        for (other,) in ACTIVATIONS:
            chain = tuple(other if layer.kind == "relu" else layer for layer in best.chain)
            if chain != best.chain:
                others.append((str(other), self._candidate(chain, best.normalisation, self.images)))
        if best.normalisation == "none" and len(self.normalisations) > 1:
            others.append((f"--normalise {BYTES}", self._candidate(best.chain, BYTES, self.images)))
        better = [(name, other) for name, other in others if other.answers.more_correct(best.answers)]
        if better:
            name, candidate = min(better, key=lambda one: one[1].answers.rank)
            raise self._unclear(f"{name} is better than the usual choice", [candidate, best])
        return [name for name, candidate in others if not best.answers.clearly_better(candidate.answers)]

    def _inferred(self, best: _Candidate, also: Sequence[str]) -> Inferred:
        alone = len(self.normalisations) == 1
        text, relu = chains.written(best.chain), any(layer.kind == "relu" for layer in best.chain)
        normalisation = "no normalisation" if best.normalisation == "none" else f"normalisation {best.normalisation}"
        note = (
            f"chain: {chains.about(best.chain, self.layers.shapes)}; {'' if alone else normalisation + ' '}inferred:"
            f" clean accuracy {best.answers.accuracy:.1%} on {counted(len(self.images), 'image')}; {best.typed} is the"
            " same"
        )
        caution = "the layers of the network were inferred from clean images" + (
            ", and ReLU is assumed" if relu else ""
        )
        caution += f"; on these images {', '.join(also)} would be about as good" if also else ""
        caution += "; if your network has others, the number is not its own: type them with --arch"
        return Inferred(text, best.normalisation, (note,), caution)

    def _unclear(self, what: str, candidates: Sequence[_Candidate]) -> UserError:
        first = sorted(candidates, key=lambda candidate: candidate.answers.rank)[:SHOWN]
        listed = ", or ".join(f"{c.typed} ({c.answers.accuracy:.1%})" for c in first)
        more = f" or one of {len(candidates) - SHOWN:,} others" if len(candidates) > SHOWN else ""
        number = len(candidates[0].answers.correct)
        return refusal(
            self.path,
            f"is a chain of {self._listed()}, and {what} on {counted(number, 'clean image')}",
            f"type the one it was trained with: {listed}{more}",
        )

    def _listed(self) -> str:
        return self.layers.about


def inferred_normalisation(network: nn.Module, images: Split, device: torch.device) -> Inferred:
    """The usual normalisation that is clearly better than pixels in [0, 1] and all others, if there is one."""

    def answers(texts: Sequence[str], part: Split) -> dict[str, Answers]:
        wait = Wait(f"comparing {len(texts)} normalisations on {len(part)} clean images", len(texts) * len(part))
        given = {text: normalised(network, text, images.shape[0]).eval().to(device) for text in texts}
        return {text: Answers.of(logits(module, part.x, device, wait), part.y) for text, module in given.items()}

    with torch.no_grad(), arithmetic(device):
        texts = usual_normalisations(images.name, images.shape)
        part = images.take(range(min(FIRST, len(images))))
        found = answers(texts, part)
        better = [t for t in texts if found[t].correct.sum() > found["none"].correct.sum() + MARGIN]
        if better:
            part = images.take(range(min(NORMALISED, len(images))))
            found = answers(["none", *better], part)
        better.sort(key=lambda text: found[text].rank)
        listed = ", ".join(f"{text} {found[text].accuracy:.1%}" for text in (*better, "none"))
        if not better:
            return Inferred("", None, (f"no usual one is clearly better on {counted(len(part), 'clean image')}",))
        best, rivals = better[0], ["none", *better[1:]]
        unclear = [text for text in rivals if not found[best].clearly_better(found[text])]
        if unclear or not found[best].far_above_guessing(part.y):
            note = f"no usual one is clearly the best on {counted(len(part), 'clean image')} ({listed})"
            caution = f"the network gets pixels in [0, 1], which need not be right: {note}; --normalise sets another"
            doubtful = found[best].more_correct(found["none"])
            return Inferred("", None, (note,), caution if doubtful else "")
    note = (
        f"normalisation {best} inferred: clean accuracy {found[best].accuracy:.1%} on {counted(len(part), 'image')},"
        f" against {found['none'].accuracy:.1%} with pixels in [0, 1]; --normalise none switches it off"
    )
    return Inferred("", best, (note,), f"normalisation {best} was inferred from clean images; --normalise sets another")


def logits(module: nn.Module, x: Tensor, device: torch.device, wait: Wait) -> Tensor:
    """The module's logits for the images, in float32 on the CPU."""
    found = []
    for part in torch.split(x, BATCH):
        found.append(module(part.to(device)).float().cpu())
        wait.passed(len(part))
    return torch.cat(found)


def _not_beaten(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The candidates than which the best one is not clearly better."""
    best = min(candidates, key=lambda candidate: candidate.answers.rank)
    return [c for c in candidates if not best.answers.clearly_better(c.answers)]
