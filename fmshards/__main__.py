"""`python -m fmshards` is the `fmshards` command."""

from fmshards.cli import main

main()
