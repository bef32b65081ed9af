"""How notebooks show a summary, and `print` writes it. `robench.Summary` and `robench.api` come with these views."""

from .summary import Summary, register_views
from .tables import main_table, render
from .tables.webpage import fragment

__all__ = ["Summary", "text", "view"]


def view(summary: Summary) -> str:
    """The table that `robench evaluate` prints, as HTML."""
    return fragment([main_table([summary], intervals=True)])


def text(summary: Summary) -> str:
    """The table that `robench evaluate` prints."""
    return render([summary], intervals=True).rstrip("\n")


register_views(view, text)
