"""The public functions of the package: evaluate a model, and load a run."""

import operator
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .errors import UserError, ended_programs_as_user_errors
from .evaluation.model_source import Model, source_of
from .evaluation.prepared import prepare
from .evaluation.recorded import recorded_summary
from .evaluation.request import EvalRequest
from .problem.datasets import python_data
from .problem.datasets.preparation import Preparation
from .problem.process import plain_process
from .results import notebook as _notebook  # noqa: F401 - registers the view of a summary
from .results.measured import failure, refuse_unmeasured, unmeasured
from .results.summary import Summary
from .search.attack import Attack, AttackGiven

Data = Any
"""What `problem.datasets.python_data` reads: arrays, data sets, loaders; or the name of a data set, folder or file."""


@ended_programs_as_user_errors()
@plain_process()
def evaluate(
    model: Model,
    data: Data = None,
    protocol: str | Path | None = None,
    *,
    threats: Sequence[str] = (),
    attacks: AttackGiven | Sequence[AttackGiven] = (),
    examples: int | str | None = None,
    seed: int | None = None,
    every_attack: bool = False,
    curve: bool = False,
    run: str | Path | None = None,
    device: str = "cpu",
    precision: str | None = None,
    masking: str = "auto",
    resize: int | str | None = None,
    crop: int | str | None = None,
    interpolation: str | None = None,
    labels: str | Path | None = None,
    channels: int | None = None,
    shuffled: bool = False,
) -> Summary:
    """Measures how much accuracy a model keeps under attack.

    - `model`: a module, or any function, from images in [0, 1] to logits; a checkpoint, or the name of a bundled model.
    - `data`: a name, a folder of images, an `.npz` file, `(x, y)`, a PyTorch data set or loader, a Hugging Face data
      set or a `Split`. Required unless the model's card names it.
    - `protocol`: a name or a file; `threats` and `attacks` replace those of the protocol. An attack of your own is an
      instance or a class that derives from an attack of `robench.attacks`, or text such as `file.py:Class(steps=50)`,
      which runs the code of the file.
    - `examples`: a count, a slice such as `20:50`, or a sample such as `random:500@3`. With `shuffled`, examples are
      taken in a fixed order that mixes the classes.
    - `seed`: of all random numbers.
    - `every_attack`: run each attack on every correct example. `curve`: run minimum-norm attacks to the end.
    - `run`: a file for the evidence; the same call again finishes what is missing. Without, it stays in memory.
    - `device`: `cpu`, `cuda` or `cuda:1`. `precision`: that of the search; verification always uses float32.
    - `masking`: `on` or `deep` then checks the result for gradient masking, `auto` where there is a sign of it, `off`
      never.
    - `resize`, `crop`, `interpolation`, `channels`, `labels` (a label map): those of the command line, for folders and
      PIL images.

    For example:

        robench.evaluate(net, "mnist", threats=["linf:0.3"], examples=100).union.accuracy

    Raises UserError, a ValueError, with one sentence on what is wrong. Raises NotMeasuredError, a UserError that
    carries the summary, where every planned attack failed. Warns of a threat under which every attack failed.
    """
    prepared = {"resize": resize, "crop": crop, "interpolation": interpolation, "labels": labels, "channels": channels}
    preparation = Preparation(**{key: "" if value is None else str(value) for key, value in prepared.items()})
    request = EvalRequest(
        data=_named_or_read(data, preparation),
        protocol=None if protocol is None else str(protocol),
        threats=_threats(threats),
        attacks=[attacks] if isinstance(attacks, str | type | Attack) else attacks,
        examples=None if examples is None else str(examples),
        seed=_seed(seed),
        every_attack=every_attack,
        curve=curve,
        precision=precision,
        masking=_word("masking", masking, "auto, off, on or deep"),
        preparation=preparation,
        shuffled=shuffled,
    )
    source = source_of(model, _device(device))
    summary = prepare(request, source).answer(None if run is None else _path("run", run)).summary
    refuse_unmeasured(summary)
    for entry in unmeasured(summary):
        warnings.warn(f"robench: {failure(entry)}", stacklevel=2)
    return summary


def load_run(path: str | Path) -> Summary:
    """The summary of the last question that was evaluated into a run file.

    Raises UserError when the file is no run file, is damaged, or holds no question yet.
    """
    return recorded_summary(_path("path", path))


# The types of arguments, which nothing checks in a caller's program


def _threats(given: Any) -> list[str]:
    """The texts of the threats; one text alone stands for itself, and None for none."""
    threats = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    for threat in [] if given is None else threats:
        if not isinstance(threat, str) or isinstance(given, Mapping):
            what = given if isinstance(given, Mapping) else threat
            raise UserError(
                f"threats holds {type(what).__name__}; write each threat as a text, such as threats=['linf:8/255']"
            )
    return [] if given is None else threats


def _seed(given: Any) -> int | None:
    """A seed as a number of Python, of any type of whole numbers."""
    try:
        return None if given is None else operator.index(given)
    except TypeError:
        raise UserError(f"seed={given!r} is no whole number; give one, such as seed=1") from None


def _device(given: Any) -> str:
    """The name of a device, also of a `torch.device`."""
    return str(given) if isinstance(given, torch.device) else _word("device", given, "cpu or cuda:1")


def _word(name: str, given: Any, words: str) -> str:
    if not isinstance(given, str):
        raise UserError(f"{name}={given!r} is no text; write one of {words}, in quotes, or leave {name} out")
    return given


def _path(name: str, given: Any) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{name}={given!r} is no path; write one as a text, such as {name}='net.robench'")
    return Path(given)


def _named_or_read(data: Data, preparation: Preparation) -> Any:
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data)
    return python_data.source_of(data, preparation)
