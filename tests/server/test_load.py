"""The benchmark of the server at a fiftieth of its size; how fast it is depends on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "serving.py"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_flood_is_refused_and_no_answer_is_anothers(
    load_script: Callable[[Path], ModuleType],
) -> None:
    serving = load_script(SCRIPT)
    found = serving.serve_and_measure(200)
    depends_on_the_machine = ("p99", "answered", "normal", "slow")
    failed = serving.failures(found)
    assert [what for what in failed if not any(w in what for w in depends_on_the_machine)] == []
    assert set(found["at 0.75"]["statuses"]) <= {200, 503}
    assert found["at 0.75"]["statuses"][200] > 100
    assert found["at 6"]["statuses"][200] >= 4 and found["at 6"]["statuses"][503] > 50
    assert found["after 1 s"]["statuses"] == {200: 20} and found["after 1 s"]["p99"] < 5000
    assert found["among slow"]["statuses"][200] >= 15


def test_failures_are_named(load_script: Callable[[Path], ModuleType]) -> None:
    serving = load_script(SCRIPT)
    fine = {"statuses": {200: 10}, "p99": 100.0}
    found = dict.fromkeys(("at 0.75", "at 6", "after 1 s", "among slow"), fine)
    found |= {"memory": [100, 110], "other answers": 0}
    assert serving.failures(found) == []
    bad = {"statuses": {200: 9, 500: 1}, "p99": 1000.0}
    found = dict.fromkeys(("at 0.75", "at 6", "after 1 s", "among slow"), bad)
    assert len(serving.failures(found | {"memory": [100, 111], "other answers": 1})) == 8
    one, other = b'{"top": [{"class": "a", "probability": 0.5}]}', b'{"top": []}'
    assert serving.differs(one, other) and not serving.differs(one, one)
