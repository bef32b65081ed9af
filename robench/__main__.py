"""`python -m robench` is `robench`."""

from .cli.main import main

main()
