"""`robench train --pseudo-labelled`: further images, and never those of the measurement or the validation."""

import numpy as np
import torch

from robench.problem import datasets
from robench.problem.checkpoints.cards import read_card


def test_pseudo_labelled_images_that_the_model_is_measured_on_are_refused(refused, robench, folder):
    words = "rst --threat linf:0.2 --set steps=2 --set inner_steps=1 --no-evaluation --quiet --out m --pseudo-labelled"
    assert "holds 500 images of digits:test, on which the model is measured" in refused(
        "train", *words.split(), "digits:test"
    )
    test = datasets.load("digits", "test")
    pixels = (test.x[:30, 0] * 255).round().to(torch.uint8).numpy()
    np.savez(folder / "more.npz", x=np.concatenate([255 - pixels, pixels[:1]]), y=np.zeros(31, dtype=int))
    assert "holds 1 image of digits:test" in refused("train", *words.split(), "more.npz")
    assert not (folder / "m.safetensors").exists()
    np.savez(folder / "more.npz", x=255 - np.repeat(pixels, 2, axis=0), y=np.zeros(60, dtype=int))
    assert robench("train", *words.split(), "more.npz").code == 0
    assert read_card(folder / "m.toml").settings["pseudo_labelled"].startswith("more.npz (")


def test_pseudo_labelled_images_that_the_training_holds_out_are_refused(refused, robench, folder):
    words = "rst --threat linf:0.2 --set steps=2 --set inner_steps=1 --no-evaluation --quiet --out m --pseudo-labelled"
    words = (*words.split(), "digits:train", "--validation")
    assert "holds 30 images that the training holds out; leave them out, or add --validation 0" in refused(
        "train", *words, "30"
    )
    assert robench("train", *words, "0").code == 0
