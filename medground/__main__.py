"""``python -m medground`` is the command line."""

from medground.cli import main

main()
