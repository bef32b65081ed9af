"""What the settings beside the weights say about a model: timm's config.json, and transformers' two files.

Read as `timm/models/_hub.py` and `_builder.py` of pytorch-image-models read them, and as image processors of
transformers write them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...names import shown
from ..assembly import Declared
from ..nested import by
from .huggingface import HubFile

BYTES = 1 / 255  # the factor from bytes to pixels in [0, 1]
CROPPED = 0.875  # of the resized image, where timm's settings do not say


@dataclass(frozen=True)
class Described:
    """What is declared about a model, and the notes on it."""

    declared: Declared
    notes: tuple[str, ...] = ()
    network: str = ""  # the note on the network, unless the user names another one
    preparation: str = ""  # the note on images of the size that it was trained on
    stated: bool = False  # whether the settings are of another tool, so that a note states the normalisation
    refused: str = ""  # why the network must not be guessed from the weights

    def notes_for(self, arch: str | None, normalise: str | None, shape: tuple[int, ...]) -> tuple[str, ...]:
        """The notes for images of `shape`. `arch` and `normalise` are what the user typed."""
        found, text, source = list(self.notes), self.declared.normalisation, self.declared.source
        if self.network and arch is None:
            found.append(self.network)
        if self.stated and text is not None:
            about = f"normalisation {text}, from {source}"
            found.append(about if normalise is None else f"--normalise {normalise} takes precedence over the {about}")
        own = self.declared.shape
        if own is not None and own[1:] != shape[1:]:
            found.append(f"it was trained on images of {by(own)} according to {source}, and gets {by(shape)}")
        elif self.preparation:
            found.append(self.preparation)
        return tuple(found)


RESNETS = {f"resnet{depth}": f"resnet{depth}-imagenet" for depth in (18, 34, 50, 101, 152)}
RESNETS |= {f"wide_resnet{depth}_2": f"resnet{depth}-1x128d-imagenet" for depth in (50, 101)}
RESNETS |= {
    f"resnext{depth}_{groups}": f"resnet{depth}-{groups}-imagenet"
    for depth, groups in ((50, "32x4d"), (101, "32x4d"), (101, "32x8d"), (101, "64x4d"))
}
DENSENETS = {f"densenet{depth}": f"densenet{depth}-imagenet" for depth in (121, 161, 169, 201)}
VITS = re.compile(r"(vit|deit)_(?P<size>tiny|small|base|large)_patch(?P<patch>\d+)_\d+")
POOLS = {"": "avg", "vit": "token"}
"""How timm's networks pool if nothing else is set."""
HARMLESS = ("num_classes", "in_chans", "img_size")
"""Arguments of timm's networks that the shapes of the weights show."""


def own_name(timm_name: str) -> str:
    """The name that robench has for a network of timm; empty for others, which may have equal keys and shapes."""
    vit = VITS.fullmatch(timm_name)
    if vit is not None:
        return f"vit-{vit['size']}-{vit['patch']}"
    return RESNETS.get(timm_name) or DENSENETS.get(timm_name) or ""


def described(file: HubFile) -> Described:
    """What the settings in the repository of a file declare."""
    config, images = (file.configs.get(name) for name in ("config.json", "preprocessor_config.json"))
    if isinstance(config, dict) and isinstance(config.get("architecture"), str) and _is_timm(config):
        return _of_timm(file, config)
    source = f"preprocessor_config.json of {file.repo.name}"
    found = of_processor(source, images) if isinstance(images, dict) else Described(Declared(source))
    if isinstance(config, dict) and isinstance(config.get("architectures"), list) and "model_type" in config:
        kind = shown(", ".join(map(str, config["architectures"])))
        refused = (
            f"{file.repo.name} is a model of transformers ({kind}), whose networks robench does not have; name its "
            "code with --arch file.py:factory"
        )
        return replace(found, refused=refused)
    return found


def of_timm(source: str, config: Mapping[str, Any]) -> Described:
    """What timm's settings of pretrained weights declare: normalisation, image shape, classes, preparation."""
    shape, classes = _shape(config.get("input_size")), config.get("num_classes")
    normalisation = _normalisation(config.get("mean"), config.get("std"))
    preparation, crop = "", config.get("crop_pct")
    if shape is not None and shape[1] == shape[2] and config.get("crop_mode", "center") == "center":
        share = crop if isinstance(crop, int | float) and 0 < crop <= 1 else CROPPED
        how = config.get("interpolation")
        how = f" --interpolation {how}" if how in ("bilinear", "bicubic", "nearest") else ""
        # timm crops the middle `crop_pct` of the resized image (timm/data/transforms_factory.py).
        preparation = prepared(f"--resize {int(shape[1] / share)} --crop {shape[1]}{how}")
    known = classes if isinstance(classes, int) and 0 < classes < 2**31 else None
    return Described(Declared(source, None, normalisation, shape, known), preparation=preparation, stated=True)


def prepared(options: str) -> str:
    """The note on the preparation of images."""
    return f"its publishers prepare the images of a folder with {options}"


def _is_timm(config: Mapping[str, Any]) -> bool:
    """Whether timm wrote the settings. In those of other tools, `architecture` may be any text."""
    return isinstance(config.get("pretrained_cfg"), dict) or {"input_size", "mean", "std"} <= config.keys()


def _of_timm(file: HubFile, config: Mapping[str, Any]) -> Described:
    """The network and the settings of a repository that timm wrote; older ones have all in one table."""
    source = f"config.json of {file.repo.name}"
    inner = config.get("pretrained_cfg")
    pretrained = dict(inner) if isinstance(inner, dict) else dict(config)
    pretrained |= {key: config[key] for key in ("num_classes",) if key in config}
    found, name = of_timm(source, pretrained), str(config["architecture"]).partition(".")[0]
    own, unlike = own_name(name), _unlike(name, config, pretrained)
    if own and not unlike:
        declared = replace(found.declared, architecture=own)
        return replace(found, declared=declared, network=f"taken as {own}: {source} names {name} of timm")
    why = f"with {unlike}, which robench does not have" if own else "a network that robench does not have"
    refused = (
        f"{file.repo.name} is {shown(name)} of timm, {why}; where timm is installed, type timm:hf-hub:{file.repo}, or "
        "name its code with --arch file.py:factory"
    )
    return replace(found, refused=refused)


def _unlike(name: str, config: Mapping[str, Any], pretrained: Mapping[str, Any]) -> str:
    """The first setting with which timm makes another network or other weights than its name alone; empty without."""
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        return "unreadable model_args"
    usual = POOLS["vit" if VITS.fullmatch(name) else ""]
    unusual = [key for key in arguments if key not in HARMLESS and (key, arguments[key]) != ("global_pool", usual)]
    unusual += [key for key in ("label_offset", "custom_load") if pretrained.get(key)]
    unusual += ["global_pool" for one in (config, pretrained) if one.get("global_pool") not in (None, "", usual)]
    return shown(str(unusual[0])) if unusual else ""


def of_processor(source: str, config: Mapping[str, Any]) -> Described:
    """What the settings of an image processor of transformers declare."""
    scaled = config.get("do_rescale", True) is not False
    factor = config.get("rescale_factor", BYTES)
    if not scaled or not isinstance(factor, int | float) or abs(factor - BYTES) > BYTES / 100:
        return Described(Declared(source), (f"{source} scales pixels in another way: type it with --normalise",))
    plain = config.get("do_normalize", True) is False
    text = "none" if plain else _normalisation(config.get("image_mean"), config.get("image_std"))
    return Described(Declared(source, normalisation=text), stated=True)


def _shape(given: Any) -> tuple[int, ...] | None:
    if not isinstance(given, list | tuple) or len(given) != 3:
        return None
    return tuple(given) if all(isinstance(side, int) and 0 < side < 2**15 for side in given) else None


def _normalisation(mean: Any, std: Any) -> str | None:
    """MEAN/STD of two lists of numbers; None for anything else."""
    halves = (mean, std)
    if not all(isinstance(half, Sequence) and half and not isinstance(half, str) for half in halves):
        return None
    if not all(isinstance(value, int | float) for half in halves for value in half):
        return None
    text = "/".join(",".join(repr(float(value)) for value in half) for half in halves)
    identity = {float(value) for value in mean} == {0.0} and {float(value) for value in std} == {1.0}
    return "none" if identity else text
