"""Pictures of runs: functions from records and arrays to matplotlib figures.

This package opens no window, reads no file and queries no model.
"""

from .along import Walk, walks
from .curve import curves
from .features import Placed, feature_planes, often_confused
from .first_layer import Layer, Raised, first_layers
from .gallery import Shown, contact_sheet, galleries, nearest
from .landscape import Surface, landscapes
from .picture import FORMS, Album, Material, Picture, image_bytes
from .queries import queries
from .trade_off import trade_offs

KINDS = ("curve", "trade-off", "queries", "landscape", "along", "first-layer", "features", "gallery")

__all__ = [
    "FORMS",
    "KINDS",
    "Album",
    "Layer",
    "Material",
    "Picture",
    "Placed",
    "Raised",
    "Shown",
    "Surface",
    "Walk",
    "contact_sheet",
    "curves",
    "feature_planes",
    "first_layers",
    "galleries",
    "image_bytes",
    "landscapes",
    "nearest",
    "often_confused",
    "queries",
    "trade_offs",
    "walks",
]
