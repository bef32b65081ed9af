"""Counts the multiply-adds of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class MultiplyAdds(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of all convolutions and products of matrices while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounded = self.total = 0  # in bfloat16, and all

    def add(self, rounded: int, total: int) -> None:
        """Counts what another process has computed."""
        self.rounded += rounded
        self.total += total

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if operations := flop_registry.get(func.overloadpacket):
            count = operations(*args, **(kwargs or {}), out_val=output) // 2
            self.add(count * (args[0].dtype == torch.bfloat16), count)
        return output


# torch wraps the method so that its compiler leaves it alone, and would import the compiler, which takes a second, to
# do so. Nothing is compiled here.
if _method := getattr(MultiplyAdds.__torch_dispatch__, "__wrapped__", None):
    _method.__dynamo_disable = _method
