"""Tools for a user's own tests: `assert_robust`, and models with masked gradients (`masked`)."""

from .assertions import assert_robust

__all__ = ["assert_robust"]
