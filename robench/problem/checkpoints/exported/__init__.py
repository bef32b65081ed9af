"""Programs of torch.export, read without a pickle and without evaluating any text of the file."""

from .program import Exported, read_program

__all__ = ["Exported", "read_program"]
