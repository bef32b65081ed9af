"""The type checks of tests: each argument and each result is checked once, and axes only where shapes are named.

A function is checked at its first call in each test, and then at one of several: a search calls the same few functions
thousands of times, with the same types and shapes. Its checks are made at its first call: a test run calls a part of
the functions that it imports.

`--jaxtyping-packages` decorates every function of robench with `jaxtyping.jaxtyped`. That checks arguments again with
the result, binds them to their names, and keeps a record of axes for functions without shapes too: half of the time of
the tests. Here the type checker checks a call once, inside `jaxtyped("context")` if the function names a shape, so that
an axis has one size in all its arguments and its result. Types that are named by text are looked up; where a name is
imported for type checkers alone, the function keeps `jaxtyped`, which lets it pass.

`jaxtyped` also gives its mark to the compiled files of every other package that a module of robench imports, so that
they are all compiled again. Here only modules of robench have it.
"""

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from random import Random
from typing import Any, ForwardRef, get_args
from unittest import mock

import jaxtyping
from beartype._check.code import codemain
from jaxtyping import AbstractArray, _import_hook

# The type checker draws which entry of a list it looks at. A model may draw from the generator that it would use.
codemain.getrandbits = Random(0).getrandbits

if sys.version_info < (
    3,
    12,
):  # which collects the attributes of a protocol again whenever a value is checked against it
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)

# The calls of a function in a test that are checked: the first so many, and of the others one in so many.
FIRST, EVERY = 1, 64
calls: dict[int, int] = {}  # of each function, in this test, by the identity of its code


def parts(annotation: Any) -> Iterator[Any]:
    """The annotation and every type inside it."""
    yield annotation
    for part in annotation if isinstance(annotation, list) else get_args(annotation):
        yield from parts(part)


def names_a_shape(annotation: Any) -> bool:
    """Whether an array with a shape is part of the annotation."""
    return any(inspect.isclass(part) and issubclass(part, AbstractArray) for part in parts(annotation))


def names_by_text(annotation: Any) -> bool:
    """Whether a type is named by a text, which may name what is imported for type checkers alone."""
    return any(isinstance(part, str | ForwardRef) for part in parts(annotation))


def sampled(jaxtyped: Callable[..., Any], thing: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """The function, some of whose calls are checked.

    Functions that are made again and again inside another share their code, and so their number of calls.
    """
    checked: Callable[..., Any] | None = None
    code = id(thing.__code__)

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        calls[code] = number = calls.get(code, 0) + 1
        if (number > FIRST and number % EVERY) or jaxtyping.config.jaxtyping_disable:
            return thing(*args, **kwargs)
        if checked is None:
            checked = with_checks(jaxtyped, thing, typechecker)
        return checked(*args, **kwargs)

    return call


def with_checks(jaxtyped: Callable[..., Any], thing: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """The function with checks of its types, or as `jaxtyped` makes it where a text names an unknown one."""
    types = getattr(thing, "__annotations__", {})
    if any(map(names_by_text, types.values())):
        try:
            types = typing.get_type_hints(thing, include_extras=True)
        except NameError:
            return jaxtyped(thing, typechecker=typechecker)
        with mock.patch.object(thing, "__annotations__", types):
            checked = typechecker(thing)
    else:
        checked = typechecker(thing)
    if not any(map(names_a_shape, types.values())):
        return checked

    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            return checked(*args, **kwargs)

    return call


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
        return sampled(jaxtyped, thing, typechecker)

    return decorator


def mark_only_what_is_instrumented() -> None:
    """Keeps the mark of `jaxtyped` off the compiled files of other packages.

    Its loader renames the compiled files of all that is imported while a module of robench runs. Here it does so only
    while it looks for the code of that module.
    """
    loader = _import_hook._JaxtypingLoader

    def get_code(self: Any, fullname: str) -> Any:
        marked = functools.partial(_import_hook._optimized_cache_from_source, self._typechecker.get_hash())
        with mock.patch("importlib._bootstrap_external.cache_from_source", marked):
            return SourceFileLoader.get_code(self, fullname)

    loader.get_code, loader.exec_module = get_code, SourceFileLoader.exec_module
