"""Mutated inputs: valid files and texts, changed at random by bytes, by structure and by value, through the commands.

`python -m tests.mutations` runs all of them, `python -m tests.mutations KIND NUMBER` shows one. The inputs depend on
the seed, the kind and the number alone, so a number names the same input on every machine.
"""
