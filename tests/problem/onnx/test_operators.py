"""Every operator computes what ONNX Runtime computes, in every version of ONNX that robench reads."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from robench.problem.checkpoints.onnx.operators import OPERATORS

from . import cases
from .graphs import imported, model, ours, runtime, versions
from .more_cases import MORE

CASES = {**cases.CASES, **MORE}
NEWEST = 24 if onnxruntime.__version__ >= "1.24" else 23  # which ONNX Runtime reads; Python 3.10 has an older one
IN_CHAINS = {
    *("And", "Cast", "Constant", "ConstantOfShape", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("IsInf", "IsNaN", "Not", "Or", "Range", "Shape", "Size", "Xor"),
}
"""The operators of other types than float, which the chains below test."""


def of_case(operator, case, opset):
    """A file with the node of a case."""
    names, constants = [], {}
    for i, other in enumerate(case.others):
        if isinstance(other, np.ndarray | np.generic):
            constants[f"c{i}"] = np.asarray(other)
        names.append("" if other is None else "x" if isinstance(other, str) else f"c{i}")
    outputs = [f"y{i}" for i in range(case.outputs)]
    names = ["x", *names] if case.first else [*names, "x"]
    if operator == "Where":
        names = [names[1], "x", names[2]]
    nodes = [helper.make_node(operator, names, outputs, **case.attributes)]
    if operator == "TopK":  # its second output are whole numbers
        nodes = [helper.make_node(operator, names, ["y0", "i"], **case.attributes)]
        nodes.append(helper.make_node("Cast", ["i"], ["y1"], to=TensorProto.FLOAT))
    if operator == "OneHot":  # of whole numbers
        nodes = [helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64)]
        nodes.append(helper.make_node(operator, ["i", *names[1:]], outputs, **case.attributes))
    if operator.startswith("Arg"):
        nodes = [helper.make_node(operator, names, ["i"], **case.attributes)]
        nodes.append(helper.make_node("Cast", ["i"], outputs, to=TensorProto.FLOAT))
    return model(nodes, constants, opset=opset, sizes=["N", *case.x.shape[1:]], outputs=outputs, out=None)


def test_every_operator_has_a_case():
    assert {name.partition(",")[0] for name in CASES} | IN_CHAINS == set(OPERATORS)


@pytest.mark.costly
@pytest.mark.parametrize("name", [name for name in CASES if versions(name.partition(",")[0], NEWEST)])
def test_an_operator_computes_what_onnx_runtime_computes(name, tmp_path):
    operator = name.partition(",")[0]
    compared = 0
    for opset in versions(operator, NEWEST):
        for number in range(5):
            random = np.random.default_rng([number, opset, *name.encode()])
            case = CASES[name](random, opset)
            made = of_case(operator, case, opset)
            try:
                expected = runtime(made, case.x)
            except Exception as error:
                if "NOT_IMPLEMENTED" in str(error):
                    continue  # ONNX Runtime has not every version of every operator
                raise
            answer = ours(imported(made, tmp_path), case.x)
            for here, there in zip(answer, expected, strict=True):
                assert here.shape == there.shape, (opset, number, case)
                np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5, err_msg=f"{opset} {number} {case}")
            compared += 1
    assert compared >= 4 or NEWEST < 24


def test_the_documentation_lists_every_operator():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "checkpoints.md").read_text()
    listed = page.partition("<!-- ONNX operators -->")[2].partition("<!-- end of ONNX operators -->")[0]
    assert [name.strip() for name in listed.replace("\n", " ").split(",")] == sorted(OPERATORS)
