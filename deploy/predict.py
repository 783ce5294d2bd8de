"""Classify a folder of images with a model from notebook 05. Needs onnxruntime, Pillow and NumPy, nothing else.

    python predict.py MODEL IMAGES [CSV]

MODEL is model.onnx or the folder that holds it, IMAGES a folder, CSV the table to write (predictions.csv).
"""

import csv
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")  # of all that Pillow reads; others may start programs
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")
MAX_SIDE, MAX_PIXELS = 30_000, 100_000_000
warnings.filterwarnings("ignore", module=r"PIL\.")  # what Pillow thinks of a damaged file is said once, by us


def read(file, size: int, name: str = "") -> np.ndarray:
    """The central square of an image, as a person would see it: uint8, (size, size, 3), RGB. Training reads by it too.

    The EXIF orientation is applied, 16-bit grey scaled, transparency laid on white; of an animation the first image
    is read. file: a path or an open file. Raises ValueError, with `name`, for what is no image or too large.
    """
    name = name or str(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                raise ValueError(f"{image.width} x {image.height} pixels are too many: scale it down first")
            image.draft("RGB", (2 * size, 2 * size))  # JPEG files are decoded at a fraction of their size
            image = ImageOps.exif_transpose(image)
            if image.mode == "F":
                raise ValueError("floating-point pixels have no agreed range: save it as JPEG or PNG")
            if image.mode.startswith("I"):
                grey = (np.clip(np.asarray(image), 0, 65535).astype(np.uint32) + 128) // 257
                image = Image.fromarray(grey.astype(np.uint8))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
    except Image.DecompressionBombError:  # Pillow's own limit, on opening the file
        raise ValueError(f"{name}: its pixels are too many: scale it down first") from None
    except Exception as error:  # decoders of damaged files raise nearly every kind
        reason = str(error) if type(error) is ValueError else getattr(error, "strerror", None)  # of a file that is gone
        reason = reason or f"damaged, cut off or no image ({type(error).__name__})"
        raise ValueError(f"{name}: {reason}") from None


class Model:
    """model.onnx with what belongs to it: the class names, the image size, the threshold, when to refuse."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path, "model.onnx") if Path(path).is_dir() else Path(path)
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            about = json.loads(self.session.get_modelmeta().custom_metadata_map["own_images"])
            self.classes, self.size, self.positive = about["classes"], about["size"], about["positive"]
            self.threshold, self.refuse_below = about["threshold"], about["refuse_below"]
            self.predict(np.zeros((self.size, self.size, 3), np.uint8))  # does it take such images?
        except KeyError:
            raise ValueError(f"{path} is an ONNX model, but not one of notebook 05: make one by `make model`") from None
        except Exception as error:
            reason = "is not there" if not path.exists() else f"is damaged or no ONNX model ({type(error).__name__})"
            raise ValueError(f"{path} {reason}: give the folder that `make model` wrote") from None

    def predict(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the classes, and the evidence for each at each place of the image, (rows, columns, n)."""
        inputs = {self.session.get_inputs()[0].name: image[None].astype(np.float32)}
        probabilities, evidence = sorted(self.session.run(None, inputs), key=np.ndim)
        return probabilities[0], evidence[0]

    def decide(self, probabilities: np.ndarray) -> tuple[int, float, bool]:
        """(index of the class, its probability, whether it is refused, that is: left to a person)."""
        label = int(probabilities.argmax())
        if self.positive >= 0:  # of two classes, the one whose cost chose the threshold
            label = self.positive if probabilities[self.positive] >= self.threshold else 1 - self.positive
        return label, float(probabilities[label]), bool(probabilities.max() < self.refuse_below)


def rows(model: Model, folder: Path):
    """A row per image in `folder`, at any depth: file, class, probability, refused (or why it cannot be read)."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise ValueError(f"{folder} is not a folder with images: give one that holds {', '.join(SUFFIXES)} files")
    for file in files:
        name = file.relative_to(folder).as_posix()
        try:
            label, probability, refused = model.decide(model.predict(read(file, model.size, name))[0])
            yield name, model.classes[label], f"{probability:.6f}", "yes" if refused else "no"
        except ValueError as error:
            yield name, "", "", str(error)


def main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(arguments[2] if len(arguments) == 3 else "predictions.csv")
    new = target.with_name(target.name + ".new")
    try:
        table = list(rows(Model(arguments[0]), Path(arguments[1])))
        with open(new, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([("file", "class", "probability", "refused"), *table])
        os.replace(new, target)
    except (ValueError, OSError) as error:
        new.unlink(missing_ok=True)
        print(f"error: {error}", file=sys.stderr)
        return 1
    unread = sum(not row[1] for row in table)
    print(f"{target}: {len(table)} images, {sum(r[3] == 'yes' for r in table)} refused, {unread} not readable")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
