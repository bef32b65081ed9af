"""Images and plots: examples on which two models differ, galleries and curves of a model's page."""

import pytest

from robench.results.outcomes import union

from .browser import opened

pytestmark = pytest.mark.processes


@pytest.fixture
def model(browser, made_site, table):
    """The page of a model that some examples break."""
    broken = next(row for row in table.models if row.name == "model-1")
    with opened(browser, made_site.address, f"models/mnist-test/{broken.id}.html") as page:
        yield page


def differing(one, other):
    """The numbers of the decided examples that one model withstands and the other does not."""
    joint = [union(*(t.outcomes for t in row.threats)) for row in (one, other)]
    pairs = list(enumerate(zip(*joint, strict=True)))
    return [number for number, (a, b) in pairs if "O" not in (a, b) and (a == "S") != (b == "S")]


def test_the_examples_on_which_two_models_differ_are_shown_with_their_images(page, section, table):
    one, other = sorted((row for row in table.models if row.name in ("model-1", "<b>bold</b>")), key=lambda row: row.id)
    for row in (one, other):
        section.locator(f"tr[data-model='{row.id}'] .compare").check()
    more = section.locator(".comparison .more")
    section.locator(".comparison table").wait_for()
    while more.is_visible():
        more.click()
    texts = section.locator(".comparison figcaption").all_inner_texts()
    numbers = [int(text.removeprefix("example ").split(",")[0].split(":")[0]) for text in texts]
    assert numbers == differing(one, other)
    assert len(numbers) > 12
    for text in texts:
        how = text.split(": ", 1)[1]
        loser = one if how.startswith(one.name) else other
        number = int(text.removeprefix("example ").split(",")[0].split(":")[0])
        letters = {t.threat: t.outcomes[number] for t in loser.threats}
        if "wrong before any attack" in how:
            assert set(letters.values()) == {"W"}
        else:
            assert letters[how.split("broken under ")[1].split(",")[0]] == "B"
    pictures = section.locator(".comparison .picture")
    assert pictures.count() > 0
    assert loaded(page, pictures.first)


def loaded(page, picture):
    """Whether the sheet behind a picture is an image."""
    return page.evaluate(
        """async (element) => {
            const image = new Image();
            image.src = getComputedStyle(element).backgroundImage.slice(5, -2);
            await image.decode();
            return image.naturalWidth > 0 && element.getBoundingClientRect().width > 20;
        }""",
        picture.element_handle(),
    )


def test_the_gallery_of_a_model_shows_clean_adversarial_and_difference(model):
    pictures = model.locator(".gallery .picture:visible")
    labels = pictures.evaluate_all("all => all.map((e) => e.getAttribute('aria-label'))")
    assert labels[:3] == ["clean", "adversarial", "difference"]
    for place in range(3):
        assert loaded(model, pictures.nth(place))


def test_every_curve_of_a_model_is_drawn(model):
    plots = model.locator(".plot canvas")
    assert plots.count() >= 3, "radius, queries and history"
    for plot in plots.all():
        colours = plot.evaluate(
            """(canvas) => new Set(
                new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)
            ).size"""
        )
        assert colours > 10


def test_hidden_columns_are_shown_when_they_are_ticked(section):
    head = section.locator("thead th.gradients")
    assert head.is_hidden()
    section.locator(".columns summary").click()
    section.locator(".column[value=gradients]").check()
    assert head.is_visible()
    assert section.locator("tbody td.gradients:visible").count() >= 7
    section.locator(".column[value=masking]").uncheck()
    assert section.locator(".masking:visible").count() == 0
