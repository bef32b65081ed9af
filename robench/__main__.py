"""`python -m robench` is `robench`."""

import os
import sys

# Python searches the current folder for modules first, and untrusted files may lie there.
if sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from .cli.main import main

main()
