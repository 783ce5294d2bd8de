"""Data and models that the notebooks share. Import it first: it quiets TensorFlow.

TensorFlow's C++ core writes start-up lines that no reader needs (missing CUDA, CPU features,
rounding notes), some of which no log level removes. Importing this package imports TensorFlow
once with that stream held back, and shows what was held back if the import fails.
"""

import ctypes
import gc
import logging
import os
import sys
import tempfile
import warnings


def _import_tensorflow_quietly() -> None:
    """Import TensorFlow and find its devices with the C++ start-up lines held back."""
    if "tensorflow" in sys.modules:
        raise ImportError("helpers must be imported before tensorflow and keras: put `import helpers` first")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    stderr_fd = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            held_back.seek(0)
            os.write(stderr_fd, held_back.read())
            raise
        finally:
            os.dup2(stderr_fd, 2)
            os.close(stderr_fd)
    tf.get_logger().setLevel(logging.ERROR)  # retracing notices, which carry object addresses


def free_memory() -> None:
    """Give back to the system what nobody uses any more; without it glibc keeps freed memory for later."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in kernels without ipywidgets
_import_tensorflow_quietly()
