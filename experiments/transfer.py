"""The recorded experiment of notebook 03: how much of a pretrained network to keep, for how many images, of which kind.

    python experiments/transfer.py --data FOLDER --elpv WHEEL [--sets cats_dogs,mnist] [--seeds 3]

FOLDER holds cats_dogs.zip, ants_bees.zip, cifar10_jpeg.zip and mnist.npz; WHEEL is elpv-dataset 1.0.0.post1. All are
checked by SHA-256, and read as data. Sets whose file was not named are left out, and that is said. The functions that
freeze, train and probe are the lesson's own. Every run is written as it ends; an interrupted program goes on where it
stopped. First comes one seed of everything at the two main sizes, then the other seeds, then the other sizes, so that
an unfinished record is of use. `--list` prints what is left, with an estimate of the minutes, and ends.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import itertools
import re
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import helpers  # noqa: F401  (before Keras, which it quiets)

# isort: split
import keras
import numpy as np
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

import lesson
import records
from helpers import models
from helpers.advice import advise
from helpers.features import cache_folder
from helpers.images import center_crop, decode_image, resize

L = lesson.load("03")
MIDDLE = 200  # training images at which rates are chosen, with seed 0
RATES = {"fine": (3e-5, 1e-4, 3e-4, 1e-3), "scratch": (3e-4, 1e-3, 3e-3, 1e-2), "probe": (1e-3, 1e-2, 1e-1, 1.0)}
WIDENINGS = 3  # further rates, a third or three times the best, while the best is at an edge
KEPT = (3, 5)  # stages whose output is kept for training what comes after them
PATIENCE = {"fine": 4, "scratch": 10}  # passes without a smaller validation loss after which a training ends
PASSES = {"fine": ((256, 15), (500, 10), (9999, 6)), "scratch": ((9999, 80),)}  # at most, up to so many images
# For --list: images a second that are trained, at 96 pixels on two cores, and passes that a training from scratch takes
SPEED = {"pretrained": {0: 120, 3: 200, 5: 400, 7: 3000}, "random": {0: 85}, "small": {0: 400}}
USUAL_PASSES = 32


class Images(NamedTuple):
    """A part of a data set: uint8, (n, size, size, 3), and labels, (n,)."""

    images: np.ndarray
    labels: np.ndarray

    def take(self, index: np.ndarray) -> Images:
        return Images(self.images[index], self.labels[index])


class DataSet(NamedTuple):
    """Where a data set is, what may be done to its images, the pixels a side at which it is seen, and its sizes."""

    file: str
    sha256: str
    kind: str
    pixels: int
    sizes: tuple[int, ...]


SETS = {
    "elpv": DataSet("", "85e31c11", "cells", 96, (50, 200, 500, 1423)),
    "cats_dogs": DataSet("cats_dogs.zip", "d9f1ebdb", "photographs", 96, (50, 200, 500, 2000)),
    "ants_bees": DataSet("ants_bees.zip", "dbc128ba", "photographs", 96, (50, 196)),
    "mnist": DataSet("mnist.npz", "06af5dfe", "digits", 64, (50, 200, 500, 2000)),
    "cifar10": DataSet("cifar10_jpeg.zip", "18e00843", "photographs", 64, (50, 200, 500, 2000)),
}


# --- the data: a pool from which training images are drawn, and validation and test images that stay the same ---


def split(images: Images, sizes: tuple[int, ...], seed: int = 0) -> list[Images]:
    """Parts of these sizes, drawn at random with the classes in proportion; no image is in two of them."""
    left, parts = np.arange(len(images.labels)), []
    for size in sizes:
        if size < len(left):
            part, left = train_test_split(left, train_size=size, stratify=images.labels[left], random_state=seed)
        else:
            part, left = left, left[:0]
        parts.append(images.take(np.sort(part)))
    return parts


def read_zip(archive: zipfile.ZipFile, label_of: dict[str, int], pixels: int) -> Images:
    """The files {name: label} of an archive, cropped to their central square and scaled."""
    names = sorted(label_of)
    images = [center_crop(decode_image(archive.read(name), name), pixels, fraction=1.0) for name in names]
    return Images(np.stack(images), np.array([label_of[name] for name in names]))


def in_folders(archive: zipfile.ZipFile, part: str) -> dict[str, int]:
    """{file: label} of the image files below a folder that holds one folder per class."""
    found = [re.fullmatch(rf"(?:.*/)?{part}/([^/]+)/[^/]+\.jpe?g", name) for name in archive.namelist()]
    classes = sorted({match[1] for match in found if match})
    return {match[0]: classes.index(match[1]) for match in found if match}


def some_of_each(label_of: dict[str, int], n: int, random: np.random.Generator) -> dict[str, int]:
    """`n` of the files {name: label} of each class, drawn at random."""
    chosen = {}
    for label in range(max(label_of.values()) + 1):
        files = [file for file, own in label_of.items() if own == label]
        chosen |= {files[i]: label for i in random.permutation(len(files))[:n]}
    return chosen


def read(name: str, folder: Path, elpv: Path) -> tuple[Images, Images, Images]:
    """Pool, validation and test images of a data set. Raises ValueError for a file that is not the one expected."""
    file, sha256, _, pixels, _ = SETS[name]
    path = folder / file if file else elpv
    content = path.read_bytes()
    if not hashlib.sha256(content).hexdigest().startswith(sha256):
        raise ValueError(f"{path} is not the file that this experiment was made for (SHA-256)")
    if name == "mnist":
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            parts = [Images(arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int64)) for part in ("train", "test")]
        known, test = split(parts[0], (2700,))[0], split(parts[1], (2000,))[0]
        known, test = (Images(resize(np.repeat(p.images[..., None], 3, -1), pixels), p.labels) for p in (known, test))
        return *split(known, (2500, 200)), test
    archive = zipfile.ZipFile(io.BytesIO(content))
    if name == "elpv":
        rows = [line.split() for line in archive.read("elpv_dataset/data/labels.csv").decode().splitlines()]
        sure = {f"elpv_dataset/data/{row[0]}": int(float(row[1])) for row in rows if float(row[1]) in (0, 1)}
        return tuple(split(read_zip(archive, sure, pixels), (1423, 200, 600)))
    train, test = (in_folders(archive, part) for part in ("train", "test"))
    if name == "cifar10":  # 60,000 files: a few of each class
        random = np.random.default_rng(0)
        train, test = some_of_each(train, 270, random), some_of_each(test, 200, random)
        return *split(read_zip(archive, train, pixels), (2500, 200)), read_zip(archive, test, pixels)
    train, test = read_zip(archive, train, pixels), read_zip(archive, test, pixels)
    if name == "cats_dogs":
        return train, *split(test, (200, 1800))
    return *split(train, (196, len(train.labels) - 196)), test


# --- one data set, with what is computed once for all of its runs ---


class Bench:
    """Trains and tests on one data set. Frozen features and compiled networks are made when first needed, and kept."""

    def __init__(self, name: str, folder: Path, elpv: Path) -> None:
        self.pool, self.validation, self.test = read(name, folder, elpv)
        self.folder = cache_folder() / "transfer" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kind, self.pixels = SETS[name].kind, SETS[name].pixels
        self.classes = int(self.pool.labels.max()) + 1
        self.versions = lru_cache(maxsize=1)(lambda: L.variants(self.pool.images, self.kind))
        self.frozen, self.network = lru_cache(maxsize=None)(self._frozen), lru_cache(maxsize=None)(self._network)

    def draw(self, n: int, seed: int) -> np.ndarray:
        everything = np.arange(len(self.pool.labels))
        if n >= len(everything):
            return everything
        return train_test_split(everything, train_size=n, stratify=self.pool.labels, random_state=seed)[0]

    def _network(self, what: str, k: int, norm: str) -> tuple:
        """(part that is trained, whole network, weights at the start), compiled, for one kind of training."""
        whole = self._build(what)
        if what == "pretrained":
            L.freeze(whole, k)
        for layer in whole.layers:
            if isinstance(layer, keras.layers.BatchNormalization) and norm == "trained":
                layer.trainable = True
                layer.momentum = 0.9 if what == "random" else layer.momentum
        # pooled features are kept where all stages are frozen: then only the output layer is left
        upper = keras.Model(whole.layers[-2].output, whole.output) if k == len(L.STAGES) else L.later_stages(whole, k)
        upper.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return upper, whole, whole.get_weights()

    def _build(self, what: str) -> keras.Model:
        """A network with its output layer, of random weights unless it is the pretrained one."""
        if what == "small":
            return L.small_cnn(self.pixels, self.classes)
        weights = "imagenet" if what == "pretrained" else None
        return L.add_output_layer(
            models.efficientnet_lite0(self.pixels, weights=weights, include_top=False), self.classes
        )

    def _frozen(self, what: str) -> dict[int, list[np.ndarray]]:
        """{k: what the first k stages make of all variants of the pool, of validation and of test images}.

        The features after the last stage are pooled; a control has only them. They are kept in files, and stay there
        while they are used.
        """
        files = {k: [self.folder / f"{what}_{k}_{part}.npy" for part in range(3)] for k in (*KEPT, 7)}
        if not (self.folder / what).exists():
            parts = [*self.versions(), self.validation.images, self.test.images]
            for k, values in self._features(what, parts).items():
                for file, value in zip(files[k], (np.stack(values[:-2]), *values[-2:]), strict=True):
                    np.save(file, value)
            (self.folder / what).touch()
        return {k: [np.load(file, mmap_mode="r") for file in some] for k, some in files.items() if some[0].exists()}

    def _features(self, what: str, parts: list[np.ndarray]) -> dict[int, list[np.ndarray]]:
        if what in ("pixels", "histogram"):
            return {7: [pixels(part) if what == "pixels" else L.colour_histogram(part) for part in parts]}
        keras.utils.set_random_seed(0)
        weights = "imagenet" if what == "pretrained" else None
        base = models.efficientnet_lite0(self.pixels, weights=weights, include_top=False)
        if not weights:
            L.settle_statistics(base, self.pool.images[self.draw(64, 0)])
        kept = {k: base.get_layer(L.STAGES[k - 1]).output for k in (KEPT if weights else ())}
        kept[7] = keras.layers.GlobalAveragePooling2D()(base.output)
        network = keras.Model(base.input, kept)
        found = [network.predict(np.ascontiguousarray(part), verbose=0, batch_size=64) for part in parts]
        return {k: [one[k] for one in found] for k in kept}

    def probe(self, what: str, k: int, n: int, seed: int, rate: float) -> dict:
        """A logistic regression on the pooled features after k stages, or on a control's; `rate` is its C."""
        parts = self.frozen(what)[k]
        versions, validation, test = (p.mean(axis=(-3, -2)) if k in KEPT else p for p in parts)
        index, times = self.draw(n, seed), len(versions)
        x = versions[:, index].reshape(-1, versions.shape[-1])
        weights, biases = L.linear_probe(x, np.tile(self.pool.labels[index], times), rate / times)
        said, tested = (keras.ops.softmax(part @ weights + biases).numpy() for part in (validation, test))
        loss = log_loss(self.validation.labels, said, labels=range(self.classes))
        return self.result(tested, loss, (said.argmax(1) == self.validation.labels).mean())

    def advice(self, n: int, seed: int) -> dict:
        """What the lesson's `advise` says of these training images."""
        part = self.pool.take(self.draw(n, seed))
        said = advise(part.images, part.labels, size=self.pixels)
        accuracy = {name: round(share, 4) for name, share in said.accuracy.items()}
        return {"recipe": said.recipe, "similar": said.similar, "accuracy": accuracy}

    def majority(self) -> dict:
        most = np.bincount(self.pool.labels).argmax()
        said = np.eye(self.classes)[np.full(len(self.test.labels), most)]
        return self.result(said, 0.0, (self.validation.labels == most).mean())

    def train(self, what: str, k: int, n: int, seed: int, rate: float, norm: str, head: str, c: float) -> dict:
        """Train all but the first k stages of a network and test it. `head` "probe": start from a linear probe."""
        upper, whole, start = self.network(what, k, norm)
        keras.utils.set_random_seed(seed)
        index = self.draw(n, seed)
        if what == "pretrained":
            whole.set_weights(start)
        else:
            whole.set_weights(self._build(what).get_weights())
        if head == "probe":
            features = self.frozen(what)[7][0]
            labels = np.tile(self.pool.labels[index], len(features))
            x = features[:, index].reshape(-1, features.shape[-1])
            whole.layers[-1].set_weights(L.linear_probe(x, labels, c / len(features)))
        elif what == "pretrained":
            whole.layers[-1].set_weights([0.01 * np.random.randn(*w.shape) for w in whole.layers[-1].get_weights()])
        versions, validation, test = self.frozen(what)[k] if k else (self.versions(), *self.parts())
        before = {layer.name: layer.get_weights() for layer in whole.layers}
        batches = L.OneVariant(versions, self.pool.labels, index, seed)
        group, passes = group_of("train", what), most_passes("train", what, n)
        gently, patience = group == "fine", PATIENCE[group]
        callbacks = L.gently(rate, passes, patience) if gently else L.until_it_stops(rate, patience)
        curves = L.fit(upper, batches, (validation, self.validation.labels), passes, callbacks)
        best = int(np.argmin(curves["val_loss"]))
        said = upper.predict(test, verbose=0, batch_size=64)
        more = {"passes": len(curves["loss"]), "best": best}
        more |= {name: [round(min(float(v), 99.0), 3) for v in curves[name]] for name in ("loss", "val_loss")}
        more["trainable"] = models.parameter_counts(whole)[1]
        if what == "pretrained" and k == 0:
            more["moved"] = [round(float(distance), 5) for distance in L.moved(whole, before)]
        return self.result(said, curves["val_loss"][best], curves["val_accuracy"][best]) | more

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        return self.validation.images, self.test.images

    def result(self, said: np.ndarray, loss: float, accuracy: float) -> dict:
        """Test accuracy, and for every test image whether it was right: eight images a byte, in base64."""
        right = said.argmax(axis=1) == self.test.labels
        numbers = {"validation": round(float(accuracy), 4), "validation_loss": round(float(min(loss, 99)), 4)}
        packed = base64.b64encode(np.packbits(right)).decode()
        return numbers | {"test": round(float(right.mean()), 4), "tested": len(right), "right": packed}


def pixels(images: np.ndarray) -> np.ndarray:
    """Control: the image itself, at 16 x 16 places."""
    return resize(np.ascontiguousarray(images), 16).reshape(len(images), -1).astype(np.float32) / 255


# --- the runs, in the order in which they are worth most ---


def run(bench: Bench, record: records.Records, **settings) -> dict:
    """The recorded run with these settings, made if it is not there."""
    s = settings
    if s["strategy"] == "majority":
        return record.run(bench.majority, **settings)
    if s["strategy"] == "advice":
        return record.run(lambda: bench.advice(s["n"], s["seed"]), **settings)
    if s["strategy"] == "probe":
        return record.run(lambda: bench.probe(s["network"], s["k"], s["n"], s["seed"], s["rate"]), **settings)
    c = chosen_rate(record, s["data"], "probe", "pretrained", 7) or 0.01
    return record.run(
        lambda: bench.train(s["network"], s["k"], s["n"], s["seed"], s["rate"], s["norm"], s["head"], c), **settings
    )


def of_strategy(strategy: str, network: str, k: int, norm: str = "", head: str = "") -> dict:
    """The settings that say what is done, apart from data, size, seed and rate."""
    if strategy in ("probe", "advice"):
        return {"strategy": strategy, "network": network, "k": k}
    usual = ("frozen", "probe") if network == "pretrained" else ("trained", "random")
    return {"strategy": strategy, "network": network, "k": k, "norm": norm or usual[0], "head": head or usual[1]}


def group_of(strategy: str, network: str) -> str:
    """Which of the RATES are tried."""
    return "probe" if strategy == "probe" else "fine" if network == "pretrained" else "scratch"


def most_passes(strategy: str, network: str, n: int) -> int:
    return next(passes for most, passes in PASSES[group_of(strategy, network)] if n <= most)


def tried(record: records.Records, data: str, *what) -> dict[float, float]:
    """{rate: validation loss} at the middle size, seed 0."""
    runs = record.find(data=data, n=middle(data), seed=0, **of_strategy(*what))
    return {run["rate"]: run["validation_loss"] for run in runs}


def chosen_rate(record: records.Records, data: str, *what) -> float | None:
    """The rate with the least validation loss at the middle size, seed 0; the smallest of several; None before that."""
    losses = tried(record, data, *what)
    return min(sorted(losses), key=losses.get) if len(losses) >= 4 else None


def middle(data: str) -> int:
    return min(SETS[data].sizes, key=lambda n: abs(n - MIDDLE))


def tune(bench: Bench, record: records.Records, data: str, *what) -> float:
    """Try four rates at the middle size, and up to WIDENINGS others beyond the edge while the best is there."""
    further = list(RATES[group_of(*what[:2])])
    while further:
        for rate in further:
            run(bench, record, data=data, n=middle(data), seed=0, rate=rate, **of_strategy(*what))
        losses, best = tried(record, data, *what), chosen_rate(record, data, *what)
        inside = min(losses) < best < max(losses)
        none = len(set(losses.values())) == 1  # none was better than the start
        over = inside or none or len(losses) >= 4 + WIDENINGS
        further = [] if over else [float(f"{best / 3 if best == min(losses) else best * 3:.0e}")]
    return best


PROBES = [("probe", "pretrained", 7), ("probe", "pretrained", 5), ("probe", "pretrained", 3)]
PROBES += [("probe", "random", 7), ("probe", "pixels", 7), ("probe", "histogram", 7)]
TRAIN = [("train", "pretrained", 5), ("train", "pretrained", 0), ("train", "small", 0)]
MORE = [("train", "pretrained", 3)]
SAME = [("train", "random", 0)]
CONTROLS = [("train", "pretrained", 0, "trained", "probe"), ("train", "pretrained", 0, "frozen", "random")]
CONTROLS += [("train", "pretrained", 7, "frozen", "random")]
CONTROLLED, OTHER_KINDS = ("elpv", "cats_dogs"), ("elpv", "mnist")  # the latter get three seeds of SAME
ADVICE = [("advice", "pretrained", 0)]


class Step(NamedTuple):
    """Runs of one data set: each of the strategies with each number of training images, with one seed."""

    data: str
    seed: int
    strategies: list[tuple]
    sizes: tuple[int, ...]


def plan(sets: list[str], seeds: int) -> list[Step]:
    """The steps, the most useful first: everything with the first seed at the main sizes, the middle and the largest.

    The same network from scratch, which takes longest, gets further seeds where the article asks for it, and at the
    other sizes one seed, last; three stages are frozen at the main sizes only.
    """
    size = {data: SETS[data].sizes for data in sets}
    others = {data: tuple(n for n in size[data] if n not in (middle(data), size[data][-1])) for data in sets}
    main = {data: tuple(n for n in size[data] if n not in others[data]) for data in sets}
    steps = [Step(data, seed, PROBES, size[data]) for data in sets for seed in range(seeds)]
    for first in (True, False):
        for data in sets:
            for seed in [0] if first else range(1, seeds):
                steps += [Step(data, seed, TRAIN + MORE, main[data])]
                steps += [Step(data, seed, CONTROLS, (middle(data),))] if data in CONTROLLED else []
                steps += [Step(data, seed, ADVICE, size[data])] if first else []
        steps += [Step(data, 0, SAME, main[data]) for data in sets] if first else []
    steps += [Step(data, seed, TRAIN, others[data]) for data in sets for seed in range(seeds)]
    steps += [Step(data, seed, SAME, main[data]) for data in sets if data in OTHER_KINDS for seed in range(1, seeds)]
    return steps + [Step(data, 0, SAME, others[data]) for data in sets]


def minutes_left(record: records.Records, step: Step, counted: set) -> float:
    """About how long the step's missing runs take; a tuning that is `counted` already is not counted again."""
    total, (data, seed) = 0.0, step[:2]
    for what, n in itertools.product(step.strategies, step.sizes):
        known = 0.0 if what in ADVICE else chosen_rate(record, data, *what)
        if what not in ADVICE and (data, what) not in counted:
            counted.add((data, what))
            left = max(0, 4 - len(tried(record, data, *what)))
            total += left * minutes(data, what, middle(data))
        if known is None or not record.find(data=data, n=n, seed=seed, rate=known, **of_strategy(*what)):
            total += minutes(data, what, n) if known is not None or (n, seed) != (middle(data), 0) else 0
    return total


def minutes(data: str, what: tuple, n: int) -> float:
    """About how long one run takes on two cores that do nothing else."""
    (strategy, network, k, *_), scale = what, (SETS[data].pixels / 96) ** 1.7
    if strategy != "train":
        return 0.5 * scale if strategy == "advice" else 0.01
    passes = most_passes(strategy, network, n) if network == "pretrained" else USUAL_PASSES
    return scale * passes * (max(n, 256) / SPEED[network][k] + 200 / 350) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", metavar="FOLDER", help="of all sets but elpv")
    parser.add_argument("--elpv", default="", metavar="WHEEL", help="of the solar cells")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--record", type=Path, default=records.FOLDER / "03_transfer.json")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    what = "Pretrained and random EfficientNet-Lite0, k of 7 stages frozen, and a small network; see the program"
    record = records.Records(options.record, what, __file__)
    sets = [name for name in options.sets.split(",") if (options.data if SETS[name].file else options.elpv)]
    if left_out := [name for name in options.sets.split(",") if name not in sets]:
        print(f"{', '.join(left_out)}: the files were not named; their runs are left out")
    counted = set()
    steps = [(step, minutes_left(record, step, counted)) for step in plan(sets, options.seeds)]
    print(f"about {sum(some for _, some in steps) / 60:.1f} hours are left", flush=True)
    bench, held = None, ""
    for step, some in steps:
        if not some:
            continue
        data, seed, strategies, sizes = step
        names = ", ".join(dict.fromkeys(" ".join(map(str, one)) for one in strategies))
        print(f"--- {data}, seed {seed}, {sizes} images: {names}; about {some:.1f} min", flush=True)
        if options.list:
            continue
        if data != held:
            bench = None
            keras.utils.clear_session()
            bench, held = Bench(data, Path(options.data), Path(options.elpv)), data
        if seed == 0:
            run(bench, record, data=data, n=0, seed=0, rate=0.0, strategy="majority")
        for n, strategy in itertools.product(sizes, strategies):
            rate = 0.0 if strategy in ADVICE else tune(bench, record, data, *strategy)
            run(bench, record, data=data, n=n, seed=seed, rate=rate, **of_strategy(*strategy))


if __name__ == "__main__":
    main()
