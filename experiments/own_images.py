"""The recorded runs of notebook 05: solar cells by the paper's way, the BatchNorm trap, teachers, and two real folders.

    make full NB=05            or, with copies of the folders:
    python experiments/own_images.py --ants-bees ZIP --cats-dogs ZIP

Each ZIP holds train/<class>/ and test/<class>/. Without one, its runs are left out, and that is said. Every run goes
into 05_own_images.json as it ends, a training is kept epoch by epoch; interrupted, it goes on there.
"""

import argparse
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import keras
import numpy as np
from sklearn.model_selection import StratifiedKFold

import lesson
from helpers.data import image_folder
from helpers.features import extract
from helpers.models import efficientnet_lite
from records import FOLDER, Records
from training import forget, train_by_epochs

FILE = FOLDER / "05_own_images.json"
WHAT = "Notebook 05's own functions: linear probes and fine-tuning on solar cells and two folders of photographs."
SEEDS = (0, 1, 2)
FINE_TUNING = {"size": 160, "frozen_blocks": 0, "rate": 2e-4, "epochs": 8, "batchnorm": "frozen"}
# More pixels, more passes, and the experts' doubts as targets: fixed before its first run, since the validation cells
# are too few to tell such recipes apart (CANDIDATES).
LONGER = FINE_TUNING | {"size": 192, "epochs": 12, "targets": "soft"}
# Judged on the validation cells: a cell trained as one class ("hard") or with the experts' probability ("soft").
CANDIDATES = (FINE_TUNING | {"targets": "hard"}, FINE_TUNING | {"targets": "soft"})
TRAP = {"size": 96, "frozen_blocks": 0, "rate": 2e-4, "epochs": 6}
# Rows of ImageNet's output layer for classes of the two folders: (first, last).
RELATED = {"ants": (310, 310), "bees": (309, 309), "cats": (281, 285), "dogs": (151, 268)}


def right(head, features, labels):
    """Whether the head, a kernel and a bias, is right about each image."""
    kernel, bias = head
    return (features @ kernel + bias).argmax(axis=1) == labels


class SolarCells:
    """The cells at one size, with features and the paper's split by seed; read when they are asked for."""

    def __init__(self, shown) -> None:
        self.shown, self.size = shown, 0

    def at(self, size):
        if size != self.size:
            self.cells, self.strata = self.shown.solar_cells(size)
            probability = np.array([float(stratum.split()[0]) for stratum in self.strata])
            self.sure = (probability == 0) | (probability == 1)
            self.doubts = np.column_stack([1 - probability, probability]).astype("float32")
            _, pooled = self.shown.teacher(0, size)
            self.features, self.size = np.array(extract(pooled, self.cells.images)), size
        return self

    def split(self, seed):
        """75 % and 25 %: what the lesson trains and validates with, and its test images."""
        train, validation, test = self.shown.paper_split(self.strata, seed)
        return np.concatenate([train, validation]), test


def told(judged, hits, sure):
    """The share of right answers about the judged images, and about those where the experts were sure."""
    shares = {judged: round(float(hits.mean()), 4), f"{judged}_sure": round(float(hits[sure].mean()), 4)}
    return shares | {"tested": len(hits)}


def solar_probe(shown, solar, size, seed):
    solar.at(size)
    train, test = solar.split(seed)
    labels = solar.cells.labels
    head = shown.probe(solar.features[train], labels[train], 2)
    return {"trained": len(train), **told("test", right(head, solar.features[test], labels[test]), solar.sure[test])}


def solar_tuned(shown, solar, size, frozen_blocks, rate, epochs, batchnorm, seed, targets="hard", judged="test"):
    """Trained from the probe on, for a fixed number of passes, then asked about the judged images, once.

    judged "test": all of the paper's 75 % are trained on. "validation": the lesson's training images, for choices.
    """
    solar.at(size)
    if judged == "test":
        train, asked = solar.split(seed)
    else:
        train, asked, _ = shown.paper_split(solar.strata, seed)
    images, labels = solar.cells.images, solar.cells.labels
    whole = SimpleNamespace(images=images, labels=labels if targets == "hard" else solar.doubts)
    head = shown.probe(solar.features[train], labels[train], 2)
    name = f"05_{size}_{frozen_blocks}_{rate}_{epochs}_{batchnorm}_{targets}_{judged}_{seed}"

    def build():
        backbone = efficientnet_lite(0, size, include_top=False)
        model = shown.classifier(backbone, *head)
        network = keras.Model(model.input, model.outputs[0])
        shown.unfreeze(network, frozen_blocks, rate, epochs * -(-len(train) // 32), batchnorm)
        if targets == "soft":
            network.compile(network.optimizer, "categorical_crossentropy")
        return network

    def train_epoch(model, epoch):
        loss = shown.one_pass(model, whole, train, "both", (seed, epoch))
        answers = model.predict(images[asked], verbose=0).argmax(axis=1)
        return {"loss": loss, judged: float(np.mean(answers == labels[asked]))}

    model, curves = train_by_epochs(name, build, train_epoch, epochs, seed)
    x = images[asked]
    views = [model.predict(view, verbose=0) for view in (x, x[:, ::-1], x[:, :, ::-1], x[:, ::-1, ::-1])]
    hits = views[0].argmax(axis=1) == labels[asked]
    flipped = np.mean(views, axis=0).argmax(axis=1) == labels[asked]
    probe = right(head, solar.features[asked], labels[asked])
    points, half = shown.gain(hits, probe)
    forget(name)
    result = {
        "trained": len(train),
        **told(judged, hits, solar.sure[asked]),
        f"{judged}_four_flips": round(float(flipped.mean()), 4),
    }
    gain = {"points_over_probe": round(float(points), 1), "half_interval": round(float(half), 1)}
    curve = [round(value, 4) for value in curves[judged]]
    return {**result, **gain, "curve": curve, "seconds": sum(curves["seconds"])}


def compared_teacher(shown, solar, version, size):
    """Cross-validated probe on all but the test images of seed 0, and how long the features took."""
    solar.at(size)
    _, pooled = shown.teacher(version, size)
    start = time.perf_counter()
    features = np.array(extract(pooled, solar.cells.images, cache=False))
    seconds = time.perf_counter() - start
    known, _ = solar.split(0)
    labels = solar.cells.labels[known]
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(known, labels))
    hits = shown.cross_validated(features[known], labels, folds)
    return {"cross_validated": round(float(hits.mean()), 4), "images_per_second": round(len(features) / seconds, 1)}


def folder_probe(shown, path, size):
    """A folder with train/ and test/: the probe, and a head of ImageNet's rows that saw none of its images."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(path).extractall(folder)
        root = next(place.parent for place in sorted(Path(folder).rglob("train")) if place.is_dir())
        parts = image_folder(root, size, max_per_class=2000, read=shown.predict.read)
    _, pooled = shown.teacher(0, size)
    train, validation, test = (np.array(extract(pooled, part.images)) for part in parts)
    fit = np.concatenate([train, validation]), np.concatenate([parts.train.labels, parts.validation.labels])
    hits = right(shown.probe(*fit, 2), test, parts.test.labels)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(*fit))
    folded = shown.cross_validated(*fit, folds)
    whole = efficientnet_lite(0, size).get_layer("predictions")
    kernel, bias = whole.get_weights()
    logits = test @ kernel + bias
    scores = [logits[:, slice(RELATED[name][0], RELATED[name][1] + 1)].max(axis=1) for name in parts.test.class_names]
    untrained = np.argmax(scores, axis=0) == parts.test.labels
    measured = {"trained": len(fit[1]), "tested": len(hits), "test": round(float(hits.mean()), 4)}
    return {
        **measured,
        "cross_validated": round(float(folded.mean()), 4),
        "imagenet_rows": round(float(untrained.mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ants-bees", default="", metavar="ZIP")
    parser.add_argument("--cats-dogs", default="", metavar="ZIP")
    given = parser.parse_args()
    shown = lesson.load("05")
    records, solar = Records(FILE, WHAT, __file__), SolarCells(shown)
    folders = {"ants and bees": (given.ants_bees, (160, 192, 224)), "cats and dogs": (given.cats_dogs, (160,))}
    for name, (path, sizes) in folders.items():
        if not path:
            print(f"{name}: no ZIP was given; its runs are left out")
        for size in sizes if path else ():
            settings = {"experiment": "folder", "data": name, "size": size}
            records.run(lambda path=path, size=size: folder_probe(shown, path, size), **settings)
    for size in (FINE_TUNING["size"], LONGER["size"], TRAP["size"]):
        for seed in SEEDS:
            settings = {"experiment": "probe", "data": "elpv", "size": size, "seed": seed}
            records.run(lambda size=size, seed=seed: solar_probe(shown, solar, size, seed), **settings)
    for seed in SEEDS:
        settings = {"experiment": "fine-tuning", "data": "elpv", **LONGER, "seed": seed}
        records.run(partial(solar_tuned, shown, solar, **LONGER, seed=seed), **settings)
    for recipe in CANDIDATES:
        for seed in SEEDS:
            settings = {"experiment": "choice", "data": "elpv", **recipe, "judged": "validation", "seed": seed}
            measure = partial(solar_tuned, shown, solar, **recipe, judged="validation", seed=seed)
            records.run(measure, **settings)
    trap = [TRAP | {"batchnorm": batchnorm} for batchnorm in ("frozen", "trained")]
    for seed in SEEDS:
        for recipe in (FINE_TUNING, *trap) if seed == 0 else (*trap, FINE_TUNING):
            settings = {"experiment": "fine-tuning", "data": "elpv", **recipe, "seed": seed}
            records.run(lambda recipe=recipe, seed=seed: solar_tuned(shown, solar, **recipe, seed=seed), **settings)
    for version, size in ((0, 160), (2, 160), (0, 224)):
        settings = {"experiment": "teacher", "data": "elpv", "version": version, "size": size}
        records.run(lambda version=version, size=size: compared_teacher(shown, solar, version, size), **settings)


if __name__ == "__main__":
    main()
