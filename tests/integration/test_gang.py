"""``--workers``: cells that run on several workers at once, and what becomes of them when a rank does not."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nbcloud import cli
from nbcloud.clusters import local, process
from tests.integration.notebooks import RunningNotebook, Shown, running_notebook

RANK = "import os, time\nrank = int(os.environ['RANK'])\n"
SLEEP = "print('begun', flush=True)\ntime.sleep(60)"


def lines(shown: Shown) -> list[str]:
    """What ranks printed, in the order of the ranks; within a rank as it came."""
    return by_rank(shown.text())


def by_rank(text: str) -> list[str]:
    said = [line for line in text.splitlines() if line.startswith("[")]
    return sorted(said, key=lambda line: line.partition("]")[0])


def when(condition: Callable[[Shown], bool], action: Callable[[], object]) -> Callable[[Shown], bool]:
    def look(shown: Shown) -> bool:
        if not condition(shown):
            return False
        action()
        return True

    return look


def all_begun(shown: Shown) -> bool:
    return shown.text().count("begun") == 2


@pytest.fixture
def gang_notebook(notebook: RunningNotebook) -> Iterator[RunningNotebook]:
    """A notebook whose gang leaves the shared cluster with it."""
    yield notebook
    notebook.run("%cloud reset")


def test_each_rank_knows_its_place_and_keeps_its_variables(gang_notebook: RunningNotebook) -> None:
    names = [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "NODE_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    ]
    shown = gang_notebook.run(f"given = [1, 2]\nnames = {names}")
    shown = gang_notebook.run(
        f"%%cloud --workers 2\n{RANK}print(*[os.environ[name] for name in names], given)"
    )
    said = [re.sub(r"\d{4,}", "PORT", line) for line in lines(shown)]
    assert said == [f"[{rank}] {rank} 2 {rank} 2 0 127.0.0.1 PORT [1, 2]" for rank in range(2)]
    ports = {line.split()[7] for line in lines(shown)}
    assert len(ports) == 1
    assert gang_notebook.run("rank").result == "0", "what comes home is rank 0's"
    again = gang_notebook.run(
        "%%cloud --workers 2\ngiven.append(rank)\nprint(rank, given, os.environ['MASTER_PORT'])"
    )
    assert [line.rpartition(" ")[0] for line in lines(again)] == ["[0] 0 [1, 2, 0]", "[1] 1 [1, 2, 1]"]
    assert {line.rpartition(" ")[2] for line in lines(again)}.isdisjoint(ports), "a new port for each run"
    assert gang_notebook.run("given").result == "[1, 2, 0]"
    assert lines(gang_notebook.run("%%cloud --workers 2\nprint(given)")) == ["[0] [1, 2, 0]", "[1] [1, 2, 1]"]
    assert "has 2 workers" in gang_notebook.run("%%cloud --workers 3\n1").traceback
    where = "get_ipython().magics_manager.registry['CloudMagics'].runner.notebook.sessions.find_gang().name"
    name = gang_notebook.run(where).result.strip("'")
    assert "To run on all of them: --workers 2" in gang_notebook.run(f"%%cloud -s {name}\n1").traceback
    assert "ended" in gang_notebook.run("%cloud reset").result


def test_outputs_of_all_ranks_are_told_apart_and_kept(
    gang_notebook: RunningNotebook, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "from IPython.display import display\n"
        "print('one\\ntw', end='')\nprint('o', end='')\n"
        "display({'text/plain': f'figure {rank}'}, raw=True)\nrank"
    )
    shown = gang_notebook.run(f"%%cloud --workers 2 --name labels\n{RANK}{code}")
    assert [line for line in lines(shown) if line != "[1]"] == ["[0] one", "[0] two", "[1] one", "[1] two"]
    figures = {content["data"]["text/plain"] for content in shown.of_type("display_data")}
    assert {"figure 0", "figure 1"} <= figures
    assert shown.result == "0"
    assert len(shown.of_type("execute_result")) == 1
    attached = gang_notebook.run("%cloud attach labels")
    assert lines(attached) == lines(shown)
    assert cli.main(["logs", "labels"]) == 0
    assert by_rank(capsys.readouterr().out) == lines(shown)


def test_values_go_to_all_ranks_and_come_home_from_the_first(gang_notebook: RunningNotebook) -> None:
    gang_notebook.run("import numpy as np\nlarge = np.arange(500_000)\nextra = 7")
    code = "doubled = (large * 2 + rank)\nsecret = globals()['extra']\nlater = object()\nprint(large.sum(), secret)"
    shown = gang_notebook.run(f"%%cloud --workers 2 -i extra -o doubled\n{RANK}{code}")
    assert lines(shown) == [f"[{rank}] 124999750000 7" for rank in range(2)]
    assert gang_notebook.run("int(doubled[1]), secret").result == "(2, 7)"
    gang_notebook.run("large[0] = 5")
    assert lines(gang_notebook.run("%%cloud --workers 2\nprint(large[0], doubled[0])")) == [
        "[0] 5 0",
        "[1] 5 1",
    ]
    run = gang_notebook.start(
        f"%%cloud --workers 2 --bg --name back -o answer\n{RANK}answer = 40 + 2\nprint(rank)"
    )
    at_once = gang_notebook.finish(run).text()
    both = gang_notebook.later(run, lambda shown: len((at_once + shown.text()).splitlines()) == 2)
    assert sorted((at_once + both.text()).splitlines()) == ["[0] 0", "[1] 1"]
    assert gang_notebook.run("_.result()").result == "42"
    assert gang_notebook.run("answer").result == "42"


TRAIN = """
import torch
from sklearn.datasets import load_digits

digits, labels = load_digits(return_X_y=True)
digits = torch.tensor(digits / 16, dtype=torch.float32)
labels = torch.tensor(labels)

def train(wrap, first, step):
    torch.manual_seed(0)
    model = wrap(torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for epoch in range(2):
        for start in range(0, 1792, 64):
            batch = slice(start + first, start + 64, step)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(digits[batch]), labels[batch])
            loss.backward()
            optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()], loss.item()
"""


def test_distributed_training_is_that_of_one_process(gang_notebook: RunningNotebook) -> None:
    pytest.importorskip("torch", reason="make test installs it; by hand: pip install torch")
    pytest.importorskip("sklearn")
    assert gang_notebook.run(TRAIN + "alone, _ = train(lambda model: model, 0, 1)").error == ""
    code = (
        "import os\nimport torch.distributed as dist\n"
        "from torch.nn.parallel import DistributedDataParallel\n"
        "dist.init_process_group('gloo')\n"
        "together, loss = train(DistributedDataParallel, dist.get_rank(), dist.get_world_size())\n"
        "print(dist.get_rank(), dist.get_world_size(), loss < 1)\n"
        "dist.destroy_process_group()"
    )
    for _ in range(2):  # the second time in the same processes
        shown = gang_notebook.run(f"%%cloud --workers 2 -o together\n{code}", limit=120)
        assert shown.error == "", shown.traceback
        assert lines(shown) == ["[0] 0 2 True", "[1] 1 2 True"]
        same = gang_notebook.run("[bool(torch.allclose(a, b, atol=1e-5)) for a, b in zip(alone, together)]")
        assert same.result == "[True, True, True, True]"


def test_a_rank_that_fails_stops_the_others_and_is_named(gang_notebook: RunningNotebook) -> None:
    shown = gang_notebook.run(
        f"%%cloud --workers 2\n{RANK}print('begun', flush=True)\nif rank == 1:\n    1 / 0\ntime.sleep(60)",
        limit=30,
    )
    assert shown.error == "ZeroDivisionError"
    assert shown.traceback.startswith("On rank 1 of 2:")
    assert "1 / 0" in shown.traceback
    assert len(shown.of_type("error")) == 1
    assert lines(gang_notebook.run("%%cloud --workers 2\nprint(rank)")) == ["[0] 0", "[1] 1"], "both went on"


def test_a_rank_that_hangs_in_a_collective_is_ended_when_another_fails(
    gang_notebook: RunningNotebook,
) -> None:
    pytest.importorskip("torch")
    code = (
        "import torch, torch.distributed as dist\ndist.init_process_group('gloo')\n"
        "if rank == 1:\n    raise ValueError('no data')\n"
        "dist.all_reduce(torch.ones(1))"
    )
    shown = gang_notebook.run(f"%%cloud --workers 2\n{RANK}{code}", limit=60)
    assert (shown.error, "no data" in shown.traceback) == ("ValueError", True)
    assert "rank 0: rank 1 had failed, and did not stop when interrupted" in shown.notes
    assert "was lost" in gang_notebook.run("%%cloud --workers 2\n1").notes


def test_an_interrupt_reaches_all_ranks(gang_notebook: RunningNotebook) -> None:
    shown = gang_notebook.run(
        f"%%cloud --workers 2\n{RANK}{SLEEP}", meanwhile=when(all_begun, gang_notebook.interrupt)
    )
    assert shown.error == "KeyboardInterrupt"
    assert lines(gang_notebook.run("%%cloud --workers 2\nprint(rank)")) == ["[0] 0", "[1] 1"]


def test_a_gang_is_cancelled_and_times_out_as_a_whole(gang_notebook: RunningNotebook) -> None:
    assert gang_notebook.run(f"%%cloud --workers 2 --timeout 1\n{RANK}{SLEEP}").error == "RunTimeout"
    background = gang_notebook.start(f"%%cloud --workers 2 --bg --name long\n{RANK}{SLEEP}")
    gang_notebook.finish(background)
    gang_notebook.later(background, all_begun)
    gang_notebook.run("%cloud cancel long")
    assert (
        "was stopped: it was cancelled"
        in gang_notebook.later(background, lambda s: "stopped" in s.notes).notes
    )
    assert lines(gang_notebook.run("%%cloud --workers 2\nprint(rank)")) == ["[0] 0", "[1] 1"]


def test_a_rank_that_is_killed_ends_the_gang_and_the_next_cell_has_a_new_one(
    gang_notebook: RunningNotebook,
) -> None:
    kernel = int(
        gang_notebook.run(f"%%cloud --workers 2\n{RANK}print(os.getpid())").text().split("[1] ")[1].split()[0]
    )
    shown = gang_notebook.run(
        f"%%cloud --workers 2\n{SLEEP}", meanwhile=when(all_begun, lambda: os.kill(kernel, signal.SIGKILL))
    )
    assert shown.error == "RunLost"
    assert "rank 1 of 2: its kernel was killed (SIGKILL)" in shown.traceback
    assert lines(shown) == ["[0] begun", "[1] begun"]
    again = gang_notebook.run(f"%%cloud --workers 2\n{RANK}print(rank)")
    assert lines(again) == ["[0] 0", "[1] 1"]
    assert "was lost (rank 1: its kernel was killed" in again.notes


@pytest.fixture
def room_for_three(nbcloud_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of one worker, which has three GPUs as far as Dask knows."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    info = local.up(workers=1, threads=2, idle_timeout=600, resources={"GPU": 3})
    yield
    local.down(info)
    assert process.members(None, info.id) == []


def test_two_gangs_do_not_take_halves_from_each_other(
    room_for_three: None, capsys: pytest.CaptureFixture[str]
) -> None:
    look = f"{RANK}print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['LOCAL_RANK'], flush=True)"
    with running_notebook() as one, running_notebook() as two:
        refused = one.run("%%cloud --workers 4 --gpus 1\n1")
        assert "This cluster has room for 3 of 4 workers with 1 GPU." in refused.traceback
        for each in (one, two):
            each.run("from nbcloud.jupyter import progress\nprogress._QUIET_SECONDS = 0")
        first = one.start(f"%%cloud --workers 2 --gpus 1 --fresh\n{look}\n{SLEEP}")
        second: list[Shown] = []

        def is_waiting(shown: Shown) -> bool:
            texts = [
                str(content["data"].get("text/plain"))
                for kind in ("display_data", "update_display_data")
                for content in shown.of_type(kind)
            ]
            waits = any("there is room for 1 of 2 workers with 1 GPU" in text for text in texts)
            if waits:
                one.interrupt()
            return waits

        def ask_for_more(shown: Shown) -> bool:
            if all_begun(shown):
                second.append(two.run(f"%%cloud --workers 2 --gpus 1\n{look}", meanwhile=is_waiting))
            return bool(second)

        shown = one.finish(first, meanwhile=ask_for_more)
        assert shown.error == "KeyboardInterrupt"
        devices = [line.split()[1:] for line in lines(shown) if "begun" not in line]
        assert devices == [["0,1", "0"], ["0,1", "1"]], "as torchrun has it: LOCAL_RANK is the device"
        assert [len(line.split()) for line in lines(second[0])] == [3, 3]
        two.run("%cloud runs")
    assert cli.main(["runs", "--json"]) == 0
    ranks = json.loads(capsys.readouterr().out)[0]["resources"]["ranks"]
    assert [rank["rank"] for rank in ranks] == [0, 1]
    assert len({rank["CUDA_VISIBLE_DEVICES"] for rank in ranks}) == 2, "each rank holds one of its own"
