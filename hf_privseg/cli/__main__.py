"""`python -m hf_privseg.cli` is the program `privseg`."""

from .app import main

main()
