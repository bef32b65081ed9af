"""Made-up files in the formats of the published ones."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from robench.errors import UserError
from robench.problem.datasets.files import Places


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def message_of(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(folder: Path, **files: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def places(own: Path) -> Places:
    return Places(own, cache=own / "no-such-cache")
