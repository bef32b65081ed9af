"""The chains that numbered layers may be: strides, paddings and pooling that fit the dense layers.

The gaps in the numbering show where layers without weights lie. What fills a gap is an activation, pooling, flatten and
dropout, in the usual order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from ...errors import UserError
from ..architectures.chain import Chain, Flow, Layer, Shape, Window, module_of, parse
from .numbered import NumberedLayer

POOLS = parse("maxpool2,maxpool3/2,maxpool3/2p1,maxpool3,maxpool4,avgpool2,avgpool3/2,avgpool4")
"""Pooling that is tried where the numbering has room for it, the most usual first."""
RELU, FLATTEN, GAP = Layer("relu"), Layer("flatten"), Layer("gap")


@dataclass(frozen=True)
class Candidates:
    """All chains of these layers, for images of `shape`, with ReLU."""

    layers: tuple[NumberedLayer, ...]
    shape: Shape

    def count(self) -> int:
        """Their number."""
        known: dict[tuple[int, Flow], int] = {}

        def below(stage: int, flow: Flow) -> int:
            if stage == len(self.layers):
                return int(flow.size is None)
            if (stage, flow) not in known:
                known[stage, flow] = 0
                known[stage, flow] = sum(below(stage + 1, after) for _, after in self._continued(stage, flow))
            return known[stage, flow]

        return below(0, self._start)

    def chains(self) -> Iterator[Chain]:
        """Each of them, the most usual first."""
        for chain, _ in self._walked(0, self._start, None, (), {}):
            yield chain

    def logits(self, images: Tensor, weights: Sequence[dict[str, Tensor]]) -> Iterator[tuple[Chain, Tensor]]:
        """Each of them with its logits, (N, K). Layers that several chains begin with are computed once."""
        for chain, values in self._walked(0, self._start, images, (), {}, weights):
            assert values is not None, "images were given"
            yield chain, values

    @property
    def _start(self) -> Flow:
        return Flow(self.shape[0], (self.shape[1], self.shape[2]))

    def _walked(
        self,
        stage: int,
        flow: Flow,
        x: Tensor | None,
        chain: Chain,
        modules: dict[tuple[int, Layer], nn.Module],
        weights: Sequence[dict[str, Tensor]] = (),
    ) -> Iterator[tuple[Chain, Tensor | None]]:
        if stage == len(self.layers):
            yield chain, x
            return
        for layers, after in self._continued(stage, flow):
            if not self._reaches_end(stage + 1, after):
                continue
            y = x
            if x is not None:
                for layer in layers:
                    y = self._module(stage, layer, flow, modules, weights)(y)
            yield from self._walked(stage + 1, after, y, chain + layers, modules, weights)

    def _module(
        self,
        stage: int,
        layer: Layer,
        flow: Flow,
        modules: dict[tuple[int, Layer], nn.Module],
        weights: Sequence[dict[str, Tensor]],
    ) -> nn.Module:
        key = (stage, layer)
        if key not in modules:
            shapes = self.layers[stage].shapes if layer.weighted else {}
            module = module_of(layer, shapes, flat=flow.size is None)
            if layer.weighted:
                module.load_state_dict(weights[stage], strict=False)
            modules[key] = module.eval()
        return modules[key]

    def _reaches_end(self, stage: int, flow: Flow) -> bool:
        if stage == len(self.layers):
            return flow.size is None
        key = (stage, flow)
        if key not in self._reachable:
            self._reachable[key] = any(self._reaches_end(stage + 1, after) for _, after in self._continued(stage, flow))
        return self._reachable[key]

    @cached_property
    def _reachable(self) -> dict[tuple[int, Flow], bool]:
        return {}

    @cached_property
    def _continuations(self) -> dict[tuple[int, Flow], list[tuple[Chain, Flow]]]:
        return {}

    def _continued(self, stage: int, flow: Flow) -> list[tuple[Chain, Flow]]:
        """The layer with weights of a stage and what may lie behind it, and what the next stage gets."""
        key = (stage, flow)
        if key not in self._continuations:
            found = []
            for layer in self._weighted(stage, flow):
                layers = (FLATTEN, layer) if layer.kind == "fc" and stage == 0 else (layer,)
                for more in self._fillings(stage, spatial=layer.kind != "fc" and flow.size is not None):
                    after: Flow | None = flow
                    for one in layers + more:
                        after = after and _after(after, one, self.layers[stage].shapes if one.weighted else {})
                    if after is not None:
                        found.append((layers + more, after))
            self._continuations[key] = found
        return self._continuations[key]

    def _weighted(self, stage: int, flow: Flow) -> Iterator[Layer]:
        layer = self.layers[stage]
        if layer.kind != "conv":
            yield Layer(layer.kind)
            return
        height, width = layer.shapes["weight"][2:]
        largest = max(height, width)
        paddings = [(p, p) for p in range(max(2, largest - 1) + 1)]
        if height != width:
            paddings.append((height // 2, width // 2))
        for stride in dict.fromkeys(s for s in (1, 2, 3, 4, largest) if s <= max(3, largest)):
            for padding in paddings:
                yield Layer("conv", Window((height, width), (stride, stride), padding))

    def _fillings(self, stage: int, *, spatial: bool) -> list[Chain]:
        """What may lie between the layer with weights of this stage and the next one."""
        if stage + 1 == len(self.layers):
            return [()]
        layer, following = self.layers[stage], self.layers[stage + 1]
        gap, active = following.number - layer.number - 1, (RELU,)
        flat = spatial and following.kind == "fc"
        room = gap - 1 if flat and gap > 1 else gap
        found: list[Chain] = []
        if gap == 0:
            found = [active, ()] if self._without_gaps and following.kind != "bn" else [()]
        else:
            found = [active]
            if spatial and room > 1:
                found += [(RELU, pool) for pool in POOLS]
            if flat and following.shapes["weight"][1] == self._channels(stage):
                found += [(RELU, GAP)] if room > 1 else []
            if (flat and gap == 1) or layer.kind == "bn" or following.kind == "bn":
                found.append(())
        return [(*one, FLATTEN) for one in found] if flat else found

    def _channels(self, stage: int) -> int:
        shapes = self.layers[stage].shapes
        return shapes["running_mean" if self.layers[stage].kind == "bn" else "weight"][0]

    @cached_property
    def _without_gaps(self) -> bool:
        """Whether the layers with weights are numbered one after the other, as in a list of layers."""
        numbers = [layer.number for layer in self.layers]
        return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _after(flow: Flow, layer: Layer, shapes: Mapping[str, Shape]) -> Flow | None:
    try:
        return flow.after(layer, shapes)
    except UserError:
        return None
