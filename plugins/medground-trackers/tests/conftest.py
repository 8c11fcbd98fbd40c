"""Settings that the clients read when they are imported: a folder of the tests' own, and nothing that reports on them."""

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="medground-trackio-")
os.environ |= {
    "TRACKIO_DIR": _folder.name,
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
