"""The comparison of the committed notebooks with a new run: all that this project knows of nbval.

nbval compares text and never images. Here a figure that became another one (a lost curve, another photograph, an
empty axis) is seen at 64 x 64 grey values; fonts and antialiasing are not.
"""

import base64
import io

import numpy as np
from PIL import Image

LARGEST_DIFFERENCE = 6.0  # mean over the pixels, of 255


def figures(outputs) -> list[np.ndarray]:
    """The PNG images of a cell's outputs, each as 64 x 64 grey values."""
    coded = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    opened = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA") for text in coded]
    on_white = [Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert("L") for p in opened]
    return [np.asarray(p.resize((64, 64), Image.Resampling.BOX), np.float32) for p in on_white]


def figure_fault(new_outputs, committed_outputs) -> str:
    """What is wrong with the figures of a cell, or an empty string."""
    new, committed = figures(new_outputs), figures(committed_outputs)
    if len(new) != len(committed):
        return f"{len(new)} figures, but the committed notebook has {len(committed)}"
    for number, (a, b) in enumerate(zip(new, committed, strict=True), 1):
        if (difference := float(np.abs(a - b).mean())) > LARGEST_DIFFERENCE:
            return f"figure {number} differs from the committed one by {difference:.1f} grey values on average"
    return ""


def compare_figures_too() -> None:
    """Called by conftest when pytest is configured: from then on nbval compares figures as well."""
    from nbval.plugin import IPyNbCell

    compare_text = IPyNbCell.compare_outputs

    def compare_outputs(self, test, ref, skip_compare=None):
        same = compare_text(self, test, ref, skip_compare)
        if same and (fault := figure_fault(test, ref)):
            self.comparison_traceback.append(fault)
            return False
        return same

    IPyNbCell.compare_outputs = compare_outputs
