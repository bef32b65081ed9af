"""A model has the same outcomes from every kind of file that `benchmarks/export_matrix.py` writes."""

import importlib
import warnings
from pathlib import Path

import pytest

import robench
from robench.problem import checkpoints

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def matrix():
    """The names of the benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return vars(importlib.import_module("export_matrix"))


@pytest.fixture(scope="module")
def outcomes(matrix, tmp_path_factory):
    """The outcomes of a file, or of a bundled model, by example and threat."""
    folder = tmp_path_factory.mktemp("runs")

    def of(model):
        run = folder / f"{len(list(folder.iterdir()))}.robench"
        options = {"threats": ["linf:0.15", "l2:1.5"], "attacks": ["pgd(steps=5)"], "examples": 12}
        robench.evaluate(str(model), "digits", run=run, precision="float32", **options)
        return matrix["outcomes"](run)

    return of


@pytest.fixture(scope="module")
def reference(outcomes):
    found = outcomes("digits-nat")
    assert {"broken", "standing"} <= set(found.values())
    return found


@pytest.mark.costly
@pytest.mark.parametrize(
    "form",
    [
        *("safetensors", "state dict", "Lightning", "TorchScript, traced", "TorchScript, scripted", "torch.export"),
        *("ONNX", "ONNX, dynamo"),
    ],
)
def test_a_model_has_the_same_outcomes_from_this_file(form, matrix, outcomes, reference, tmp_path):
    classifier = checkpoints.load("digits-nat").classifier
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters
        path = matrix["written"](form, classifier.module, tmp_path, classifier.shape)
    assert outcomes(path) == reference


def test_every_form_of_the_benchmark_is_tested(matrix):
    marks = test_a_model_has_the_same_outcomes_from_this_file.pytestmark
    (marked,) = (mark for mark in marks if mark.name == "parametrize")
    assert set(marked.args[1]) == set(matrix["FORMS"])
