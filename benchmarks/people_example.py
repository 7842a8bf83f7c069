"""Make docs/people-example: a study of simulated people, and of networks, on drawn shapes.

People of known abilities (Rasch) answer through the store, as those of `tinysight quiz` do. Their
images are as difficult as the network finds them, and as chance has it; wrong answers are such as
the network takes for likely. One does not look, one stops early: the report excludes both.

    python benchmarks/people_example.py docs/people-example
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import softmax

import tinysight as ts
from tinysight.people.material import Material
from tinysight.people.simulation import respond
from tinysight.people.store import Game, Given, Store

NETWORKS = {"quickstart-shapes": {}, "four-epochs": {"epochs": 4}}
PEOPLE, IMAGES, SEED = 14, 70, 0
CANNOT_TELL = 0.03
NOTE = "These people are simulated: nobody answered. The page shows what a report looks like."


def simulate(material: Material, store: Store, game: Game, rng: np.random.Generator) -> None:
    """Let people play a game."""
    data, choices = material.dataset, list(material.classes(game))
    names = [data.class_names[i] for i in choices]
    logits = material.networks["quickstart-shapes"][:, choices].astype(np.float64)
    likely = softmax(logits / 1.5, axis=1)
    hard = rng.normal(0, 1.2, len(logits)) - 0.8 * (logits.max(axis=1) - logits.max(axis=1).mean())
    for number in range(PEOPLE):
        ability = rng.normal(3.2, 0.7) if number != 7 else -9.0
        guesses = 3 if game == "full" else 1
        code, _ = store.register(game, names, partial(material.plan, game, choices), guesses)
        items = store.person(code).items[: 12 if number == 11 else None]
        for turn, (key, item, _) in enumerate(items):
            place, known = item.row - material.rows.start, item.kind == "catch"
            now = ability + 0.5 * turn / len(items) + (4 if known else 0)
            target = np.array([names.index(item.target)])
            weights = np.ones((1, len(names))) if known else likely[[place]]
            difficulty = np.zeros(1) if known else hard[[place]]
            given = int(respond(target, difficulty, now, weights, rng)[0])
            unsure = given != target[0] and rng.random() < 10 * CANNOT_TELL
            seconds = rng.lognormal(0.1 if game == "quick" else 1.2, 0.35)
            seconds *= 1.0 if given == target[0] else 1.3
            weights[0, given] = 0
            chances = weights[0] / weights[0].sum()
            further = rng.choice(len(names), guesses - 1, replace=False, p=chances)
            kept = Given(
                None if unsure else names[given],
                round(seconds, 3),
                () if unsure else tuple(names[i] for i in further),
            )
            store.answer(code, key, kept)
        if len(items) == len(store.person(code).items):  # asked at the end
            judge(material, store, code, choices, np.random.default_rng([SEED, 2, number]))


def judge(
    material: Material, store: Store, code: str, choices: list[int], rng: np.random.Generator
) -> None:
    """Let a person say of five images whether answers that are not the label are right, too."""
    names, asked = material.dataset.class_names, 0
    for key, item, kept in store.person(code).items:
        networks = [names[material.network_answer(n, item.row, choices)] for n in NETWORKS
                    if item.kind in ("core", "main")]  # fmt: skip
        others = {kept.response if kept else None, *networks} - {item.target, None}
        if not networks or not others or asked == 5:
            continue
        asked += 1
        for name in sorted(others):
            store.mark(code, key, name, bool(rng.random() < 0.2))


def main(out: Path) -> None:
    data = ts.load_dataset("shapes")
    for name, settings in NETWORKS.items():
        ts.train("quickstart", data, name=name, resume=True, **settings)
    logits = {name: ts.evaluate(name, split="val").logits.numpy() for name in NETWORKS}
    material = Material(data, "val", logits, num_images=IMAGES, seed=SEED)
    about = {"split": "val", "num_images": IMAGES, "seed": SEED}
    with tempfile.TemporaryDirectory() as folder:
        db = str(Path(folder) / "simulated.db")
        with closing(Store(db, digest=data.digest, about=about)) as store:
            for number, game in enumerate(("full", "quick")):
                simulate(material, store, game, np.random.default_rng([SEED, number]))
        for game in ("full", "quick"):
            options = {"networks": list(NETWORKS), "game": game, "db": db}
            found = ts.report_answers(data, out / game, note=NOTE, **options)
            shutil.rmtree(out / game / "figures")  # they are in the page
            accuracy = found.findings.headline.accuracy
            print(
                f"{game}: people {accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})"
            )
        (out / "README.md").write_text(f"{NOTE}\n\nMade by `benchmarks/people_example.py`.\n")
        ts.export_answers(data, out / "export", networks=list(NETWORKS), db=db)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
