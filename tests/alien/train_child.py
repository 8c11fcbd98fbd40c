"""Runs the command line as a process of its own would, with one fault armed. Started by tests/test_train_run.py."""

import os

from medground.cli import main

if __name__ == "__main__":
    given = globals()
    if given["FAULT"] is not None:
        os.environ["MEDGROUND_FAULT"] = given["FAULT"]
    main(given["ARGUMENTS"])
