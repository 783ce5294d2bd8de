"""The recorded runs of notebook 01 on what a shortcut changes: before training, and after it.

    python experiments/residual.py
    python experiments/residual.py --seeds 5 6 --parts core adam

It runs the lesson's own functions. Before training: what passes through the untrained networks, forwards and
backwards, and how much of the digit can still be read out. After it: shortcut x initialisation (the last BatchNorm
of a block starts with the scale 0 or 1) x optimizer; several times longer; other depths; smaller rates.
Every run goes into notebooks/recorded/01_residual.json as it ends; interrupted, it goes on there. Delete the file to
make all runs anew: about half an hour on two cores.
"""

import argparse

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
from lesson import load
from records import FOLDER, Records

WHAT = "Plain and residual networks on 4,000 MNIST digits of 14x14 pixels (notebook 01): before and after training"
PARTS = ("core", "adam", "longer", "shallow", "start", "rates", "dead", "more", "deep")
BLOCKS = [1, 2, 4, 8, 16]
EPOCHS = 5  # of 63 steps each
USUAL = {"depth": 32, "shortcut": True, "batchnorm": True, "gamma": 1.0, "optimizer": "SGD", "rate": 0.05}
USUAL |= {"epochs": EPOCHS}


def arms(part: str) -> list[dict]:
    """What is trained with every seed."""
    plain, residual = (USUAL | {"shortcut": shortcut} for shortcut in (False, True))
    zero = {"gamma": 0.0}
    adam = {"optimizer": "Adam", "rate": 0.002}
    longer = {"epochs": 6 * EPOCHS}
    return {
        "core": [plain, residual, residual | zero],
        "adam": [plain | adam, residual | adam, residual | adam | zero],
        "longer": [plain | longer],
        "shallow": [kind | {"depth": depth} for depth in (20, 8) for kind in (plain, residual)],
        "rates": [plain | {"rate": rate} for rate in (0.015, 0.005)],
        "dead": [plain | zero, plain | adam | zero],
        "more": [residual | zero | longer, plain | adam | longer],
        "deep": [kind | {"depth": 44} for kind in (plain, residual)],
    }.get(part, [])


def starts(part: str) -> list[dict]:
    """What is looked at before training, with every seed."""
    kinds = [(shortcut, batchnorm, 1.0) for shortcut in (False, True) for batchnorm in (True, False)]
    kinds = [*kinds, (True, True, 0.0)] if part == "start" else []
    return [{"shortcut": shortcut, "batchnorm": batchnorm, "gamma": gamma} for shortcut, batchnorm, gamma in kinds]


class Trained:
    """Compiled networks, one per arm, that take new weights with every seed."""

    def __init__(self, lesson) -> None:
        self.lesson, self.compiled = lesson, {}
        self.digits, self.validation, _ = lesson.data.mnist(size=14)

    def measure(self, arm: dict, seed: int) -> dict:
        lesson, key = self.lesson, str(arm)

        def build():
            return lesson.digit_network(arm["depth"], arm["shortcut"], arm["batchnorm"], arm["gamma"])

        if key not in self.compiled:
            self.compiled[key] = build()
            steps = arm["epochs"] * lesson.math.ceil(len(self.digits) / 64)
            lesson.prepare(self.compiled[key], arm["optimizer"], arm["rate"], steps)
        lesson.start_again(self.compiled[key], build, seed)
        return lesson.train(self.compiled[key], self.digits, self.validation, arm["epochs"])


def before_training(lesson, digits, shortcut: bool, batchnorm: bool, gamma: float, seed: int) -> dict:
    """Signal and gradient along the network of 44 layers, and the read-out after its blocks."""
    lesson.keras.utils.set_random_seed(seed)
    model = lesson.digit_network(44, shortcut, batchnorm, gamma)
    few = lesson.data.balanced_subset(digits, 10, seed=seed)
    many = lesson.data.balanced_subset(digits, 200, seed=seed)
    along = lesson.signal_and_gradient(model, few)
    along = {name: [float(f"{value:.3g}") for value in values] for name, values in along.items()}
    scores = lesson.readout(model, many, BLOCKS)
    return along | {"blocks": BLOCKS, "readout": [round(score, 3) for score in scores]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of the runs")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="which runs")
    parser.add_argument("--record", default=FOLDER / "01_residual.json", help="the file that takes the runs")
    given = parser.parse_args()
    lesson = load("01")
    records = Records(given.record, WHAT, __file__)
    trained = Trained(lesson)
    for part in given.parts:
        for seed in given.seeds:
            for start in starts(part):
                told = {"experiment": "before training", "depth": 44, **start, "seed": seed}
                records.run(lambda: before_training(lesson, trained.digits, **start, seed=seed), **told)  # noqa: B023
            for arm in arms(part):
                told = {"experiment": "training", "digits": len(trained.digits), **arm, "seed": seed}
                records.run(lambda: trained.measure(arm, seed), **told)  # noqa: B023


if __name__ == "__main__":
    main()
