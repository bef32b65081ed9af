"""What a network that fails between the driver and actors of Ray costs: two namespaces of one machine stand for two.

    python benchmarks/network_cut.py [--model digits-adv-linf] [--examples 40]

Needs Linux, `unshare`, `nsenter` and `ip`, and Ray. The head of a cluster and the driver are in one network namespace,
a second node is in another, and nothing but a pair of virtual devices connects them. Once the actors search, the
devices of the second node are taken down for some seconds. Then the outcomes are compared with those of one process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from measuring import write_results

INSIDE = "ROBENCH_BENCHMARK_NAMESPACE"
HEAD, NODE = "10.9.0.1", "10.9.0.2"
PORT = 6379
CASES = ((10, 1), (60, 1), (60, 2))  # seconds without a network, and actors on the node that is cut off, of two
PATIENCE = 400  # seconds


def run(*words: str) -> None:
    """Runs a command that has to succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout[-500:]}{done.stderr[-500:]}")


def ray(*words: str) -> tuple[str, ...]:
    """A command of Ray's command line."""
    code = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; sys.exit(main())"
    return (sys.executable, "-c", code, *words)


def within(other: int, *words: str) -> tuple[str, ...]:
    """The command in the network namespace of another process."""
    return ("nsenter", "-t", str(other), "-n", *words)


@contextmanager
def second_network() -> Iterator[int]:
    """A process in a network namespace of its own, which is reached through a virtual device."""
    other = subprocess.Popen(["unshare", "-n", "sleep", "3600"])
    try:
        time.sleep(1)
        run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
        run("ip", "link", "set", "there", "netns", str(other.pid))
        run("ip", "addr", "add", f"{HEAD}/24", "dev", "here")
        run("ip", "link", "set", "here", "up")
        run(*within(other.pid, "ip", "link", "set", "lo", "up"))
        run(*within(other.pid, "ip", "addr", "add", f"{NODE}/24", "dev", "there"))
        run(*within(other.pid, "ip", "link", "set", "there", "up"))
        yield other.pid
    finally:
        with suppress(RuntimeError):
            run("ip", "link", "del", "here")
        other.kill()
        other.wait()


@contextmanager
def cluster(other: int, there: int) -> Iterator[None]:
    """A cluster with places for so many of two actors in the other namespace."""
    sized = ("--object-store-memory", "200000000")
    run(*ray("start", "--head", "--node-ip-address", HEAD, "--port", str(PORT), "--num-cpus", str(2 - there), *sized))
    try:
        add_node(other, there)
        yield
    finally:
        subprocess.run(ray("stop", "--force"), capture_output=True, check=False)


def add_node(other: int, there: int) -> None:
    """Starts the second node of the cluster."""
    start = ray("start", "--address", f"{HEAD}:{PORT}", "--node-ip-address", NODE, "--num-cpus", str(there))
    run(*within(other, *start, "--object-store-memory", "200000000"))


def evaluation(model: str, examples: int, name: str, *words: str) -> list[str]:
    """The command of an evaluation."""
    command = [sys.executable, "-m", "robench", "evaluate", model, "--threat", "linf:0.1", "--examples", str(examples)]
    return [*command, "--run", f"{name}.robench", "--json", f"{name}.json", *words]


def outcomes(name: str) -> list[str]:
    """The outcomes under every threat."""
    return [threat["outcomes"] for threat in json.loads(Path(f"{name}.json").read_text())["threats"]]


def cut_off(model: str, examples: int, seconds: int, there: int) -> dict[str, object]:
    """What happens when the network fails for so many seconds."""
    name = f"cut-{seconds}-{there}"
    command = evaluation(model, examples, name, "--workers", "2", "--ray", f"{HEAD}:{PORT}")
    with second_network() as other, cluster(other, there), open(f"{name}.txt", "w") as notes:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=notes)
        deadline = time.monotonic() + PATIENCE
        while "stand, " not in Path(f"{name}.txt").read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        if driver.poll() is not None:
            raise RuntimeError("the evaluation ended before the network failed; name more --examples")
        run(*within(other, "ip", "link", "set", "there", "down"))
        time.sleep(seconds)
        searching = driver.poll() is None
        run(*within(other, "ip", "link", "set", "there", "up"))
        code = driver.wait(PATIENCE)
        if code:  # the node has left the cluster: it is started again, and so is the command
            add_node(other, there)
            run(*command)
    lines = Path(f"{name}.txt").read_text().splitlines()
    about = [line for line in lines if line.startswith(("note: worker", "Error: "))]
    return {
        "seconds without a network": seconds,
        "actors cut off, of 2": there,
        "searched until it was back": "yes" if searching else "no",
        "exit code": code,
        "notes": "; ".join(line.partition(": ")[2] for line in about) or "none",
        "outcomes": "those of one process" if outcomes(name) == outcomes("alone") else "others",
    }


def main() -> None:
    """Runs every case, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits-adv-linf")
    parser.add_argument("--examples", type=int, default=40)
    args = parser.parse_args()
    if INSIDE not in os.environ:
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        os.environ |= {INSIDE: "1", "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        os.environ["RAY_AUTH_MODE"] = "disabled"  # nothing else reaches these networks
        os.execvp("unshare", ["unshare", "-Urn", "--pid", "--fork", "--mount-proc", sys.executable, *sys.argv])
    run("ip", "link", "set", "lo", "up")
    torch.set_num_threads(1)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAY_TMPDIR"] = folder
        os.chdir(folder)
        run(*evaluation(args.model, args.examples, "alone"))
        rows = []
        for seconds, there in CASES:
            rows.append(cut_off(args.model, args.examples, seconds, there))
            print(rows[-1], flush=True)
        os.chdir(before)
    import ray as library

    note = f"Ray {library.__version__}; the command was started again where its exit code was not 0."
    command = f"Command: python benchmarks/network_cut.py --model {args.model} --examples {args.examples}"
    write_results(
        "network-cut", "A network that fails between driver and actors", rows, [note, command], torch.device("cpu")
    )


if __name__ == "__main__":
    main()
