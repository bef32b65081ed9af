"""Random nodes of operators that read entries by their indices, or change the size of images."""

import numpy as np

from .cases import Case, floats, image, ints, some, unary


def gather(r, opset):
    x, axis = floats(r, 2, 3, 4), some(r, 0, 1, 2, -1)
    indices = some(r, ints(0), np.array(1, dtype="int64"), ints(1, 0, 1), np.array([[0, 1], [1, 1]]))
    if opset >= 11 and r.random() < 0.5:
        indices = -1 - indices
    return Case(x, [indices], {"axis": axis})


def gather_places(r, opset):
    x = floats(r, 2, 3, 4)
    if opset >= 12 and r.random() < 0.4:
        return Case(x, [some(r, ints([[0], [2]], [[1], [-1]]), ints([0, 1], [2, -1]))], {"batch_dims": 1})
    return Case(x, [some(r, ints([1]), ints([0, 2], [1, -1]), ints([[0, 1, 2]], [[1, -3, 0]]))])


def gather_elements(r, opset):
    axis = some(r, 0, 1, -1)
    shape = {0: (3, 3, 4), 1: (2, 5, 4), -1: (2, 3, 2)}[axis]
    return Case(floats(r, 2, 3, 4), [r.integers(-2, 2, size=shape)], {"axis": axis})


def scatter_places(r, opset):
    x = floats(r, 2, 3, 4)
    more = {"reduction": "add"} if opset >= 16 and r.random() < 0.5 else {}
    indices, shape = some(r, (ints([0, 2], [1, -1]), (2, 4)), (ints([[0, 1, 2]], [[1, 0, 0]]), (2, 1)))
    return Case(x, [indices, floats(r, *shape)], more)


def scatter_elements(r, opset):
    x = floats(r, 2, 3, 4)
    kinds = ["none", *(["add", "mul"] if opset >= 16 else []), *(["min", "max"] if opset >= 18 else [])]
    kind = some(r, *kinds)
    indices = ints([[0, 2, -2, 0]], [[1, 0, 0, 2]])
    return Case(x, [indices, floats(r, 2, 1, 4)], {"axis": 1, **({} if kind == "none" else {"reduction": kind})})


def one_hot(r, opset):
    return Case(np.round(floats(r, 2, 3)), [ints(4), floats(r, 2)], {"axis": some(r, -1, 0, 1)})


def top_k(r, opset):
    x, axis = np.round(floats(r, 2, 5, 6)), some(r, 1, -1)
    if opset < 10:
        return Case(x, attributes={"axis": axis, "k": 3}, outputs=2)
    more = {"largest": int(r.integers(2))} if opset >= 11 else {}
    return Case(x, [ints(3)], {"axis": axis, **more}, outputs=2)


def cumulative(r, opset):
    return Case(image(r), [ints(some(r, 1, -1))[0]], {"exclusive": int(r.integers(2)), "reverse": int(r.integers(2))})


def triangle(r, opset):
    return Case(image(r), some(r, [], [ints(-2)[0]], [ints(1)[0]]), {"upper": int(r.integers(2))})


def resize(r, opset):
    x = floats(r, 2, 3, some(r, 5, 6), some(r, 7, 8))
    mode = some(r, "nearest", "linear") if opset < 11 else some(r, "nearest", "linear", "cubic")
    factors = [1.0, 1.0, some(r, 2.0, 0.5, 1.5), some(r, 2.0, 0.4, 1.0)]
    if opset < 11:
        return Case(x, [np.array(factors, "float32")], {"mode": mode})
    places = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    places += ["half_pixel_symmetric"] if opset >= 19 else []
    about = {"mode": mode, "coordinate_transformation_mode": some(r, *places)}
    if mode == "nearest":
        about["nearest_mode"] = some(r, "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic" and r.random() < 0.5:
        about |= {"cubic_coeff_a": -0.5, "exclude_outside": int(r.integers(2))}
    if r.random() < 0.5:
        none = np.zeros(0, "float32")
        return Case(x, [none, none, ints(2, 3, some(r, 3, 9), some(r, 4, 11))], about)
    if opset >= 18 and r.random() < 0.5:
        return Case(x, [None, np.array(factors[2:], "float32")], {**about, "axes": [2, 3]})
    return Case(x, [np.zeros(0, "float32"), np.array(factors, "float32")], about)


def upsample(r, opset):
    scales = [1.0, 1.0, 2.0, 3.0]
    mode = {"mode": some(r, "nearest", "linear")}
    return (
        Case(image(r), [np.array(scales, "float32")], mode)
        if opset >= 9
        else Case(image(r), [], {**mode, "scales": scales})
    )


def sampled(r, opset):
    linear = "bilinear" if opset < 20 else "linear"
    about = {"mode": some(r, linear, "nearest"), "padding_mode": some(r, "zeros", "border", "reflection")}
    return Case(
        floats(r, 2, 3, 5, 6),
        [floats(r, 2, 4, 3, 2, low=-1.2, high=1.2)],
        {**about, "align_corners": int(r.integers(2))},
    )


def conv_transpose(r, opset):
    rank, group = int(r.integers(1, 3)), some(r, 1, 2)
    ins, outs = group * int(r.integers(1, 3)), int(r.integers(1, 3))
    kernel = [int(n) for n in r.integers(2, 4, size=rank)]
    about = {"group": group, "strides": [2] * rank, "output_padding": [int(r.integers(2))] * rank}
    about |= some(r, {}, {"pads": [int(n) for n in r.integers(0, 2, size=2 * rank)]}, {"pads": [1] * 2 * rank})
    about |= some(r, {}, {"dilations": [2] * rank})
    x = floats(r, 2, ins, *(int(n) for n in r.integers(5, 8, size=rank)))
    return Case(x, [floats(r, ins, outs, *kernel), *some(r, [], [floats(r, outs * group)])], about)


def remainder(r, opset):
    return Case(floats(r, 2, 3, 4), [floats(r, 4, low=0.5)], {"fmod": 1})


def like(r, opset):
    return Case(image(r), [floats(r, 1)])


def bounds(r):
    return float(r.uniform(0.1, 1.0))


MORE = {
    "Atan": unary(),
    "CastLike": like,
    "ConvTranspose": conv_transpose,
    "CumSum": cumulative,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_places,
    "GridSample": sampled,
    "Mod": remainder,
    "OneHot": one_hot,
    "Resize": resize,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_places,
    "Shrink": unary(lambd=bounds, bias=bounds),
    "Tan": unary(),
    "TopK": top_k,
    "Trilu": triangle,
    "Upsample": upsample,
}
"""By the operator, and what distinguishes several cases of one."""
