"""Whether two classifiers are the same. Does not import torch."""

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Identity:
    """The properties by which two classifiers count as the same, so that evidence on one holds for the other.

    `fingerprint` holds the logits on eight fixed images, so that a changed architecture file is detected
    even if the weights are the same; it is compared up to float noise.
    """

    weights_sha256: str
    architecture: str
    normalisation: str
    fingerprint: tuple[float, ...]

    def same_as(self, other: "Identity") -> bool:
        """Whether weights and settings are equal, and logits are equal up to float noise between machines."""
        settled = (self.weights_sha256, self.architecture, self.normalisation)
        if settled != (other.weights_sha256, other.architecture, other.normalisation):
            return False
        if len(self.fingerprint) != len(other.fingerprint):
            return False
        noise = 1e-3 * max((abs(value) for value in self.fingerprint if isfinite(value)), default=0.0)
        return all(
            abs(ours - theirs) <= max(noise, 1e-33) if isfinite(ours) and isfinite(theirs) else _neither(ours, theirs)
            for ours, theirs in zip(self.fingerprint, other.fingerprint, strict=True)
        )


def _neither(ours: float, theirs: float) -> bool:
    """Whether neither is finite: a network may return NaN for noise."""
    return not isfinite(ours) and not isfinite(theirs)
