"""The cache folder for downloads, and a test for web pages that were saved in place of a file."""

from pathlib import Path

BEGINNING = 512  # bytes, enough to recognise a page
HTML_BEGINNINGS = (b"<!doctype html", b"<html", b"<head")


def cache_folder() -> Path:
    """The cache folder of this user account, for data sets and downloaded weights. It may not exist yet."""
    import pooch

    return Path(pooch.os_cache("robench"))


def is_html(beginning: bytes) -> bool:
    """Whether a file begins like an HTML page: sign-in forms and error pages are often saved under a file's name."""
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(HTML_BEGINNINGS)
