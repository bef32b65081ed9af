"""Downloads published files. A file appears in the cache under its name only if its checksum is correct."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

import pooch
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..errors import UserError
from .cache import BEGINNING, is_html

CHUNK = 1 << 16  # bytes; pooch's default of 1 kB flushes so often that it is slow


@dataclass(frozen=True)
class Download:
    """A published file: its name, its checksum, and every known address."""

    name: str
    checksum: str  # md5:... or sha256:...
    urls: tuple[str, ...]
    max_bytes: int | None = None  # a longer transfer is broken off
    tls: bool = False  # an address without TLS is refused, also one that the server redirects to


def fetch(download: Download, folder: Path, *, subject: str, way_out: str) -> Path:
    """The path of the file in `folder`, downloaded from the first address that serves it as published.

    Raises UserError, with the reply of each address, if none does: `subject` is what the user wanted, `way_out` what
    to do instead.
    """
    answers: list[str] = []
    pooch.get_logger().setLevel("WARNING")  # the progress bar names the file
    for url in download.urls:
        try:
            with progress_bar(download.name) as bar:
                # Downloads under a temporary name, compares the checksum, then renames. Does nothing if the file is
                # there already.
                return Path(
                    pooch.retrieve(
                        url,
                        download.checksum,
                        fname=download.name,
                        path=folder,
                        downloader=_NoPages(bar, download),
                        progressbar=False,
                    )
                )
        except (requests.RequestException, ValueError) as error:
            answers.append(f"{server(url)}: {_reason(error)}")
        except OSError as error:
            raise UserError(f"{subject} cannot be stored in {folder} ({error.strerror or error}); {way_out}") from None
    raise UserError(
        f"{subject} is not on this machine and {download.name} cannot be downloaded ({'; '.join(answers)}); {way_out}"
    )


def server(url: str) -> str:
    """Host and port of an address, without user name and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


class _PageError(ValueError):
    """The address answered with an HTML page."""


class _TooLargeError(ValueError):
    """The file is larger than it may be."""


class _NoTLSError(ValueError):
    """The address, or one that the server redirects to, has no TLS."""


class _NoPages:
    """pooch's HTTP downloader, which then refuses HTML pages: a wrong checksum would not say why."""

    def __init__(self, bar: "Bar", download: Download):
        options = {"hooks": {"response": _refuse_plain_redirect}} if download.tls else {}
        self._http = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK, **options)
        self._download = download

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> bool | None:
        if self._download.tls and not _has_tls(url):
            raise _NoTLSError
        with open(output_file, "w+b") as file:
            self._http(url, _Limited(file, self._download.max_bytes), pooch)
            file.seek(0)
            if is_html(file.read(BEGINNING)):
                raise _PageError
        return None


class _Limited:
    """A file that takes a limited number of bytes. Raises _TooLargeError beyond it."""

    def __init__(self, file: IO[bytes], left: int | None):
        self._file = file
        self._left = left

    def write(self, chunk: bytes) -> None:
        """Writes bytes, which the transfer may have unpacked."""
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                raise _TooLargeError
        self._file.write(chunk)

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()


def _has_tls(url: str) -> bool:
    return url.lower().startswith("https://")


def _refuse_plain_redirect(response: requests.Response, **_: object) -> None:
    """Raises _NoTLSError, before a redirect to an address without TLS is followed."""
    if response.is_redirect and not _has_tls(urljoin(response.url, response.headers["location"])):
        raise _NoTLSError


def _reason(error: Exception) -> str:
    match error:
        case _TooLargeError():
            return "a file that is too large"
        case _NoTLSError():
            return "an address without TLS"
        case _PageError():
            return "an HTML page instead of the file"
        case requests.HTTPError(response=requests.Response(status_code=status)):
            return f"HTTP {status}"
        case requests.exceptions.InvalidURL():
            return "not a valid address"
        case requests.ConnectionError() | requests.Timeout():
            return "no connection"
        case requests.RequestException():
            return "the transfer broke off"
        case _:
            return "a file with another checksum"


class Bar:
    """A progress bar of rich with the interface that pooch expects."""

    def __init__(self, progress: Progress, label: str):
        self._progress = progress
        self._task = progress.add_task(label, total=None)

    @property
    def total(self) -> float | None:
        """The size of the download in bytes; None while unknown."""
        return self._progress.tasks[0].total

    @total.setter
    def total(self, size: int) -> None:
        self._progress.update(self._task, total=size or None)

    def update(self, size: int) -> None:
        """Advances the bar by `size` bytes."""
        self._progress.advance(self._task, size)

    def reset(self) -> None:
        """Sets the bar to 0: pooch does so once, to fill it exactly."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Does nothing: the `with` around the download closes the bar, also after an error."""


@contextmanager
def progress_bar(label: str) -> Iterator[Bar]:
    """A progress bar on standard error if that is a terminal, otherwise an invisible one."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, label)
