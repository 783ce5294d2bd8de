"""The reference environment: what the committed outputs were made with, and all tests run with.

One rounding behaviour on every x86 machine, whatever its cores, vector units or GPU, and nothing of the reader's
own caches or settings. It must be entered before TensorFlow is imported; kernels inherit it.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((REPOSITORY / "notebooks" / "solutions").glob("[0-9]*.ipynb"))

REFERENCE_ENV = {
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TQDM_DISABLE": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not one of the user's
}


def enter() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker of pytest-xdist inherits what it was started with
        return
    own = Path(tempfile.mkdtemp(prefix="reference-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    os.environ.update(REFERENCE_ENV)
    for variable in ("KERAS_HOME", "HELPERS_CACHE", "IPYTHONDIR"):
        (own / variable).mkdir()
        os.environ[variable] = str(own / variable)
