"""Whether a model gives the same outcomes from every file that it may be saved in, and the time to the first table.

    python benchmarks/export_matrix.py --models digits-nat digits-adv-linf

Each network is written as safetensors, as a state dict, as a checkpoint of Lightning, as TorchScript (traced,
scripted), by `torch.export` and as ONNX (by both exporters), and evaluated with the installed command. Outcomes may
differ only where the image that breaks one file is wrong by less than 1e-4; all that differ are listed.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import write_results
from safetensors.torch import save_file
from torch import nn

import robench
from robench.problem.checkpoints import load

ATTACKS = ("pgd(steps=10)", "apgd(steps=20)")
THREATS = ("linf:0.2", "l2:2")


def lightning(network: nn.Module, path: Path) -> None:
    """A checkpoint as Lightning writes it."""
    weights = {f"model.net.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 9, "hyper_parameters": {"lr": 0.1}, "callbacks": {}}, path)


def onnx(network: nn.Module, path: Path, shape: tuple[int, ...], *, dynamo: bool) -> None:
    """An ONNX file by one of PyTorch's exporters, for any number of images."""
    about = {"dynamic_shapes": ({0: torch.export.Dim("N")},)} if dynamo else {"dynamic_axes": {"x": {0: "N"}}}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        images = (torch.rand(2, *shape),)
        torch.onnx.export(network, images, str(path), dynamo=dynamo, external_data=False, input_names=["x"], **about)


def exported(network: nn.Module, path: Path, shape: tuple[int, ...]) -> None:
    """A program of torch.export, for any number of images."""
    program = torch.export.export(network, (torch.rand(2, *shape),), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.export.save(program, path)


class Plain(nn.Module):
    """The network of the digits models with annotations that TorchScript knows."""

    def __init__(self, network: nn.Module):
        super().__init__()
        layers = dict(network.named_children())
        self.conv1, self.conv2, self.conv3 = layers["conv1"], layers["conv2"], layers["conv3"]
        self.fc1, self.fc2 = layers["fc1"], layers["fc2"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


Writer = Callable[[nn.Module, Path, tuple[int, ...]], None]

FORMS: dict[str, tuple[str, Writer]] = {
    "safetensors": (".safetensors", lambda network, path, _: save_file(network.state_dict(), path)),
    "state dict": (".pt", lambda network, path, _: torch.save(network.state_dict(), path)),
    "Lightning": (".ckpt", lambda network, path, _: lightning(network, path)),
    "TorchScript, traced": (
        ".pt",
        lambda network, path, shape: torch.jit.save(torch.jit.trace(network, torch.rand(2, *shape)), path),
    ),
    "TorchScript, scripted": (".pt", lambda network, path, _: torch.jit.save(torch.jit.script(Plain(network)), path)),
    "torch.export": (".pt2", exported),
    "ONNX": (".onnx", lambda network, path, shape: onnx(network, path, shape, dynamo=False)),
    "ONNX, dynamo": (".onnx", lambda network, path, shape: onnx(network, path, shape, dynamo=True)),
}
"""The suffix of a file and what writes it, by the name of the form."""


def written(form: str, network: nn.Module, folder: Path, shape: tuple[int, ...]) -> Path:
    """A file in this form."""
    suffix, writer = FORMS[form]
    path = folder / f"model{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself, which is still in use
        writer(network.eval(), path, shape)
    return path


def command(path: Path, run: Path, examples: int) -> list[str]:
    """The command that evaluates a file."""
    words = [sys.executable, "-m", "robench", "evaluate", str(path), "--data", "digits", "--examples", str(examples)]
    words += ["--precision", "float32", "--run", str(run)]
    words += [word for threat in THREATS for word in ("--threat", threat)]
    return words + [word for attack in ATTACKS for word in ("--attack", attack)]


def evaluated(path: Path, run: Path, examples: int) -> float:
    """Evaluates a file in a process of its own. Returns the CPU seconds to the table, with the start of Python."""
    with subprocess.Popen(command(path, run, examples), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        printed = process.stdout.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(printed)
    return used.ru_utime + used.ru_stime


def outcomes(run: Path) -> dict[tuple[int, str], str]:
    """The outcome of each example under each threat."""
    found = robench.load_run(run).examples()
    return {(int(e), str(t)): str(o) for e, t, o in zip(found.example, found.threat, found.outcome, strict=True)}


def difference(name: str, key: tuple[int, str], one: str, other: str, runs: dict[str, Path]) -> str:
    """An outcome that two forms do not share, with the margin of the image that broke one of them."""
    (example, threat), margin = key, ""
    outcome = {form: outcomes(runs[form])[key] for form in (one, other)}
    for form in (one, other):
        if outcome[form] == "broken":
            found = robench.load_images(runs[form], threats=threat, examples=f"{example}:{example + 1}")
            margin = f"; that image is wrong by {found['margin'][0]:.2g}"
    return f"- {name}, example {example} under {threat}: {outcome[one]} as {one}, {outcome[other]} as {other}{margin}"


def compared(name: str, forms: list[str], examples: int) -> tuple[list[dict[str, object]], list[str]]:
    """A row for each form of a model, and what differs from the first form."""
    classifier = load(name).classifier
    rows: list[dict[str, object]] = []
    notes: list[str] = []
    runs: dict[str, Path] = {}
    found: dict[str, dict[tuple[int, str], str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, form in enumerate(forms):
            place = Path(folder) / str(number)
            place.mkdir()
            path, runs[form] = written(form, classifier.module, place, classifier.shape), place / "r.robench"
            seconds = evaluated(path, runs[form], examples)
            found[form] = outcomes(runs[form])
            apart = sorted(key for key, outcome in found[form].items() if outcome != found[forms[0]][key])
            notes += [difference(name, key, forms[0], form, runs) for key in apart]
            broken = sum(outcome == "broken" for outcome in found[form].values())
            rows.append(
                {
                    "model": name,
                    "file": form,
                    "broken": broken,
                    "outcomes": len(found[form]),
                    "differ": len(apart),
                    "seconds": seconds,
                }
            )
            print(rows[-1], flush=True)
    return rows, notes


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=["digits-nat", "digits-adv-linf"])
    options.add_argument("--examples", type=int, default=20)
    given = options.parse_args()
    tables = [compared(name, list(FORMS), given.examples) for name in given.models]
    rows, notes = ([one for table in tables for one in table[part]] for part in (0, 1))
    protocol = f"{given.examples} digits under {' and '.join(THREATS)}, {' and '.join(ATTACKS)}, in float32."
    write_results(
        "export-matrix-digits",
        "The same models from every kind of file",
        rows,  # type: ignore[arg-type]
        [protocol, *(notes or ["Every outcome is the same as from safetensors."])],  # type: ignore[list-item]
        torch.device("cpu"),
    )


if __name__ == "__main__":
    main()
