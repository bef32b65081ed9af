"""Models whose smallest adversarial perturbation is known in closed form, box included."""

from robench.doctor.exact_distances import SHAPE, Linear, classifier, distance, fraction, toy

__all__ = ["SHAPE", "Linear", "classifier", "distance", "fraction", "toy"]
