"""Tables of papers, from training to page: which models, which threats, which published numbers.

`plans` reads a paper's tables from a TOML file of `papers/`; `page` puts what was measured beside what was published.
"""

from .plans import Paper, PaperTable, PlannedModel, Size, papers, read

__all__ = ["Paper", "PaperTable", "PlannedModel", "Size", "papers", "read"]
