"""The time and the memory of networks of usual sizes, from the file to the table, on a handful of images.

    python benchmarks/large_networks.py

Each network has random weights and is a bare state dict, recognised from its keys and shapes. The installed command
evaluates it in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import write_results

from robench.problem.architectures import named

NETWORKS = {"wrn-28-10": ((3, 32, 32), 10), "resnet50-imagenet": ((3, 224, 224), 1000)}
"""The shape of the images and the number of classes, by the name of the network."""
IMAGES = 2
ATTACK, THREAT = "pgd(steps=10)", "linf:8/255"


def files(name: str, folder: Path) -> tuple[Path, Path]:
    """A state dict with random weights, and images whose labels are what the network answers."""
    shape, classes = NETWORKS[name]
    torch.manual_seed(0)
    architecture = named(name)
    assert architecture is not None, name
    network = architecture.build(shape, classes).eval()
    images = torch.rand(IMAGES, *shape)
    with torch.no_grad():
        labels = network(images).argmax(dim=1)
    weights, data = folder / "weights.pt", folder / "images.npz"
    torch.save(network.state_dict(), weights)
    np.savez(data, x=images.numpy(), y=labels.numpy())
    return weights, data


def measured(name: str) -> dict[str, object]:
    """The CPU seconds and the most memory of the command, with the start of Python."""
    with tempfile.TemporaryDirectory() as folder:
        weights, data = files(name, Path(folder))
        words = [sys.executable, "-m", "robench", "evaluate", str(weights), "--data", str(data), "--threat", THREAT]
        words += ["--attack", ATTACK, "--run", str(Path(folder) / "r.robench")]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder) as process:
            assert process.stdout is not None
            printed = process.stdout.read().decode()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        size = weights.stat().st_size
    if process.returncode:
        raise SystemExit(printed)
    print(printed)
    seconds, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
    return {"network": name, "file (MB)": size / 1e6, "seconds": seconds, "memory (GB)": memory}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    rows = [measured(name) for name in options.parse_args().networks]
    notes = [f"{IMAGES} images of noise under {THREAT}, {ATTACK}; random weights, a bare state dict, no `--arch`."]
    write_results(
        "large-networks", "Networks of usual sizes, from the file to the table", rows, notes, torch.device("cpu")
    )


if __name__ == "__main__":
    main()
