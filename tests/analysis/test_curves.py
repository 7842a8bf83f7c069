"""The picture of a training's course shows what the log holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinysight.analysis.curves import draw_curves


def write_log(folder: Path, *, epochs: int, monitored: bool) -> None:
    lines = [
        {
            "kind": "train",
            "step": 10 * k,
            "epoch": k / 4,
            "loss": 5.0 / k,
            "top1_error": 1 / k,
            "lr": 0.1,
            "size": 56,
        }
        for k in range(1, 4 * epochs + 1)
    ]
    if monitored:
        lines += [
            {
                "kind": "epoch",
                "step": 40 * e,
                "epoch": e,
                "loss": 4.0,
                "top1_error": 0.9 / e,
                "top5_error": 0.5 / e,
            }
            for e in range(1, epochs + 1)
        ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def colors(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        return {
            tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()
        }


def test_draws_training_and_monitored_curves(tmp_path: Path) -> None:
    training, monitored = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    write_log(tmp_path, epochs=3, monitored=False)
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    assert training in colors(tmp_path / "curves.png")
    assert monitored not in colors(tmp_path / "curves.png")
    write_log(tmp_path, epochs=3, monitored=True)
    draw_curves(tmp_path)
    assert {training, monitored} <= colors(tmp_path / "curves.png")


def test_marks_the_final_error_on_val(tmp_path: Path) -> None:
    write_log(tmp_path, epochs=2, monitored=False)
    before = draw_curves(tmp_path).read_bytes()
    (tmp_path / "evaluation-val.json").write_text(json.dumps({"top1_error": 0.5}))
    assert draw_curves(tmp_path).read_bytes() != before


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    write_log(tmp_path, epochs=2, monitored=True)
    whole = draw_curves(tmp_path).read_bytes()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "st')
    assert draw_curves(tmp_path).read_bytes() == whole


def test_an_empty_log_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no line of a training yet"):
        draw_curves(tmp_path)
