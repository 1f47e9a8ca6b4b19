"""What a ``%%cloud`` cell logs is on the record of its run."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import distributed

from nbcloud.clusters.base import ClusterInfo
from nbcloud.runs.record import Run, RunState
from nbcloud.runs.store import Store
from nbcloud.runs.tracked import Tracked
from tests.integration.notebooks import RunningNotebook, running_notebook


def logged(**conditions: Any) -> tuple[Run, Tracked]:
    """The newest run that meets the conditions, and what it logged."""
    with Store() as store:
        run = store.search(limit=1, **conditions)[0]
        return run, store.tracked([run.id])[run.id]


def on_record(name: str) -> bool:
    with Store() as store:
        return bool(store.search(name=name))


def ended(name: str) -> bool:
    with Store() as store:
        return any(run.state.ended for run in store.search(name=name))


def test_a_cell_logs_params_metrics_and_tags(notebook: RunningNotebook, wait_until: Any) -> None:
    shown = notebook.run(
        "%%cloud --name train\nimport nbcloud\nprint('before')\nnbcloud.log_params({'lr': 0.1, 'model': 'x'})\n"
        "for step in range(5000):\n    nbcloud.log_metric('loss', 1 / (step + 1), step=step)\n"
        "nbcloud.set_tag('team', 'vision')\nprint('behind')"
    )
    assert (shown.text(), shown.notes) == ("before\nbehind\n", "")
    wait_until(lambda: ended("train"), what="the record")
    run, found = logged(name="train")
    assert (run.state, run.tags) == (RunState.DONE, {"team": "vision"})
    assert found == Tracked({"lr": 0.1, "model": "x"}, {"loss": 1 / 5000})
    with Store() as store:
        assert [point.step for point in store.history(run.id, "loss")] == list(range(5000))
    listed = notebook.run("%cloud runs train --metrics")
    assert "vision" not in listed.result
    assert all(word in listed.result for word in ("lr", "loss", "0.0002"))


def test_a_run_tells_what_it_has_logged_while_it_goes_on(notebook: RunningNotebook, wait_until: Any) -> None:
    notebook.run(
        "%%cloud --bg --name live\nimport nbcloud, time\nnbcloud.log_metric('a', 1)\n"
        "nbcloud.log_param('p', 'q')\nnbcloud.flush()\ntime.sleep(600)"
    )
    wait_until(
        lambda: {"1", "q"} <= set(notebook.run("%cloud runs live --metrics").result.split()),
        what="the values",
    )
    notebook.run("%cloud cancel live")


def test_experiments_of_cells(notebook: RunningNotebook, wait_until: Any) -> None:
    notebook.run("import nbcloud\nnbcloud.set_experiment('digits')")
    notebook.run("%%cloud --name first\n1")
    notebook.run("%%cloud --name second\nimport nbcloud\nnbcloud.set_experiment('flowers')")
    notebook.run("%%cloud --name third\n1")
    notebook.run("%%cloud --local --name here\n1")
    found = {"first": "digits", "second": "flowers", "third": "flowers", "here": "digits"}
    for name, experiment in found.items():
        wait_until(lambda name=name: ended(name), what="the record")
        assert logged(name=name)[0].experiment == experiment
    assert "flowers" in notebook.run("%cloud experiments").result


def test_nested_runs_of_a_cell(notebook: RunningNotebook, wait_until: Any) -> None:
    notebook.run(
        "%%cloud --name folds\nimport nbcloud\nfor fold in range(3):\n"
        "    with nbcloud.start_run(f'fold {fold}', tags={'fold': fold}):\n"
        "        nbcloud.log_metric('score', fold)\n        if fold == 2:\n            raise ValueError"
    )
    wait_until(lambda: ended("folds"), what="the record")
    whole, _ = logged(name="folds")
    for fold, state in enumerate((RunState.DONE, RunState.DONE, RunState.FAILED)):
        run, found = logged(name=f"fold {fold}")
        assert (run.parent, run.state, run.session) == (whole.id, state, whole.session)
        assert found.metrics == {"score": fold}


def test_what_a_thread_logs_belongs_to_the_cell_that_runs_then(
    notebook: RunningNotebook, wait_until: Any
) -> None:
    notebook.run(
        "%%cloud\nimport nbcloud, threading\ngo = threading.Event()\n"
        "thread = threading.Thread(target=lambda: [go.wait(), nbcloud.log_metric('a', 1)])\nthread.start()"
    )
    notebook.run("%%cloud --name joins\ngo.set()\nthread.join()")
    wait_until(lambda: ended("joins"), what="the record")
    assert logged(name="joins")[1].metrics == {"a": 1.0}


def test_metrics_of_a_run_whose_notebook_went_away(local_cluster: ClusterInfo, wait_until: Any) -> None:
    with running_notebook() as notebook:
        notebook.run("%%cloud\npass")
        notebook.run(
            "%%cloud --bg --name away\nimport nbcloud, time\nfor i in range(20):\n"
            "    nbcloud.log_metric('a', i, step=i)\n    time.sleep(0.1)"
        )
        wait_until(lambda: on_record("away"), what="the run on record")
    with running_notebook() as notebook:
        wait_until(
            lambda: "done" in notebook.run("%cloud runs away --metrics").result,
            what="the run's end",
            limit=60,
        )
    run, found = logged(name="away")
    assert found.metrics == {"a": 19.0}
    with Store() as store:
        assert [point.step for point in store.history(run.id, "a")] == list(range(20))


def test_files_and_figures_of_a_cell_come_home(notebook: RunningNotebook, wait_until: Any) -> None:
    shown = notebook.run(
        "%%cloud --name files\nimport nbcloud, os\ndata = os.urandom(5 * 2**20)\n"
        "with open('weights.bin', 'wb') as file:\n    file.write(data)\n"
        "nbcloud.log_artifact('weights.bin')\nos.remove('weights.bin')\n"
        "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1, 2])\n"
        "nbcloud.log_figure(figure, 'curve')\nplt.close(figure)\nnbcloud.record('answer', [42])\n"
        "import hashlib\nhashlib.sha256(data).hexdigest()"
    )
    wait_until(lambda: ended("files"), what="the record")
    run, found = logged(name="files")
    assert found.records == {"answer": {"value": [42]}}
    with Store() as store:
        weights = store.artifact(run.id, "weights.bin").read_bytes()
        assert repr(hashlib.sha256(weights).hexdigest()) == shown.result
        assert store.artifact(run.id, "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_is_too_large_to_travel_is_refused(notebook: RunningNotebook) -> None:
    shown = notebook.run(
        "%%cloud\nimport nbcloud, os\nwith open('large', 'wb') as file:\n    file.truncate(2**28 + 1)\n"
        "try:\n    nbcloud.log_artifact('large')\nfinally:\n    os.remove('large')"
    )
    assert shown.error == "UsageError"
    assert "at most 256.0 MiB can travel" in shown.traceback


def test_autolog_in_a_cell(notebook: RunningNotebook, wait_until: Any) -> None:
    shown = notebook.run(
        "%%cloud --name fits\nimport nbcloud\nnbcloud.autolog()\n"
        "from sklearn.datasets import load_iris\nfrom sklearn.linear_model import LogisticRegression\n"
        "X, y = load_iris(return_X_y=True)\nfor C in (0.1, 1.0):\n"
        "    LogisticRegression(C=C, max_iter=1000).fit(X, y)\nnbcloud.autolog(disable=True)"
    )
    assert (shown.error, shown.notes) == ("", "")
    wait_until(lambda: ended("fits"), what="the record")
    with Store() as store:
        whole = store.get("fits")
        best = store.search(filter=f"parent = '{whole.id}'", order_by="metrics.training_score desc")
        assert [run.name for run in best] == ["LogisticRegression"] * 2
        assert {found.params["C"] for found in store.tracked(run.id for run in best).values()} == {0.1, 1.0}


def test_a_task_of_dask_logs_without_a_session(local_cluster: ClusterInfo) -> None:
    def task(data_dir: str) -> None:
        import os

        import nbcloud

        os.environ["NBCLOUD_DATA_DIR"] = data_dir
        with nbcloud.start_run("from a task"):
            nbcloud.log_metric("a", 0.5)
        nbcloud.flush()

    security = local_cluster.security()
    with distributed.Client(local_cluster.address, security=security, set_as_default=False) as client:
        client.submit(task, os.environ["NBCLOUD_DATA_DIR"]).result(60)
    run, found = logged(name="from a task")
    assert (run.kind, run.state, found.metrics) == ("process", RunState.DONE, {"a": 0.5})


def test_a_local_cell_logs_to_its_own_run(notebook: RunningNotebook, wait_until: Any) -> None:
    shown = notebook.run(
        "%%cloud --local --name here\nimport nbcloud, os\n"
        "nbcloud.log_metric('a', float('inf'))\nwith nbcloud.start_run('inner'):\n"
        "    nbcloud.log_param('p', 1)\nwith open('x', 'w') as file:\n    file.write('content')\n"
        "nbcloud.log_artifact('x')\nos.remove('x')"
    )
    assert (shown.error, shown.messages) == ("", [])
    wait_until(lambda: ended("here"), what="the record")
    run, found = logged(name="here")
    inner, nested = logged(name="inner")
    assert (found.metrics, nested.params) == ({"a": float("inf")}, {"p": 1})
    assert (inner.parent, inner.state) == (run.id, RunState.DONE)
    with Store() as store:
        assert store.artifact(run.id, "x").read_bytes() == b"content"
        assert len(store.search()) == 2  # and none of the process
