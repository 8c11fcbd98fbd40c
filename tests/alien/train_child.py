"""Runs the command line as a process of its own would, with one fault armed. Started by tests/test_train_run.py."""

import os

from medground.cli import main

if FAULT is not None:  # noqa: F821  given by whoever runs this file
    os.environ["MEDGROUND_FAULT"] = FAULT  # noqa: F821
main(ARGUMENTS)  # noqa: F821
