"""Steps for some rows of a batch: on a CPU the other rows are not computed."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from jaxtyping import Int
from torch import Tensor

from ..problem.shapes import Mask
from .attack import State, where_rows

S = TypeVar("S", bound=State)
T = TypeVar("T")


def rows_where(mask: Mask) -> Int[Tensor, "L"] | None:
    """The rows of the mask; None if the caller must compute all rows.

    So it is on a GPU, where reading the mask would stall the device and a captured graph needs one shape. A single row
    comes twice: with several threads torch adds up a lone row in another order than one among others.
    """
    if mask.device.type != "cpu":
        return None
    rows = mask.nonzero().flatten()
    if rows.numel() == mask.numel():
        return None
    return rows.repeat(2) if rows.numel() == 1 else rows


def step_where(mask: Mask, step: Callable[..., S], state: S, *others: Any) -> S:
    """The state after `step(state, *others)` where the mask holds; `others` are tensors or dataclasses of tensors."""
    rows = rows_where(mask)
    if rows is None:
        return where_rows(mask, step(state, *others), state)
    if not rows.numel():
        return state
    before = some(state, rows)
    after = step(before, *(some(each, rows) for each in others))
    changed = (f.name for f in fields(state) if getattr(after, f.name) is not getattr(before, f.name))
    new: dict[str, Any] = {name: getattr(state, name).index_copy(0, rows, getattr(after, name)) for name in changed}
    return replace(state, **new)


def some(each: T, rows: Int[Tensor, "L"]) -> T:
    """These rows of a tensor, or of every tensor of a dataclass."""
    whole: Any = each
    if isinstance(whole, Tensor):
        return cast(T, whole.index_select(0, rows))
    return type(each)(**{f.name: some(getattr(each, f.name), rows) for f in fields(whole)})
