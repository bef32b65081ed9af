"""What it costs to run a program of a stranger in a process of its own: seconds per gradient step, and to load.

    python benchmarks/confinement.py

Networks traced by TorchScript make steps of 64 images (logits, the loss's gradient) directly and confined, in turn.
The CPU time is that of both processes; the elapsed time is what a user waits, and depends on what else runs.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from measuring import traced, write_results
from torch import Tensor

from robench.problem.checkpoints import load
from robench.problem.checkpoints.confinement import Confined
from robench.problem.classifier import Classifier
from robench.problem.losses import cross_entropy

NETWORKS = ("digits-eat", "mnist-small-sat", "mnist-adv-linf")
IMAGES, STEPS, PAIRS = 64, 5, 9


def main() -> None:
    """Measures, and writes the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    rows: list[dict[str, object]] = []
    for name in NETWORKS:
        network = load(name).classifier
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "traced.pt"
            program: torch.jit.ScriptModule = traced(network.module, network.shape).network  # type: ignore[assignment]
            program.save(str(path))  # type: ignore[no-untyped-call]
            loading, ways = {}, {}
            for way, trusted in (("directly", True), ("confined", False)):
                start = cpu_seconds()
                ways[way] = load(path, shape=network.shape, classes=network.classes, trust_pickle=trusted).classifier
                loading[way] = cpu_seconds(ways[way]) - start
        rows.append(
            {"network": name, **compared(ways), "loading, CPU s more": loading["confined"] - loading["directly"]}
        )
        print(rows[-1], flush=True)
    notes = [
        f"Medians of {PAIRS} alternated pairs of {STEPS} steps of {IMAGES} images; milliseconds for a step.",
        "Logits and gradients were equal bit for bit in every pair.",
        "CPU time is that of both processes. Elapsed times include waiting for other programs on a shared machine.",
        "Loading includes the check of the operators, which a trusted file does not get.",
    ]
    write_results("confinement", "What confinement costs", rows, notes, device)


def compared(ways: dict[str, Classifier]) -> dict[str, object]:
    """The medians of both ways; the answers must be equal."""
    torch.manual_seed(0)
    x = torch.rand(IMAGES, *ways["directly"].shape)
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    elapsed: dict[str, list[float]] = {way: [] for way in ways}
    for pair in range(-1, PAIRS):  # the first warms up
        answers = {}
        for way, model in ways.items():
            start, cpu_start = time.perf_counter(), cpu_seconds(model)
            for _ in range(STEPS):
                answers[way] = step(model, x)
            if pair >= 0:
                elapsed[way].append(1000 * (time.perf_counter() - start) / STEPS)
                cpu[way].append(1000 * (cpu_seconds(model) - cpu_start) / STEPS)
        if not all(map(torch.equal, answers["directly"], answers["confined"])):
            raise RuntimeError("a confined program answers otherwise")
    found: dict[str, object] = {}
    for kind, times in (("CPU", cpu), ("elapsed", elapsed)):
        direct, confined = (statistics.median(times[way]) for way in ("directly", "confined"))
        ratio = statistics.median(b / a for a, b in zip(times["directly"], times["confined"], strict=True))
        found |= {f"{kind}, directly": direct, f"{kind}, confined": confined, f"{kind}, times": ratio}
    return found


def step(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of images, and the gradient of their loss."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    y = torch.zeros(len(x), dtype=torch.long)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, y, y).sum(), leaf)
    return logits.detach(), gradient


def cpu_seconds(model: Classifier | None = None) -> float:
    """The CPU time of this process, of those that it has waited for, and of the one in which the model runs."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = time.process_time() + ended.ru_utime + ended.ru_stime
    for part in model.module.modules() if model is not None else ():
        if isinstance(part, Confined):
            text = Path(f"/proc/{part.process.pid}/schedstat").read_text()
            found += int(text.split()[0]) / 1e9
    return found


if __name__ == "__main__":
    main()
