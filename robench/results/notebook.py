"""How notebooks show a summary. `robench.Summary` and `robench.api` come with this view."""

from .summary import Summary, register_notebook_view
from .tables import main_table
from .tables.webpage import fragment

__all__ = ["Summary", "view"]


def view(summary: Summary) -> str:
    """The table that `robench evaluate` prints, as HTML."""
    return fragment([main_table([summary], intervals=True)])


register_notebook_view(view)
