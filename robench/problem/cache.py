"""Where downloaded files are kept, and how to recognise a web page that was saved in place of a file."""

from pathlib import Path

BEGINNING = 512  # bytes are enough to recognise a page
HTML_BEGINNINGS = (b"<!doctype html", b"<html", b"<head")


def cache_folder() -> Path:
    """The cache folder of this account: data sets and fetched weights. It need not exist yet."""
    import pooch

    return Path(pooch.os_cache("robench"))


def is_html(beginning: bytes) -> bool:
    """Whether a file begins as pages do: sign-in forms and error pages are often saved under a file's name."""
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(HTML_BEGINNINGS)
