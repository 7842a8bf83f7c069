"""The commands that let people answer, and write what they answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option, Typer

from tinysight.cli.arguments import DataDir, Device, Host, Port, Token
from tinysight.text import pluralize

if TYPE_CHECKING:
    from tinysight.people.results import StudyResults
    from tinysight.people.statistics import Estimate

app = Typer(
    no_args_is_help=True, help="Answers of people: reports, files for other programs, and plans."
)
Quizzed = Annotated[str, Argument(metavar="DATA", help="A dataset's name, or a folder of classes.")]
Networks = Annotated[
    list[str] | None,
    Option(
        "--networks",
        metavar="RUN",
        help="A run, a file, bundled, or an ensemble A+B; several times.",
    ),
]
Game = Annotated[Literal["full", "quick"], Option(help="Whose answers.")]
Who = Annotated[
    Literal["counted", "all"], Option("--people", help="Those that count by the rules, or all.")
]
Database = Annotated[
    str | None,
    Option(help="File or postgresql:// URL with the answers.", show_default="quiz-DATA.db"),
]


def quiz(
    data: Quizzed,
    networks: Networks = None,
    split: Annotated[str, Option(help="Whose images are shown.")] = "val",
    images: Annotated[int, Option(min=1, help="Images per person.")] = 100,
    seed: Annotated[int, Option(min=0, help="Random seed of who is shown what.")] = 0,
    guesses: Annotated[int, Option(min=1, max=3, help="Per image of the full game.")] = 1,
    db: Database = None,
    preview: Annotated[
        bool, Option("--preview", help="Look at the games; keep no answers.")
    ] = False,
    host: Host = "127.0.0.1",
    port: Port = 0,
    token: Token = None,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Open a page where people say what images show, next to networks that answered the same.

    \b
    Examples:
      tinysight quiz shapes --networks quickstart-shapes
      tinysight quiz tiny-imagenet --networks bundled --db postgresql://me@localhost/quiz
    """
    import tinysight as ts

    options: dict[str, Any] = {"host": host, "port": port, "token": token, "data_dir": data_dir}
    options |= {"split": split, "num_images": images, "seed": seed, "db": db, "device": device}
    options |= {"guesses": guesses, "preview": preview}
    options["started"] = lambda link: print(f"{link}\nCtrl-C ends it", flush=True)
    ts.quiz(data, networks=networks or (), **options)


@app.command()
def export(
    data: Quizzed,
    out: Annotated[Path, Option(help="Folder to write in.")],
    networks: Networks = None,
    game: Game = "full",
    people: Who = "counted",
    db: Database = None,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Write answers in the forms of CIFAR-10H and of model-vs-human.

    \b
    Examples:
      tinysight people export shapes --networks quickstart-shapes --out answers
    """
    import tinysight as ts

    options: dict[str, Any] = {"game": game, "db": db, "device": device, "data_dir": data_dir}
    found = ts.export_answers(data, out, networks=networks or (), people=people, **options)
    print(f"{_answers_of(found.people, 'person', 'people')} in {out}")
    if found.networks:
        print(f"{_answers_of(found.networks, 'network', 'networks')} to the same images")
    for name, reason in found.excluded.items():
        print(
            f"  {'left out' if people == 'counted' else 'included all the same'}: {name}, {reason}"
        )


def _answers_of(sizes: dict[str, int], one: str, many: str) -> str:
    who = f"{len(sizes):,} {one if len(sizes) == 1 else many}"
    return f"{pluralize(sum(sizes.values()), 'answer')} of {who}"


@app.command()
def report(
    data: Quizzed,
    networks: Networks = None,
    game: Game = "full",
    people: Who = "counted",
    out: Annotated[
        Path | None, Option(help="Folder to write in.", show_default="quiz-DATA-GAME")
    ] = None,
    db: Database = None,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Write a page on what people and networks answered to the same images, and a short table.

    \b
    Examples:
      tinysight people report shapes --networks quickstart-shapes
    """
    import tinysight as ts
    from tinysight.api.quiz import report_folder

    options: dict[str, Any] = {"game": game, "db": db, "device": device, "data_dir": data_dir}
    found = ts.report_answers(data, out, networks=networks or (), people=people, **options)
    _print_results(found)
    print(f"report {(out or report_folder(found.data, game)) / 'index.html'}")


def _print_results(found: StudyResults) -> None:
    """Print accuracies of people and networks, and what is still missing."""
    from tinysight.people.answers import RULES
    from tinysight.people.results import MIN_PEOPLE, WANTED

    print(f"{found.data} {found.split}, {found.game} game")
    rows = {"all people": found.everybody}
    if found.findings is not None and found.num_excluded and found.people == "counted":
        rows = {"without the excluded": found.findings.headline} | rows
    width = max(map(len, [*rows, *found.everybody.differences])) + 2
    for name, each in rows.items():
        who = "1 person" if each.people == 1 else f"{each.people} people"
        counts = f"{who}, {pluralize(each.answers, 'answer')}"
        print(f"  {name:<{width}}{_interval(each.accuracy)}   {counts}")
    for name, reason in found.excluded.items():
        what = "excluded" if found.people == "counted" else "included all the same"
        print(f"  {what}: {name}, {reason}")
    if found.findings is None:
        print(f"no answers count yet: all have {'; or '.join(RULES)}")
        return
    for network in found.findings.networks:
        gap = found.findings.headline.differences[network.name]
        low, high = 100 * gap.low, 100 * gap.high
        apart = f"people {100 * gap.value:+.1f} points ({low:+.1f} to {high:+.1f})"
        print(f"  {network.name:<{width}}{_interval(network.accuracy)}   {apart}")
    if not found.findings.people:
        missing = MIN_PEOPLE - found.findings.headline.people
        print(f"  each person is shown from {MIN_PEOPLE} people on: {missing} missing")
    need = found.findings.needed["accuracy"]
    if need.answers > found.findings.headline.answers:
        print(f"  +- {100 * WANTED:g} points take about {pluralize(need.answers, 'answer')} in all")


def _interval(found: Estimate) -> str:
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.value:5.1f} % (95 %: {low:.1f} to {high:.1f} %)"


@app.command()
def plan(
    people: Annotated[int, Option(min=1, help="People.")] = 20,
    images: Annotated[int, Option(min=1, help="Images per person.")] = 50,
    shared: Annotated[float, Option(min=0, max=1, help="Share that all are shown.")] = 0.2,
    accuracy: Annotated[float, Option(help="Expected of people, up to 1.")] = 0.8,
    network: Annotated[float, Option(help="Expected of the network, up to 1.")] = 0.57,
    within: Annotated[float, Option(help="Half-width wanted of the difference.")] = 0.03,
) -> None:
    """Print how exact a study will be, and how many answers a difference needs.

    \b
    Examples:
      tinysight people plan --people 20 --images 50 --shared 0
    """
    from tinysight.people import planning

    assume = planning.Assumptions(accuracy=accuracy, network=network)
    half = planning.half_width(people, images, shared, assume)
    fewest = planning.paired_answers(within, planning.alike(assume))
    most = planning.paired_answers(within, assume)
    total = pluralize(people * images, "answer")
    print(f"accuracy of people: +- {100 * half:.1f} points (95 %), of {total}")
    answers = pluralize(most, "answer")
    answers = f"{fewest:,} to {answers}" if fewest < most else answers
    print(f"difference to a network: {answers} for +- {100 * within:g} points")
