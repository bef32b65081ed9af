"""`python -m robench` is `robench`."""

import os
import sys

# Python looks for modules in the current folder first, where files of strangers may lie.
if sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from .cli.main import main

main()
