"""One browser and one site for all tests of the pages."""

from types import SimpleNamespace

import numpy as np
import pytest

from robench.leaderboard.entries import CardFacts
from robench.leaderboard.site import site

from .browser import chromium, opened, require_browser, write
from .everything import extras, filled
from .made import NAMES, board, recorded

N = 97


def made_rows(seed, n=N):
    """Random outcomes under each threat, W under all or none."""
    random = np.random.default_rng(seed)
    letters = random.choice(list("SBO"), p=random.dirichlet([3, 3, 0.3]), size=(len(NAMES), n))
    letters[:, random.random(n) < 0.1] = "W"
    return ["".join(row) for row in letters]


@pytest.fixture(scope="package")
def browser():
    require_browser()
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def content():
    """A data set with seven models and all that a page can show, and a second table."""
    runs = [
        recorded(
            made_rows(seed),
            name=f"model-{seed}",
            card=CardFacts("pgd_at", ("linf:0.3",), 60.0 / (seed + 1), "robench train pgd_at") if seed < 4 else None,
            environment={"command": f"robench evaluate model-{seed}"},
        )
        for seed in range(6)
    ]
    runs.append(recorded(["S" * N] * len(NAMES), name="<b>bold</b>"))
    runs += [recorded([row[:50] for row in made_rows(seed)[:2]], name=f"model-{seed}") for seed in (1, 2)]
    return filled(board(*runs))


@pytest.fixture(scope="session")
def table(content):
    """The table of seven models."""
    return content.tables[0]


@pytest.fixture(scope="session")
def made_site(content, tmp_path_factory):
    """The folder and the address of a site."""
    folder = tmp_path_factory.mktemp("site")
    return SimpleNamespace(folder=folder, address=write(site([content], extras(content)), folder))


@pytest.fixture
def page(browser, made_site):
    """The page of the data set."""
    with opened(browser, made_site.address, "mnist-test.html") as ready:
        yield ready


@pytest.fixture
def section(page, table):
    """The part of the page with the table of seven models."""
    return page.locator(f"[data-table='{table.id}']")
