"""A study's report says what its runs' files hold, and no more than they can tell."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinysight.study.report import report, verdict

ERRORS = {  # by member and seed, epoch by epoch
    "plain": [[0.8, 0.50, 0.45], [0.9, 0.52, 0.46], [0.7, 0.48, 0.44]],
    "better": [[0.7, 0.35, 0.36], [0.8, 0.37, 0.38], [0.6, 0.33, 0.34]],
    "alike": [[0.8, 0.49, 0.46], [0.9, 0.53, 0.43], [0.7, 0.48, 0.46]],
}


def write_run(folder: Path, errors: list[float], *, finished: bool = True) -> None:
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"kind": "train", "step": 1, "epoch": 0.5, "loss": 3.0, "top1_error": 0.9}
    ]
    lines += [
        {
            "kind": "epoch",
            "step": 10 * epoch,
            "epoch": epoch,
            "top1_error": error,
            "top5_error": error / 2,
        }
        for epoch, error in enumerate(errors, start=1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (folder / "summary.json").write_text(json.dumps({"seconds": 60.0 * len(errors)}))
        (folder / "weights.safetensors").touch()


def write_study(
    folder: Path, *, seeds: int = 3, final: str = "last", unfinished: tuple[str, ...] = ()
) -> None:
    members = []
    for label, by_seed in ERRORS.items():
        names = [f"{label}-seed{seed}" for seed in range(seeds)]
        for name, errors in zip(names, by_seed, strict=False):
            write_run(folder / name, errors, finished=name not in unfinished)
        published = 0.421 if label == "plain" else None
        members.append(
            {
                "label": label,
                "published": published,
                "parameters": 1_500_000,
                "num_train": 9500,
                "runs": names,
                "keep_weights": final,
            }
        )
    words = {
        "name": "demo",
        "question": "Which is best?",
        "source": "ours",
        "data": "small",
        "reference": "plain",
    }
    words["command"] = "tinysight study demo --data small --subset 0.1"
    content = {"format": 1, **words, "images": 5000, "members": members}
    (folder / "study.json").write_text(json.dumps(content))


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "table.csv").open(newline="") as file:
        return {row["member"]: row for row in csv.DictReader(file)}


def test_the_table_holds_the_last_errors_and_paired_differences(tmp_path: Path) -> None:
    write_study(tmp_path)
    report(tmp_path)
    rows = table(tmp_path)
    assert list(rows) == list(ERRORS)
    assert float(rows["plain"]["top1_error"]) == pytest.approx(0.45)
    assert float(rows["plain"]["top1_sd"]) == pytest.approx(0.01)
    assert float(rows["plain"]["published_top1_error"]) == 0.421
    assert rows["plain"]["difference"] == ""
    assert float(rows["better"]["top1_lowest"]) == 0.34
    assert float(rows["better"]["top1_highest"]) == 0.38
    assert float(rows["better"]["top5_error"]) == pytest.approx(0.18)
    assert float(rows["better"]["seconds"]) == 180
    errors = np.array(list(ERRORS.values()))[:, :, -1]  # three members, three seeds
    noise = errors - errors.mean(axis=0) - errors.mean(axis=1, keepdims=True) + errors.mean()
    half = 2.776445 * np.sqrt((noise**2).sum() / 4 * 2 / 3)  # t(0.975, 4)
    assert float(rows["better"]["difference"]) == pytest.approx(-0.09)
    assert float(rows["better"]["difference_low"]) == pytest.approx(-0.09 - half)
    assert float(rows["better"]["difference_high"]) == pytest.approx(-0.09 + half)
    page = (tmp_path / "table.md").read_text()
    assert (
        "on 9,500 training images of small" in page
        and "Made by `tinysight study demo --data small" in page
    )
    assert (
        "| better | 1.50 M | 3 | 3 | 36.00 | 2.00 | 34.00 to 38.00 | 18.00 |  "
        "| -9.00 (-13.24 to -4.76) |" in page
    )
    assert "| 42.10 |" in page


def test_the_error_is_that_of_the_weights_kept(tmp_path: Path) -> None:
    write_study(tmp_path, final="best")
    assert [row.errors and round(row.errors.mean, 4) for row in report(tmp_path).rows] == [
        0.45,
        0.35,
        0.45,
    ]


def test_a_verdict_tells_difference_from_noise(tmp_path: Path) -> None:
    write_study(tmp_path)
    better, alike = report(tmp_path).verdicts
    assert better.startswith("better: error 9.00 points lower than that of plain (3 seeds")
    assert better.endswith(": larger than the noise between seeds.")
    assert alike.endswith(": not larger than the noise between seeds.")
    assert json.loads((tmp_path / "results.json").read_text())["verdicts"] == [better, alike]


def test_a_member_whose_seeds_lie_apart_is_judged_by_its_own_pairs(tmp_path: Path) -> None:
    write_study(tmp_path)
    for seed, last, other in ((0, 0.36, 0.02), (1, 0.38, 0.98)):
        path = tmp_path / f"better-seed{seed}" / "log.jsonl"
        path.write_text(path.read_text().replace(str(last), str(other)))
    better, alike = report(tmp_path).verdicts
    assert "(3 seeds of these two alone, as one of them varies more than the others, 95 %" in better
    assert better.endswith("-120.15 to +119.48): not larger than the noise between seeds.")
    assert "(3 seeds, 95 % interval of the difference -6.57 to +6.57)" in alike


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (0, "equal to"),
        (6e-5, "less than 0.01 points higher than"),
        (0.2, "10.00 points higher than"),
    ],
)
def test_a_difference_is_none_only_where_there_is_none(more: float, expected: str) -> None:
    found = verdict("a", {0: 0.5, 1: 0.5 + more}, "b", {0: 0.5, 1: 0.5}, 5000)
    assert found.startswith(f"a: error {expected} that of b (2 seeds")
    assert found.endswith(": not larger than the noise between seeds.")


def test_one_seed_tells_nothing_but_the_images_share(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=1)
    better, _ = report(tmp_path).verdicts
    assert "one seed cannot show" in better
    assert "34.7 to 37.3 % against 43.6 to 46.4 %" in better  # Wilson's for 1800 and 2250 of 5000
    assert table(tmp_path)["better"]["difference_low"] == ""


def test_unfinished_runs_are_counted_and_left_out(tmp_path: Path) -> None:
    write_study(tmp_path, unfinished=("plain-seed1", "alike-seed0", "alike-seed1", "alike-seed2"))
    results = report(tmp_path)
    rows = table(tmp_path)
    assert [rows[label]["runs"] for label in ERRORS] == ["2", "3", "0"]
    assert "| plain | 1.50 M | 3 | 2 of 3 |" in (tmp_path / "table.md").read_text()
    assert rows["better"]["pairs"] == "2", "seeds 0 and 2"
    assert "no seed of both is finished" in results.verdicts[1]


def test_without_a_finished_run_or_a_plan_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study\.json is missing"):
        report(tmp_path)
    write_study(
        tmp_path, unfinished=tuple(f"{label}-seed{seed}" for label in ERRORS for seed in range(3))
    )
    with pytest.raises(ValueError, match=r"no training of .* is finished yet"):
        report(tmp_path)


def test_the_figure_draws_every_member_and_the_band_of_its_seeds(tmp_path: Path) -> None:
    def pixels(seeds: int, color: tuple[float, ...]) -> int:
        folder = tmp_path / str(seeds)
        if not folder.exists():
            folder.mkdir()
            write_study(folder, seeds=seeds)
            report(folder)
        with Image.open(folder / "figure.png") as picture:
            distance = np.abs(np.asarray(picture.convert("RGB")).astype(float) - color).max(axis=2)
        return int((distance <= 3).sum())

    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert pixels(1, color) > 100
        assert pixels(3, color) > 100
    band = tuple(
        0.82 * 255 + 0.18 * value for value in (0xD5, 0x5E, 0x00)
    )  # the one that meets no other
    assert pixels(3, band) > 500 > pixels(1, band)


def test_members_that_learned_from_unequal_numbers_of_images_are_told(tmp_path: Path) -> None:
    write_study(tmp_path)
    content = json.loads((tmp_path / "study.json").read_text())
    content["members"][0]["num_train"] = 900
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert report(tmp_path).trained_on == "900 to 9,500 training images of small"


def test_a_run_without_an_epoch_in_its_log_is_one_clear_line(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "plain-seed0" / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"study\.json is missing or damaged"):
        report(tmp_path)
