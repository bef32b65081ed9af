"""For tests of one's own: `assert_robust`, and models whose gradients mislead (`masked`)."""

from .assertions import assert_robust

__all__ = ["assert_robust"]
