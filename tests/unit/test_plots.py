"""helpers.plots: what is drawn is what was given, nothing cut off, bad input refused."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bad_input import rows

from helpers import plots


@pytest.fixture(autouse=True)
def no_figures():
    plt.close("all")


def axes():
    """The axes of the one figure that was drawn."""
    assert len(plt.get_fignums()) == 1
    return plt.gcf().axes


def nothing_cut_off() -> None:
    """All that is drawn lies inside the figure."""
    figure = plt.gcf()
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 > -0.02 and drawn.y0 > -0.02 and drawn.x1 < width + 0.02 and drawn.y1 < height + 0.02, drawn


def grey(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def test_image_grid_shows_every_image_under_its_title():
    plots.image_grid([grey(10), grey(20), grey(30)], "abc", columns=2, colours=["green", "red", "k"], title="t")
    shown = [(a.images[0].get_array()[0, 0, 0], a.get_title(), a.title.get_color()) for a in axes() if a.images]
    assert shown == [(10, "a", "green"), (20, "b", "red"), (30, "c", "k")]
    assert not any(a.axison for a in axes()) and plt.gcf().get_suptitle() == "t"
    nothing_cut_off()


@pytest.mark.parametrize(("given", "sentence"), rows("titles of images"))
def test_image_grid_refuses_other_lengths(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        plots.image_grid([grey(0)] * given["images"], list(given["titles"]))
    assert not plt.get_fignums()
