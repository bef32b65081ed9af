"""Tools for a user's own tests: `assert_robust`, `check_attack`, and models with masked gradients (`masked`)."""

from .assertions import assert_robust
from .contract import check_attack

__all__ = ["assert_robust", "check_attack"]
