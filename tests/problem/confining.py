"""Programs in a process of their own, past the check of their operators."""

import io

import torch

from robench.problem.checkpoints.confinement import Confined, Process

ALLOCATING = "l = [x]\nfor i in range(100000):\n    l.append(torch.empty([(1 << 28) + i]))\nreturn l[-1]"
HARMFUL = {
    "reads a file": 'return x + torch.from_file("secret", False, 4).sum()',
    "writes a file": 'return x + torch.from_file("W", True, 4).sum()',
}
LOOPING = "i = 0\nwhile True:\n    i += 1\nreturn x.flatten(1)[:, :10] + i"


def scripted(body, name="Net"):
    """A TorchScript archive whose forward pass runs this source text."""
    source = "def forward(self, x):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    program = type(f"{name}{abs(hash(body))}", (torch.jit.ScriptModule,), {})()
    program.define(source)
    return saved(program)


def saved(program):
    buffer = io.BytesIO()
    torch.jit.save(program, buffer)
    return buffer.getvalue()


def confined(data, kind="torchscript"):
    """The program in a process of its own, past the check of its operators."""
    running = Process("m.pt", kind, data)
    running.wait_until_confined()
    return Confined.load(running)
