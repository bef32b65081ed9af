"""Tables of papers, from training to page: which models, which threats, which published numbers.

`plans` reads a paper's tables and figures from a TOML file of `papers/`. `page` is the page of one reproduced table.
`paper_page` is that of a paper, from runs that are there: its tables (`comparison`), texts with numbers from the runs
(`prose`), and the picture of a training (`course`).
"""

from .plans import Measured, Paper, PaperTable, PlannedModel, Size, papers, read

__all__ = ["Measured", "Paper", "PaperTable", "PlannedModel", "Size", "papers", "read"]
