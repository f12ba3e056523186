"""A run of a trial, in its own process: ``python -m fmnist.sweep fit ...`` is ``python -m fmnist fit ...``.

Only its exit code differs, ``SETUP_CODE`` where the data, a folder or the disk is at fault and not the trial.
"""

import os
import sys

if __name__ == "__main__" and sys.path[0] == os.getcwd():  # noqa: PTH109 - as fmnist/__main__.py
    del sys.path[0]

from fmnist.__main__ import main
from fmnist.errors import SETUP_CODE

if __name__ == "__main__":
    sys.exit(main(setup_code=SETUP_CODE))
