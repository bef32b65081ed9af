"""Sheets of images."""

import io

import numpy as np
import pytest
from PIL import Image

from robench.leaderboard.pictures import GREY, Adversarial, TableImages, for_script, gallery, png

from .full import full_board, full_images


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_png_holds_the_pixels(shape):
    wanted = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(pixels(png(wanted)), wanted)


def test_an_example_has_one_place_on_all_sheets():
    found = full_board(names=("one",))
    (table,) = found.tables
    images = full_images(found, count=8)[found.id, table.id]
    sheets, files = gallery(found, table, images)
    assert (sheets.columns, sheets.width, sheets.height) == (8, 4, 4)
    (row,) = table.models
    sheet = sheets.sheets[row.id, "linf:0.3"]
    assert sorted(sheet.sizes) == [1, 2]
    clean, adversarial, difference = (
        pixels(files[name]) for name in (sheets.clean, sheet.adversarial, sheet.difference)
    )
    assert clean.shape == adversarial.shape == difference.shape == (4, 32)
    place = slice(4, 8)
    assert np.array_equal(clean[:, place], np.round(images.clean[1][0] * 255))
    changed = images.adversarial[row.id, "linf:0.3"][1].image
    assert np.array_equal(adversarial[:, place], np.round(changed[0] * 255))
    delta = changed[0] - images.clean[1][0]
    assert np.array_equal(difference[:, place], np.round(GREY + 127 * delta / sheet.scale))
    assert (difference[:, :4] == GREY).all()


def test_differences_are_signed_around_grey():
    clean = np.full((1, 1, 3), 0.5, np.float32)
    changed = np.array([[[0.5, 0.7, 0.3]]], np.float32)
    found = full_board(names=("one",))
    (table,) = found.tables
    (row,) = table.models
    images = TableImages([0], [0], [clean], {(row.id, "linf:0.3"): {0: Adversarial(changed, 0.2)}})
    sheets, files = gallery(found, table, images)
    assert pixels(files[sheets.sheets[row.id, "linf:0.3"].difference]).tolist() == [[128, 255, 1]]
    assert sheets.sheets[row.id, "linf:0.3"].scale == pytest.approx(0.2)


def test_coloured_images_make_coloured_sheets_in_rows_of_ten():
    found = full_board(names=("one",))
    (table,) = found.tables
    images = full_images(found, count=6, shape=(3, 2, 2))[found.id, table.id]
    more = TableImages(range(12), [0] * 12, [*images.clean, *images.clean], images.adversarial)
    sheets, files = gallery(found, table, more)
    assert pixels(files[sheets.clean]).shape == (4, 20, 3)
    assert sheets.columns == 10


def test_an_image_without_a_change_has_a_grey_difference():
    clean = np.full((1, 2, 2), 0.5, np.float32)
    found = full_board(names=("one",))
    (table,) = found.tables
    (row,) = table.models
    images = TableImages([0], [0], [clean], {(row.id, "l2:2"): {0: Adversarial(clean, 0.0)}})
    sheets, files = gallery(found, table, images)
    assert (pixels(files[sheets.sheets[row.id, "l2:2"].difference]) == GREY).all()


def test_a_model_without_images_has_no_sheets():
    found = full_board(names=("one",))
    (table,) = found.tables
    (row,) = table.models
    assert for_script(None, table, row) == [None, None]
    sheets, files = gallery(found, table, TableImages([0], [0], [np.zeros((1, 2, 2), np.float32)]))
    assert (sheets.sheets, list(files)) == ({}, [sheets.clean])
