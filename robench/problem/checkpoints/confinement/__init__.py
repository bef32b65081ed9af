"""Programs of strangers in a process of their own, without network and files, with limits of memory and time.

`kernel` and `limits` take the rights away, `child` runs in the process, `process` starts it and waits for its answers,
and `module` is the model here: gradients pass through memory that both processes share.
"""

from .kernel import NotConfined
from .module import Confined
from .process import Process, started

__all__ = ["Confined", "NotConfined", "Process", "started"]
