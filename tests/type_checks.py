"""The type checks of tests: each argument and each result is checked once, and axes only where shapes are named.

`--jaxtyping-packages` decorates every function of robench with `jaxtyping.jaxtyped`. That checks arguments again with
the result, binds them to their names, and keeps a record of axes for functions without shapes too: half of the time of
the tests. Here the type checker checks a call once, inside `jaxtyped("context")` if the function names a shape, so that
an axis has one size in all its arguments and its result.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from jaxtyping import AbstractArray


def names_a_shape(annotation: Any) -> bool:
    """Whether an array with a shape is part of the annotation. A text may stand for one."""
    if isinstance(annotation, str):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    parts = [*annotation] if isinstance(annotation, list) else get_args(annotation)
    return any(map(names_a_shape, parts))


def checked_once(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator in place of `jaxtyped`, for functions and for the constructors of dataclasses."""

    def decorator(thing: Any = None, *, typechecker: Any = None) -> Any:
        if thing is None:
            return functools.partial(decorator, typechecker=typechecker)
        if inspect.isclass(thing) and typechecker is not None:
            if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
                thing.__init__ = decorator(thing.__init__, typechecker=typechecker)  # type: ignore[misc]
            return thing
        if not inspect.isfunction(thing) or typechecker is None:
            return jaxtyped(thing, typechecker=typechecker)
        checked = typechecker(thing)
        if not any(map(names_a_shape, thing.__annotations__.values())):
            return checked

        @functools.wraps(thing)
        def call(*args: Any, **kwargs: Any) -> Any:
            if jaxtyping.config.jaxtyping_disable:
                return thing(*args, **kwargs)
            with jaxtyped("context"):
                return checked(*args, **kwargs)

        return call

    return decorator
