"""A file in the layout of ResNet50's official weights, with random ones."""

from pathlib import Path

import h5py
import keras
from keras.src.legacy.saving import legacy_h5_format

from helpers.assets import file_digest


def write(file: Path) -> tuple[keras.Model, str]:
    """The network whose weights were written to `file`, and the digest of the file as helpers.weights declares it."""
    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(weights=None)
    with h5py.File(file, "w") as stored:
        legacy_h5_format.save_weights_to_hdf5_group(stored, network)
    return network, f"sha256:{file_digest(file)}"
