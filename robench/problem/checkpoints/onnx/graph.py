"""An imported graph as a PyTorch module: its layers in their order, with gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....errors import first_line
from ...memory import out_of_memory
from ...shapes import Inputs
from .layer import BATCH, LARGEST, Outputs

IMAGES = 2  # of which the sizes of all values are computed before the values themselves


@dataclass(frozen=True)
class Step:
    """One layer: the names of the values that it takes and gives, and of those that no later layer takes."""

    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: frozenset[int]
    last: tuple[str, ...]


class Entrance(nn.Module):
    """Gives the images to the graph in the shape that it declares, whose first size is the number of images."""

    def __init__(self, sizes: tuple[int | None, ...], images: int | None):
        super().__init__()
        self.sizes = sizes[1:]
        self.images = images

    def forward(self, x: Inputs) -> Tensor:
        if self.images is not None and len(x) != self.images:
            raise ValueError(f"the graph is for {self.images} images at a time, not for {len(x)}")
        if len(self.sizes) != x.ndim - 1:
            return x.reshape(len(x), *(-1 if size is None else size for size in self.sizes))
        if any(size not in (None, given) for size, given in zip(self.sizes, x.shape[1:], strict=True)):
            wanted = "x".join("?" if size is None else str(size) for size in self.sizes)
            raise ValueError(f"the graph is for images of {wanted}")
        return x


class Graph(nn.Module):
    """A graph. Values on the way are tensors by name; sizes and axes stay on the CPU.

    Before the first images of a shape are computed, the sizes of all values are: too large ones raise ValueError.
    """

    def __init__(
        self,
        entrance: Entrance,
        steps: Sequence[tuple[Step, nn.Module]],
        constants: Mapping[str, Tensor],
        image: str,
        outputs: tuple[str, ...],
    ):
        super().__init__()
        self.entrance = entrance
        self.layers = nn.ModuleList(layer for _, layer in steps)
        self.steps = tuple(step for step, _ in steps)
        self.image, self.outputs = image, outputs
        sizes = {step.inputs[i] for step in self.steps for i in step.numbers if i < len(step.inputs)}
        weights = [name for name in constants if constants[name].is_floating_point() and name not in sizes]
        self.floats = {name: f"constant{i}" for i, name in enumerate(weights)}
        for name, buffer in self.floats.items():
            self.register_buffer(buffer, constants[name])
        self.others = {name: constant for name, constant in constants.items() if name not in self.floats}
        self.measured: set[tuple[int, ...]] = set()

    def forward(self, x: Inputs) -> Tensor | dict[str, Tensor]:
        images = self.entrance(x)
        if tuple(images.shape[1:]) not in self.measured:
            self.measure(images)
            self.measured.add(tuple(images.shape[1:]))
        values: dict[str, Tensor] = {**self._constants(), self.image: images}
        for step, layer in zip(self.steps, self.layers, strict=True):
            given = [values[name] if name else None for name in step.inputs]
            if images.device.type != "cpu":
                given = _together(given, step.numbers, images.device)
            try:
                results: Outputs = layer(*given)
            except Exception as error:  # whatever torch raises
                raise (
                    error if out_of_memory(error) else ValueError(f"{first_line(error)} in the {step.label}")
                ) from None
            results = results if isinstance(results, tuple) else (results,)
            values.update({name: result for name, result in zip(step.outputs, results, strict=False) if name})
            for name in step.last:
                values.pop(name, None)
        if len(self.outputs) == 1:
            return values[self.outputs[0]]
        return {name: values[name] for name in self.outputs}

    def _constants(self) -> dict[str, Tensor]:
        return {**{name: getattr(self, buffer) for name, buffer in self.floats.items()}, **self.others}

    def measure(self, images: Tensor) -> None:
        """Raises ValueError if the values for these images are too large or do not fit, without computing them."""
        limit = LARGEST if self.entrance.images is None else BATCH
        rows = self.entrance.images or min(len(images), IMAGES)
        values = {name: value if name in self.others else unreal(value) for name, value in self._constants().items()}
        values[self.image] = torch.empty((rows, *images.shape[1:]), device="meta")
        alive = 0
        for step, layer in zip(self.steps, self.layers, strict=True):
            try:
                results = sized(layer, [values[name] if name else None for name in step.inputs], step.numbers, limit)
            except Exception as error:  # whatever torch raises
                raise ValueError(f"{first_line(error)} in the {step.label}") from None
            values.update(zip(step.outputs, results, strict=False))
            alive += sum(result.numel() for result in results)
            if alive > limit:
                raise ValueError(f"too large for any machine: {alive:,} numbers in the {step.label}")
            alive -= sum(values.pop(name).numel() for name in step.last if name in values)


def unreal(tensor: Tensor) -> Tensor:
    """A tensor of the same shape without numbers."""
    return torch.empty_like(tensor, device="meta")


def sized(
    layer: nn.Module, given: Sequence[Tensor | None], numbers: frozenset[int], limit: int = LARGEST
) -> tuple[Tensor, ...]:
    """The results of a layer, without numbers if any input that is not at `numbers` lacks them.

    Raises ValueError if the results would have more than `limit` numbers, before they are computed.
    """
    shapes = [tensor if tensor is None or i in numbers else unreal(tensor) for i, tensor in enumerate(given)]
    weights = {name: unreal(tensor) for name, tensor in (*layer.named_parameters(), *layer.named_buffers())}
    with torch.no_grad():
        results = torch.func.functional_call(layer, weights, tuple(shapes))
        results = results if isinstance(results, tuple) else (results,)
        if sum(result.numel() for result in results) > limit:
            raise ValueError(f"too large for any machine: {sum(result.numel() for result in results):,} numbers")
        if any(tensor is not None and tensor.device.type == "meta" for tensor in given):
            return results
        real = layer(*given)
    return real if isinstance(real, tuple) else (real,)


def _together(given: list[Tensor | None], numbers: frozenset[int], device: torch.device) -> list[Tensor | None]:
    """The inputs on one device, if one of them is there: those at `numbers` stay on the CPU."""
    if not any(tensor is not None and tensor.device == device for tensor in given):
        return given
    return [tensor if tensor is None or i in numbers else tensor.to(device) for i, tensor in enumerate(given)]
