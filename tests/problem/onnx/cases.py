"""Random nodes of every operator: the input, the other inputs, and the attributes."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Case:
    """A node whose first input is `x`. Other inputs are constants; `None` is left out, "x" is the image once more."""

    x: np.ndarray
    others: list = field(default_factory=list)
    attributes: dict = field(default_factory=dict)
    outputs: int = 1
    first: bool = True  # whether x is the first input


def floats(r, *shape, low=-2.0, high=2.0):
    return r.uniform(low, high, size=shape).astype("float32")


def ints(*values):
    return np.array(values, dtype="int64")


def image(r):
    return floats(r, 2, some(r, 1, 3, 4), *(int(n) for n in r.integers(5, 9, size=2)))


def some(r, *values):
    return values[int(r.integers(len(values)))]


def unary(**attributes):
    return lambda r, opset: Case(image(r), attributes={k: v(r) for k, v in attributes.items() if r.random() < 0.7})


def positive(r, opset):
    return Case(np.abs(image(r)) + 0.1)


def binary(r, opset, low=-2.0):
    x = image(r)
    shape = some(r, (1,), x.shape[1:], (x.shape[1], 1, 1), x.shape[2:], ())
    other = some(r, "x", floats(r, *shape, low=low))
    return Case(x, [other], first=bool(r.integers(2)) or isinstance(other, str))


def division(r, opset):
    case = binary(r, opset, low=0.5)
    case.x = np.abs(case.x) + 0.5
    return case


def variadic(r, opset):
    x = image(r)
    same = x.shape[1:] if opset < 8 else (x.shape[1], 1, 1)
    return Case(x, [floats(r, *((2, *same) if opset < 8 else same)), "x"][: int(r.integers(0, 3))])


def clip(r, opset):
    low, high = sorted(floats(r, 2).tolist())
    if opset < 11:
        return Case(image(r), attributes=some(r, {"min": low, "max": high}, {"min": low}, {"max": high}, {}))
    a, b = np.float32(low), np.float32(high)
    return Case(image(r), some(r, [a, b], [a], [None, b], []))


def prelu(r, opset):
    x = image(r)
    return Case(x, [floats(r, *some(r, (x.shape[1], 1, 1), (1,), (1, 1)))])


def conv(r, opset):
    rank = int(r.integers(1, 4))
    group = some(r, 1, 1, 2)
    ins, outs = group * int(r.integers(1, 3)), group * int(r.integers(1, 3))
    kernel = [int(n) for n in r.integers(1, 4, size=rank)]
    x = floats(r, 2, ins, *(int(n) for n in r.integers(6, 10, size=rank)))
    attributes = {"group": group, "strides": [int(n) for n in r.integers(1, 4, size=rank)]}
    attributes |= some(r, {"kernel_shape": kernel}, {})
    auto = some(r, "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", None, None)
    if auto is None or auto == "NOTSET":
        attributes["pads"] = [int(n) for n in r.integers(0, 3, size=2 * rank)]
        attributes["dilations"] = [int(n) for n in r.integers(1, 3, size=rank)]
    if auto is not None:
        attributes["auto_pad"] = auto
    weights = [floats(r, outs, ins // group, *kernel)]
    return Case(x, weights + some(r, [], [floats(r, outs)]), attributes)


def gemm(r, opset):
    k, n = (int(n) for n in r.integers(1, 6, size=2))
    turned = int(r.integers(2))
    attributes = {"transB": turned, "alpha": 0.5, "beta": 1.5} if r.random() < 0.5 else {"transB": turned}
    bias = some(r, None, floats(r, n), floats(r, 1, n), floats(r, 1), floats(r, 2, n))
    others = [floats(r, *((n, k) if turned else (k, n)))] + ([] if bias is None and opset >= 11 else [bias])
    if others[-1] is None:
        others[-1] = floats(r, n)
    return Case(floats(r, 2, k), others, attributes)


def gemm_turned(r, opset):
    return Case(floats(r, 2, 2), ["x", floats(r, 2)], {"transA": 1, "transB": int(r.integers(2))})


def matmul(r, opset):
    x = image(r)
    other = some(r, floats(r, x.shape[3], 3), floats(r, x.shape[1], x.shape[3], 3), floats(r, x.shape[3]))
    return Case(x, [other]) if r.random() < 0.7 else Case(x, [floats(r, 3, x.shape[2])], first=False)


def batch_norm(r, opset):
    x = some(r, image(r), floats(r, 2, 3), floats(r, 2, 3, 5))
    n = x.shape[1]
    others = [floats(r, n), floats(r, n), floats(r, n), floats(r, n, low=0.1)]
    return Case(x, others, some(r, {}, {"epsilon": 1e-2, "momentum": 0.3}))


def layer_norm(r, opset):
    x, axis = image(r), some(r, -1, -2, 1, 2, 3)
    shape = x.shape[axis:]
    return Case(x, [floats(r, *shape), *some(r, [], [floats(r, *shape)])], {"axis": axis, "epsilon": 1e-3})


def rms_norm(r, opset):
    x, axis = image(r), some(r, -1, 2)
    return Case(x, [floats(r, *x.shape[axis:])], {"axis": axis})


def instance_norm(r, opset):
    x = image(r)
    return Case(x, [floats(r, x.shape[1]), floats(r, x.shape[1])], {"epsilon": 1e-3})


def group_norm(r, opset):
    x = floats(r, 2, 6, 5, 5)
    return Case(x, [floats(r, 6), floats(r, 6)], {"num_groups": some(r, 1, 2, 3, 6)})


def pool(r, opset, average=False):
    rank = int(r.integers(1, 4))
    kernel = [int(n) for n in r.integers(2, 4, size=rank)]
    x = floats(r, 2, 3, *(int(n) for n in r.integers(6, 10, size=rank)))
    attributes = {"kernel_shape": kernel, "strides": [int(n) for n in r.integers(1, 4, size=rank)]}
    auto = some(r, "SAME_UPPER", "SAME_LOWER", "VALID", None, None, None)
    if auto is not None:
        attributes |= {"auto_pad": auto, "strides": [min(n, 2) for n in attributes["strides"]]}
    else:
        attributes["pads"] = [int(n) for n in r.integers(0, 2, size=2 * rank)]
        if opset >= 10 and r.random() < 0.4:
            attributes["pads"], attributes["ceil_mode"] = attributes["pads"][:rank] * 2, 1
    if average:
        attributes["count_include_pad"] = int(r.integers(2))
    elif opset >= 10 and auto is None and r.random() < 0.3:
        attributes["dilations"] = [int(n) for n in r.integers(1, 3, size=rank)]
    return Case(x, attributes=attributes)


def reshape(r, opset):
    x = floats(r, 2, 3, 4, 5)
    shape = some(r, (0, -1), (2, 60), (-1, 5), (0, 0, 20), (0, 3, -1, 5), (2, 3, 4, 5, 1), (6, 20))
    return Case(x, [ints(*shape)], {"allowzero": 0} if opset >= 14 and r.random() < 0.5 else {})


def axes_of_one(r, opset):
    x, axes = floats(r, 2, 1, 3, 1), some(r, [1], [3], [-1], [1, 3], [-3, -1])
    if r.random() < 0.2:
        return Case(x)
    return Case(x, [ints(*axes)]) if opset >= 13 else Case(x, attributes={"axes": axes})


def new_axes(r, opset):
    x = floats(r, 2, 3, 4)
    axes = some(r, [0], [3], [1, 4], [0, 4]) if opset < 11 else some(r, [0], [-1], [1, 4], [-1, 0])
    return Case(x, [ints(*axes)]) if opset >= 13 else Case(x, attributes={"axes": axes})


def concat(r, opset):
    x, axis = image(r), some(r, 0, 1, 2, 3)
    return Case(x, ["x", floats(r, *x.shape)][: int(r.integers(1, 3))], {"axis": axis})


def split(r, opset):
    x, axis = floats(r, 2, 6, 4), some(r, 1, -2)
    sizes = some(r, [2, 4], [1, 2, 3], None)
    if sizes is None:
        more = {"num_outputs": 3} if opset >= 18 else {}
        return Case(x, attributes={"axis": axis, **more}, outputs=3)
    if opset >= 13:
        return Case(x, [ints(*sizes)], {"axis": axis}, outputs=len(sizes))
    return Case(x, attributes={"axis": axis, "split": sizes}, outputs=len(sizes))


def slices(r, opset):
    x = floats(r, 2, 5, 6, 7)
    big = 2**31 - 1
    starts, ends, axes = some(
        r,
        ([0, 1], [2, 4], [2, 1]),
        ([1], [big], [3]),
        ([-3], [-1], [2]),
        ([0, 0], [1, -1], None),
        ([5], [2], [1]),
        ([-100], [100], [1]),
    )
    if opset < 10:
        return Case(x, attributes={"starts": starts, "ends": ends, **({} if axes is None else {"axes": axes})})
    if r.random() < 0.5:
        starts, ends, axes, steps = some(
            r, ([0], [6], [2], [2]), ([-1], [-big], [1], [-1]), ([4, 0], [0, 7], [1, 3], [-2, 3]), ([1], [5], [-1], [3])
        )
        return Case(x, [ints(*starts), ints(*ends), ints(*axes), ints(*steps)])
    return Case(x, [ints(*starts), ints(*ends), *([] if axes is None else [ints(*axes)])])


def pad(r, opset):
    x = floats(r, 2, 3, 5, 6)
    mode = some(r, "constant", "reflect", "edge")
    pads = some(r, [0, 0, 1, 2, 0, 0, 2, 1], [0, 0, 0, 1, 0, 0, 0, 3])
    if mode == "constant":
        pads = some(r, pads, [0, 1, 0, 0, 0, 2, 0, 0], [0, 0, -1, 1, 0, 0, 1, -2])
    if opset < 11:
        return Case(x, attributes={"mode": mode, "pads": pads, **({"value": 0.5} if mode == "constant" else {})})
    if opset >= 18 and r.random() < 0.4:
        return Case(x, [ints(1, 2, 2, 1), np.float32(0.5), ints(2, -1)], {"mode": mode})
    return Case(x, [ints(*pads), *([np.float32(0.5)] if mode == "constant" else [])], {"mode": mode})


def reduction(r, opset, since=18):
    x = np.abs(image(r)) + 0.1
    keep = {} if r.random() < 0.3 else {"keepdims": int(r.integers(2))}
    axes = some(r, [1], [2, 3], [-1], [1, 3], None)
    if axes is None:
        empty = {"noop_with_empty_axes": 1} if opset >= since and r.random() < 0.3 else {}
        return Case(x, attributes={**keep, **empty})
    return Case(x, [ints(*axes)], keep) if opset >= since else Case(x, attributes={"axes": axes, **keep})


def softmax(r, opset):
    return Case(image(r), attributes={} if r.random() < 0.3 else {"axis": some(r, 1, 2, 3)})


def lp_norm(r, opset):
    return Case(image(r), attributes={"axis": some(r, 1, -1), "p": some(r, 1, 2)})


def arg(r, opset):
    more = {"select_last_index": int(r.integers(2))} if opset >= 12 else {}
    return Case(np.round(image(r)), attributes={"axis": some(r, 1, 2), "keepdims": int(r.integers(2)), **more})


def lrn(r, opset):
    return Case(floats(r, 2, 7, 5, 5), attributes={"size": some(r, 1, 3, 5), "alpha": 0.5, "beta": 0.6, "bias": 2.0})


def expand(r, opset):
    x = floats(r, 2, 1, 3)
    return Case(x, [ints(*some(r, (2, 4, 3), (1, 4, 1), (5, 2, 1, 3), (1,)))])


def tile(r, opset):
    return Case(floats(r, 2, 3, 4), [ints(1, 2, 3)])


def where(r, opset):
    x = image(r)
    return Case(x, [r.random(x.shape[1:]) < 0.5, floats(r, x.shape[1], 1, 1)])


def transpose(r, opset):
    return Case(floats(r, 2, 3, 4), attributes=some(r, {}, {"perm": [1, 0, 2]}, {"perm": [2, 0, 1]}))


def flatten(r, opset):
    return Case(image(r), attributes=some(r, {}, {"axis": 0}, {"axis": 2}, {"axis": 4}))


def blocks(r, opset):
    more = {"mode": some(r, "DCR", "CRD")} if opset >= 11 else {}
    return Case(floats(r, 2, 8, 5, 5), attributes={"blocksize": 2, **more})


def einsum(r, opset):
    return Case(floats(r, 2, 3, 4), [floats(r, 4, 5)], {"equation": "bij,jk->bki"})


def alpha(r):
    return float(r.uniform(0.1, 1.0))


CASES = {
    **dict.fromkeys(("Abs", "Ceil", "Erf", "Exp", "Floor", "Identity", "Neg", "Relu", "Round", "Sigmoid"), unary()),
    **dict.fromkeys(("Cos", "Sin", "Sign", "Softplus", "Softsign", "Tanh", "HardSwish", "Mish", "Dropout"), unary()),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), unary()),
    **dict.fromkeys(("Sqrt", "Log", "Reciprocal"), positive),
    **dict.fromkeys(("Add", "Sub", "Mul"), binary),
    **dict.fromkeys(("Div", "Pow"), division),
    **dict.fromkeys(("Max", "Min", "Mean", "Sum"), variadic),
    **dict.fromkeys(("Celu", "Elu", "LeakyRelu", "ThresholdedRelu", "Swish"), unary(alpha=alpha)),
    "ArgMax": arg,
    "ArgMin": arg,
    "AveragePool": lambda r, opset: pool(r, opset, average=True),
    "BatchNormalization": batch_norm,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "DepthToSpace": blocks,
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": flatten,
    "Gelu": lambda r, opset: Case(image(r), attributes=some(r, {}, {"approximate": "tanh"})),
    "Gemm": gemm,
    "Gemm, turned": gemm_turned,
    "GroupNormalization": group_norm,
    "HardSigmoid": unary(alpha=alpha, beta=alpha),
    "InstanceNormalization": instance_norm,
    "LRN": lrn,
    "LayerNormalization": layer_norm,
    "LogSoftmax": softmax,
    "LpNormalization": lp_norm,
    "MatMul": matmul,
    "MaxPool": pool,
    "PRelu": prelu,
    "Pad": pad,
    "RMSNormalization": rms_norm,
    **{f"Reduce{kind}": reduction for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod")},
    "ReduceSum": lambda r, opset: reduction(r, opset, since=13),
    "ReduceSumSquare": reduction,
    "Reshape": reshape,
    "Selu": unary(alpha=alpha, gamma=alpha),
    "Slice": slices,
    "Softmax": softmax,
    "SpaceToDepth": lambda r, opset: Case(floats(r, 2, 2, 4, 6), attributes={"blocksize": 2}),
    "Split": split,
    "Squeeze": axes_of_one,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": new_axes,
    "Where": where,
}
"""By the operator, and what distinguishes several cases of one."""
