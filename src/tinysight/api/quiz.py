"""People answer the images of a dataset, and are compared with networks."""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tinysight.api.data import Data, Folder, load_dataset
from tinysight.api.evaluate import evaluate_run, warn_of_training_images
from tinysight.api.models import find_weights, load_model
from tinysight.data.build import features_folder
from tinysight.data.dataset import Dataset, data_home
from tinysight.device import select_device
from tinysight.evaluation import evaluate as evaluations
from tinysight.evaluation.ensemble import combined
from tinysight.evaluation.evaluate import Evaluation
from tinysight.files import expand, sha256
from tinysight.people.answers import MIN_ANSWERS, Who, gather
from tinysight.people.database import file_of
from tinysight.people.exports import Exported, write_exports
from tinysight.people.material import Logits, Material
from tinysight.people.quiz import Quiz, create_app
from tinysight.people.report import write_study
from tinysight.people.results import StudyResults, analyze
from tinysight.people.store import Game, Store
from tinysight.people.study import Study
from tinysight.progress import counting
from tinysight.run import Run, find_run, versions
from tinysight.server import http
from tinysight.server.guard import Guard
from tinysight.text import pluralize

logger = logging.getLogger("tinysight")

Networks = Sequence[Run | Folder]


def quiz(
    data: Data,
    *,
    networks: Networks = (),
    split: str = "val",
    num_images: int = 100,
    seed: int = 0,
    guesses: int = 1,
    db: str | None = None,
    preview: bool = False,
    data_dir: Folder | None = None,
    device: str = "auto",
    started: Callable[[str], None] = print,
    **address: Any,
) -> None:
    """Serve a page where people say what images show, until Ctrl-C or SIGTERM.

    Args:
        networks: runs, weights files, "bundled", or ensembles of these as "A+B", whose answers to
            the same images are shown at the end.
        split: whose images are shown; training images are the examples.
        num_images: per person.
        seed: of who is shown what.
        guesses: per image that people of the full game are asked for, 1 to 3.
        db: where answers are kept: a file, or the URL of a database; None: `quiz-NAME.db`.
        preview: keep no answers, wherever `db` is, to look at the games as people see them.
        started: is called with the link.
        address: host, port and token, as for `serve`.

    Warns where people will have too few answers to count. Raises ValueError where the data, a
    network, the database or the address does not fit; then no file was made.
    """
    if not 1 <= guesses <= 3:
        raise ValueError(f"guesses is {guesses}; expected 1 to 3")
    dataset = load_dataset(data, data_dir=data_dir)
    url = db or _default(dataset)
    about = {"split": split, "num_images": num_images, "seed": seed}
    material = Material(dataset, split, {}, num_images, seed)
    if not preview and ((file := file_of(url)) is None or file.exists()):
        Store(url, digest=dataset.digest, about=about).close()  # refuses before networks answer
    material = replace(material, networks=_logits(networks, dataset, split, device, data_dir))
    _warn_of_few(material)
    place = ""  # of answers that are kept
    with ExitStack() as stack:

        def make_app(**guard: Any) -> Guard:
            where = url
            if preview:
                where = str(Path(stack.enter_context(TemporaryDirectory()), "preview.db"))
                logger.info("preview: answers are not kept")
            store = stack.enter_context(closing(Store(where, digest=dataset.digest, about=about)))
            nonlocal place
            place = "" if preview else _log_size(store)
            return create_app(Quiz(material, store, guesses, preview), **guard)

        http.run(*http.serving(make_app, **address), started)
    if place:
        report = ["tinysight", "people", "report", dataset.name, "--db", place]
        logger.info("next: %s", shlex.join(report))


def _log_size(store: Store) -> str:
    """Say how many answers there are; return where."""
    people, answers = store.size()
    who = "1 person" if people == 1 else f"{people:,} people"
    logger.info("%s: %s of %s so far", store.place, pluralize(answers, "answer"), who)
    return store.place


def _warn_of_few(material: Material) -> None:
    """Warn where a game has so few images that the rules exclude everybody."""
    games: tuple[Game, ...] = ("full", "quick")
    for game in games:
        shown = material.plan(game, material.classes(game), 0)
        if len(shown) < MIN_ANSWERS:
            as_asked = sum(item.kind in ("core", "main") for item in shown) == material.num_images
            hint = (
                "ask for more images per person"
                if as_asked
                else f"{material.split} has no more images of its classes"
            )
            logger.warning(
                "nobody will count in the %s game: it has %d images, and who has fewer than %d"
                " answers is excluded; %s",
                game, len(shown), MIN_ANSWERS, hint,
            )  # fmt: skip


def export_answers(
    data: Data,
    out: Folder,
    *,
    networks: Networks = (),
    game: Game = "full",
    people: Who = "counted",
    db: str | None = None,
    data_dir: Folder | None = None,
    device: str = "auto",
) -> Exported:
    """Write the answers of a quiz into a folder, in the forms of two published studies.

    Returns who is in it and who was left out; see `people.exports` for the files.

    Args:
        people: "counted": those that count by the rules, as in the report; or "all".

    Raises ValueError where nobody has answered, or nobody counts.
    """
    study = _read_study(data, networks, game, db, data_dir, device)
    name = f"{study.dataset.name}-{game}"
    return write_exports(
        study.answers,
        expand(out),
        name=name,
        networks=study.networks,
        people=people,
        marks=study.marks,
    )


def report_answers(
    data: Data,
    out: Folder | None = None,
    *,
    networks: Networks = (),
    game: Game = "full",
    people: Who = "counted",
    db: str | None = None,
    note: str = "",
    data_dir: Folder | None = None,
    device: str = "auto",
) -> StudyResults:
    """Write a page on what people and networks answered; return its numbers.

    Args:
        out: the folder of index.html and results.json; None: `report_folder`.
        people: "counted": those that count by the rules; or "all".
        note: shown on top of the page.

    Raises ValueError where nobody has answered.
    """
    study = _read_study(data, networks, game, db, data_dir, device)
    found = analyze(study, people)
    folder = report_folder(study.dataset.name, game) if out is None else expand(out)
    write_study(study, found, folder, note=note)
    return found


def report_folder(name: str, game: Game) -> Path:
    """Return where the report of a game goes where nothing else is said."""
    return Path(f"quiz-{name}-{game}")


def _read_study(
    data: Data, networks: Networks, game: Game, db: str | None, data_dir: Folder | None, device: str
) -> Study:
    """Read what people answered, then what networks answer to the same images."""
    dataset = load_dataset(data, data_dir=data_dir)
    with closing(Store(db or _default(dataset), digest=dataset.digest, about=None)) as store:
        about, choices = store.about, store.classes(game) or ()
        rows, marks = store.answers(game), tuple(store.marks(game))
    if not rows:
        raise ValueError(
            f"there are no answers in the {game} game of {dataset.name}; `tinysight quiz` takes"
            " them, --game names the other game"
        )
    people = gather(rows, dataset.class_names)
    split = about["split"]
    logits = _logits(networks, dataset, split, device, data_dir)
    material = Material(dataset, split, logits, about["num_images"], about["seed"])
    return Study(material, game, choices, people, marks)


def _default(dataset: Dataset) -> str:
    return f"quiz-{dataset.name}.db"


def _logits(
    networks: Networks, dataset: Dataset, split: str, device: str, data_dir: Folder | None
) -> dict[str, Logits]:
    """Return each network's logits for a split; of an ensemble, A+B, its mean probability's."""
    found: dict[str, Logits] = {}
    for network in networks:
        is_ensemble = isinstance(network, str) and "+" in network and not Path(network).exists()
        members = str(network).split("+") if is_ensemble else [network]
        evaluated = [_evaluate(each, dataset, split, device, data_dir) for each in members]
        name = "+".join(each for each, _ in evaluated)
        if name in found or len({each for each, _ in evaluated}) < len(members):
            raise ValueError(f"{name} is given twice; give other networks")
        found[name] = combined([each.logits for _, each in evaluated]).numpy()
    return found


def _evaluate(
    network: Run | Folder, dataset: Dataset, split: str, device: str, data_dir: Folder | None
) -> tuple[str, Evaluation]:
    """Return a network's name, and its scores: as stored by an evaluation, or computed."""
    source = network.folder if isinstance(network, Run) else find_weights(network)
    name = str(network.name if isinstance(network, Run) else network)
    if source is not None and source.is_dir():
        run = find_run(source)
        warn_of_training_images(run, dataset, split, data_dir)
        name, path = run.name, run.scores_path(run.label(dataset.name, split))
        if path.is_file() and dataset.digest == run.data_digest:
            evaluation = Evaluation.load(path)
        else:
            _log_evaluation(name, dataset, split)
            evaluation = evaluate_run(run, dataset, split, select_device(device))
    else:
        assert source is not None  # a network is named
        evaluation = _evaluate_file(source, name, dataset, split, device, data_dir)
    if not evaluation.classifies:
        raise ValueError(f"{name} does not classify; give other networks")
    rows = np.asarray(dataset.rows(split))
    same = np.array_equal(evaluation.rows, rows)
    if not same or not np.array_equal(evaluation.labels, dataset.labels[rows]):
        raise ValueError(
            f"the scores of {name} are of other images or labels than {split} of"
            f" {dataset.name}; compute them again by `tinysight evaluate {name}`"
        )
    return name, evaluation


def _evaluate_file(
    path: Path, name: str, dataset: Dataset, split: str, device: str, data_dir: Folder | None
) -> Evaluation:
    """Return the scores of a weights file, which are kept as features of the dataset are."""
    key = hashlib.sha256(f"{sha256(path)} {split} {device} {versions()}".encode()).hexdigest()
    home = data_home() if data_dir is None else expand(data_dir)
    kept = features_folder(home, dataset.digest) / f"scores-{key[:32]}.safetensors"
    with suppress(ValueError):  # there is none, or a damaged one
        return Evaluation.load(kept)
    model = load_model(path, device=device)
    _log_evaluation(name, dataset, split)
    with counting(f"evaluating {split}") as progress:
        evaluation = evaluations.evaluate(model, dataset, split, progress=progress)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        evaluation.save(kept)
    return evaluation


def _log_evaluation(name: str, dataset: Dataset, split: str) -> None:
    count = pluralize(len(dataset.rows(split)), "image")
    logger.info("%s is evaluated on %s of %s, %s, once", name, split, dataset.name, count)
