"""robench: how much accuracy is left, against more than one kind of attack, with evidence."""

__version__ = "0.1.0"
