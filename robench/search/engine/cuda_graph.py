"""Captures a step once and replays it: on a GPU, a small network's kernels take longer to launch than to run."""

from collections.abc import Callable

import torch
from torch import Tensor

Values = tuple[Tensor, ...]
Run = Callable[[], None]

WARM_UP = 3  # runs before the capture, in which libraries choose their algorithms and constants reach the device


def cuda_graph(run: Run) -> Run:
    """Capture everything that `run` launches. The result launches it again at once, on the same tensors."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Run = graph.replay
    return replay


class Recorded:
    """A function from constants and values of fixed shape to new values, replayed on buffers of its own.

    The replay is compared with the function before it is used. Raises RuntimeError if they differ, and whatever the
    capture raises; the caller then calls the function itself.
    """

    def __init__(
        self,
        step: Callable[[Values, Values], Values],
        constants: Values,
        values: Values,
        record: Callable[[Run], Run] = cuda_graph,
    ):
        wanted = step(constants, values)
        self._constants = tuple(t.clone() for t in constants)
        self._values = tuple(t.clone() for t in values)

        def run() -> None:
            # Copies first: a new value may be one of the buffers that are about to be overwritten.
            new = [t.clone() for t in step(self._constants, self._values)]
            for held, value in zip(self._values, new, strict=True):
                held.copy_(value)

        self._replay = record(run)
        got = self(constants, values, times=1)
        if not all(map(_alike, got, wanted)):
            raise RuntimeError("a recorded step gives other values than the step itself")

    def __call__(self, constants: Values, values: Values, times: int) -> Values:
        """The values after `times` steps."""
        for held, value in zip(self._constants + self._values, constants + values, strict=True):
            held.copy_(value)
        for _ in range(times):
            self._replay()
        return tuple(t.clone() for t in self._values)


def _alike(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
