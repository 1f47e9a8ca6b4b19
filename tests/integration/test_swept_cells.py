"""``%%cloud --sweep``: one cell over many sets of parameters."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nbcloud.dispatch.recorder import open_store
from nbcloud.runs.record import Run
from tests.integration.notebooks import RunningNotebook, Shown, works


def recorded() -> tuple[Run, list[Run]]:
    """The latest sweep on record, and its members."""
    with open_store() as store:
        sweep = next(run for run in store.search(limit=100) if run.kind == "sweep")
        members = store.search(filter=f"parent = '{sweep.id}'", limit=100)
    return sweep, sorted(members, key=lambda run: int(run.tags["member"]))


def table(shown: Shown) -> str:
    """The latest text of the one display."""
    first, *updates = [
        content
        for message in shown.messages
        if message["msg_type"] in {"display_data", "update_display_data"}
        for content in [message["content"]]
        if "member" in content["data"]["text/plain"]
    ]
    ids = {content["transient"]["display_id"] for content in [first, *updates]}
    assert len(ids) == 1, "one display"
    assert "<table>" in [first, *updates][-1]["data"]["text/html"]
    return str([first, *updates][-1]["data"]["text/plain"])


CELL = """\
import nbcloud
loss = scaled(lr) + seed + sum(data)
print("seed", seed)
nbcloud.log_metric("loss", loss)
"""


def test_each_combination_is_a_run_with_its_parameters_and_comes_back_in_a_list(
    notebook: RunningNotebook,
) -> None:
    notebook.run("data = [1, 2]\nlr = 'untouched'\ndef scaled(rate):\n    return 100 * rate")
    shown = notebook.run(
        f"%%cloud --sweep lr=0.5,0.25 --sweep seed=0:2 -o loss --name grid --tag a=b\n{CELL}"
    )
    assert shown.error == "", shown.traceback
    text = table(shown)
    assert text.count("done") == 5, text
    assert "4 members: 4 done" in text
    assert shown.text() == "", "what members print is in their records"
    assert notebook.run("loss, lr").result == "([53.0, 54.0, 28.0, 29.0], 'untouched')"
    sweep, members = recorded()
    assert (sweep.state, sweep.name, sweep.tags) == ("done", "grid", {"a": "b"})
    assert [run.name for run in members] == ["grid-0", "grid-1", "grid-2", "grid-3"]
    assert {run.session for run in members}.isdisjoint({""})
    assert len({run.session for run in members}) == 4, "a session of its own for each"
    with open_store() as store:
        tracked = [store.tracked([run.id])[run.id] for run in members]
        assert store.text(members[1].id) == "seed 1\n"
    assert [each.params for each in tracked] == [
        {"lr": lr, "seed": seed} for lr in (0.5, 0.25) for seed in range(2)
    ]
    assert [each.metrics for each in tracked] == [{"loss": loss} for loss in (53.0, 54.0, 28.0, 29.0)]


def test_the_value_of_the_cell_is_the_table(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud --sweep x=1,2,3\nimport nbcloud\nnbcloud.log_metric('square', x * x)")
    assert shown.result == "", "it is shown once"
    assert notebook.run("_.best('square', 'max')['x']").result == "3"
    assert notebook.run("[row['square'] for row in __.rows]").result == "[1.0, 4.0, 9.0]"
    assert "<table>" in notebook.run(f"Out[{shown.count}]").of_type("execute_result")[0]["data"]["text/html"]


def test_a_member_that_fails_stops_no_other_and_is_tried_again(
    notebook: RunningNotebook, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path\n"
        f"tries = Path({str(tmp_path)!r}) / str(x)\n"
        "first = not tries.exists()\ntries.touch()\n"
        "if x == 0 or (x == 1 and first):\n    raise ValueError(f'no {x}')\n"
    )
    shown = notebook.run(f"%%cloud --sweep x=0:3 --retries 1 -o first\n{code}")
    assert shown.error == ""
    text = table(shown)
    assert "3 members: 1 failed, 2 done" in text
    assert "ValueError: no 0" in text
    assert notebook.run("first").result == "[False, False, True]"
    sweep, members = recorded()
    assert (sweep.state, sweep.message) == ("failed", "1 of 3 members are not done")
    assert [run.tags["member"] for run in members] == ["0", "0", "1", "1", "2"], "each try is on record"


def test_a_member_may_take_so_long(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud --sweep seconds=0,60 --timeout 2s\nimport time\ntime.sleep(seconds)")
    assert "2 members: 1 done, 1 timeout" in table(shown)


def test_an_interrupt_stops_all_members(notebook: RunningNotebook, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    code = f"import time, pathlib\npathlib.Path({str(begun)!r}, str(x)).touch()\ntime.sleep(60)"

    def interrupt(_shown: Shown) -> bool:
        if len([*begun.iterdir()]) < 2:
            return False
        notebook.interrupt()
        return True

    began = time.monotonic()
    shown = notebook.run(f"%%cloud --sweep x=0:9\n{code}", meanwhile=interrupt)
    assert time.monotonic() - began < 30
    assert shown.error == "RunCancelled"
    assert "9 members: 9 cancelled" in table(shown)
    sweep, members = recorded()
    assert {sweep.state} | {run.state for run in members} == {"cancelled"}
    works(notebook)


def test_a_second_interrupt_kills_those_that_do_not_listen(notebook: RunningNotebook, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    code = (
        "import time, pathlib, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(begun)!r}, str(x)).touch()\ntime.sleep(60)"
    )
    told: list[float] = []

    def interrupt(_shown: Shown) -> bool:
        if len([*begun.iterdir()]) == 2 and (not told or (len(told) == 1 and time.monotonic() > told[0] + 2)):
            notebook.interrupt()
            told.append(time.monotonic())
        return len(told) == 2

    shown = notebook.run(f"%%cloud --sweep x=0:2\n{code}", meanwhile=interrupt)
    assert shown.error == "RunCancelled"
    assert "2 members: 2 cancelled" in table(shown)
    _, members = recorded()
    assert {run.message for run in members} == {"it was cancelled"}, "none had its time to stop"


def test_what_no_worker_has_is_said_and_the_table_does_not_go_on(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud --sweep x=1,2 --gpus 1\nx")
    assert shown.error, shown.messages
    assert "GPU" in shown.traceback
    assert "2 members: 2 cancelled" in table(shown)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--sweep lrr=1,2", "lr = 1", "the cell does not read 'lrr'"),
        ("--sweep lr=1,2", "lr = 1\nlr + 1", "the cell binds 'lr' itself"),
        ("--sweep x=1,2", "x + nobody_has_this", "NameError: name 'nobody_has_this' is not defined"),
    ],
)
def test_what_no_member_could_run_is_refused_before_anything_begins(
    notebook: RunningNotebook, line: str, code: str, said: str
) -> None:
    shown = notebook.run(f"%%cloud {line}\n{code}")
    assert said in shown.traceback, shown.messages
    assert notebook.run("%cloud runs --json").error == ""
    with open_store() as store:
        assert store.search(limit=1) == []


def test_a_dry_run_lists_the_members(notebook: RunningNotebook) -> None:
    notebook.run("data = [1, 2]")
    shown = notebook.run("%%cloud --sweep x=1,2 --sweep y=a,b --dry-run\nx, y, data")
    text = shown.of_type("display_data")[0]["data"]["text/plain"]
    assert text.splitlines()[0].split() == ["member", "x", "y"]
    assert text.splitlines()[4].split() == ["3", "2", "b"]
    assert "To each member: data" in text
    with open_store() as store:
        assert store.search(limit=1) == []
