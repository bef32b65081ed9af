"""ONNX files that the tests make, and what ONNX Runtime answers for them."""

import contextlib

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from robench.problem.checkpoints.onnx.forward_only import ForwardOnly
from robench.problem.checkpoints.onnx.importing import import_onnx

IMAGE = ("N", 1, 28, 28)


def graph(nodes, constants, *, sizes=IMAGE, outputs=("y",), kind=TensorProto.FLOAT, out=("N", 10), more_inputs=()):
    """A graph from the input `x` to these outputs."""
    return helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, sizes), *more_inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, out) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )


def model(nodes, constants=None, *, opset=17, domains=(), **about):
    """A file with such a graph, in the format that ONNX Runtime reads."""
    versions = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph(nodes, constants or {}, **about), opset_imports=versions)
    made.ir_version = 8 if opset <= 19 else 10
    return made


def written(made, folder):
    """The path of the file."""
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def imported(made, folder):
    """The module that robench makes of the file."""
    return import_onnx(written(made, folder), ForwardOnly)[0].network


def runtime(made, x):
    """What ONNX Runtime answers, without its own optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def ours(network, x):
    """What the module answers, as a list of arrays."""
    with torch.no_grad():
        answer = network(torch.from_numpy(x))
    return [part.numpy() for part in (answer.values() if isinstance(answer, dict) else [answer])]


def dense(opset=17, sizes=("N", 1, 28, 28), **about):
    """A small sound classifier of images of these sizes, square and of 28x28 unless named."""
    side = (sizes[2] - 5) // 2 + 1 if isinstance(sizes[2], int) else 12
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(4, sizes[1] if isinstance(sizes[1], int) else 1, 5, 5)).astype("float32"),
        "b": random.normal(size=4).astype("float32"),
        "v": random.normal(size=(10, 4 * side * side)).astype("float32") / 20,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"], transB=1),
    ]
    return model(nodes, weights, opset=opset, sizes=sizes, **about)


def versions(operator, newest):
    """The versions of ONNX, up to one, in which the meaning of an operator changed; the oldest is 7."""
    found = {}
    for opset in range(7, newest + 1):
        with contextlib.suppress(onnx.defs.SchemaError):
            schema = onnx.defs.get_schema(operator, opset, "")
            if not schema.deprecated:
                found.setdefault(schema.since_version, opset)
    return list(found.values())
