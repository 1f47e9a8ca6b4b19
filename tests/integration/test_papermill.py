"""papermill's engine ``nbcloud``: the same notebooks come out as from papermill's own, and nothing is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path

import nbformat
import papermill
import pytest

from nbcloud.clusters.base import ClusterInfo
from nbcloud.dispatch.attach import complete_records
from nbcloud.dispatch.cancel import cancel
from nbcloud.dispatch.links import close_links
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.runs.record import RunState
from nbcloud.workflows.notebook.outcome import Stage
from nbcloud.workflows.notebook.run import run_notebook
from tests.integration.files import on_record, run, started, wait_for_output, write
from tests.sweeps.notebooks import differences, seen

OWN = Path(papermill.__file__).parent / "tests" / "notebooks"

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    # papermill's and nbclient's own, with the libraries that are there today.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::nbformat.warnings.MissingIDFieldWarning"
    ),
    pytest.mark.filterwarnings("ignore:Passing unrecognized arguments:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _unlinked() -> object:
    yield
    close_links()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("blank-vscode.ipynb", {}),
        ("broken1.ipynb", {}),
        ("broken2.ipynb", {}),
        ("complex_parameters.ipynb", {"msg": "hello"}),
        ("line_magic_error.ipynb", {}),
        ("nb_version_4.4.ipynb", {}),
        ("no_parameters.ipynb", {"msg": "hello"}),
        ("report_mode_test.ipynb", {"a": 0}),
        ("simple_execute.ipynb", {"msg": "Hello"}),
        ("sysexit.ipynb", {}),
        ("sysexit0.ipynb", {}),
        ("sysexit1.ipynb", {}),
        ("systemexit.ipynb", {}),
        ("test_logging.ipynb", {}),
    ],
)
def test_papermills_own_notebooks_come_out_alike(tmp_path: Path, name: str, parameters: dict[str, object]):
    stock = run(OWN / name, tmp_path / "stock.ipynb", None, parameters=parameters)
    ours = run(OWN / name, tmp_path / "ours.ipynb", "nbcloud", parameters=parameters)
    assert differences(seen(stock), seen(ours)) == []


def test_what_cells_show_comes_out_alike(tmp_path: Path):
    source = write(
        tmp_path / "in.ipynb",
        ("rate = 0.1\nname = 'a'", "parameters"),
        "import sys\nprint('rate', rate)\nprint('bad', file=sys.stderr)\nrate * 2",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]);",
        "import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\nslider",
        "from IPython.display import HTML, clear_output\nhandle = display(HTML('1'), display_id=True)",
        "handle.update(HTML('2'))\nprint('gone')\nclear_output(wait=True)\nprint('there')",
        ("1 / 0", "raises-exception"),
        "!echo from a shell",
        "await __import__('asyncio').sleep(0)\n_",
        "import os\nprint(os.path.basename(os.getcwd()))\nos.chdir('/')",
        "os.getcwd()",
    )
    stock = run(source, tmp_path / "stock.ipynb", None, parameters={"rate": 0.5})
    ours = run(source, tmp_path / "ours.ipynb", "nbcloud", parameters={"rate": 0.5})
    assert differences(seen(stock), seen(ours)) == []


def test_what_an_output_widget_captures_is_in_the_widget(tmp_path: Path):
    # Not compared: papermill's own engine now and then waits for ever for such a cell, on ipykernel 7.4.
    code = "import ipywidgets\nout = ipywidgets.Output()\ndisplay(out)\nwith out:\n    print('inside')\nprint('after')"
    ours = run(write(tmp_path / "in.ipynb", code), tmp_path / "out.ipynb", "nbcloud")
    assert [each.get("text") for each in ours.cells[0].outputs] == [None, "after\n"]
    states = ours.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    captured = [each["state"]["outputs"] for each in states if each["model_name"] == "OutputModel"]
    assert captured == [[{"output_type": "stream", "name": "stdout", "text": "inside\n"}]]


def test_a_notebook_is_one_run_on_record(tmp_path: Path, nbcloud_dirs: Path):
    source = write(
        tmp_path / "train.ipynb", ("rate = 0.1", "parameters"), "print('one')", "print('two')", "1/0"
    )
    ours = run(source, tmp_path / "out.ipynb", "nbcloud", parameters={"rate": 0.5}, name="training")
    with open_store() as store:
        record = store.get(ours.metadata.papermill.run)
        assert store.text(record.id).startswith("one\ntwo\n")
    assert (record.kind, record.name, record.state) == ("notebook", "training", RunState.FAILED)
    assert record.error == {"ename": "ZeroDivisionError", "evalue": "division by zero"}
    assert record.extra["parameters"] == {"rate": 0.5}
    assert Path(record.extra["output"]).name == "out.ipynb"


def test_each_notebook_has_a_kernel_of_its_own(tmp_path: Path):
    source = write(tmp_path / "in.ipynb", "print('left' in globals())\nleft = 1")
    for _ in range(2):
        assert run(source, tmp_path / "out.ipynb", "nbcloud").cells[0].outputs[0].text == "False\n"


def test_a_lost_kernel_is_told_and_what_came_before_is_kept(tmp_path: Path):
    source = write(
        tmp_path / "in.ipynb", "print('before')", "import os\nprint('last', flush=True)\nos._exit(3)", "2"
    )
    with pytest.raises(Exception, match="exit code 3"):
        papermill.execute_notebook(
            str(source), str(tmp_path / "out.ipynb"), engine_name="nbcloud", progress_bar=False
        )
    left = nbformat.read(tmp_path / "out.ipynb", 4)
    assert [cell.metadata.papermill.status for cell in left.cells] == ["completed", "failed", "pending"]
    assert [cell.outputs[0].text for cell in left.cells[:2]] == ["before\n", "last\n"]


def test_a_cell_that_takes_too_long_is_stopped(tmp_path: Path):
    source = write(tmp_path / "in.ipynb", "import time\ntime.sleep(60)")
    start = time.monotonic()
    with pytest.raises(Exception, match="timed out"):
        papermill.execute_notebook(
            str(source),
            str(tmp_path / "out.ipynb"),
            engine_name="nbcloud",
            progress_bar=False,
            execution_timeout=1,
        )
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("option", "said"), [("gpu", "Did you mean 'gpus'"), ("frobnicate", "no option 'frobnicate'")]
)
def test_an_unknown_option_is_refused(tmp_path: Path, option: str, said: str):
    source = write(tmp_path / "in.ipynb", "1")
    with pytest.raises(UsageError, match=said):
        papermill.execute_notebook(
            str(source), None, engine_name="nbcloud", progress_bar=False, **{option: 1}
        )


def test_a_notebook_of_another_language_is_refused(tmp_path: Path):
    source = write(tmp_path / "in.ipynb", "1")
    notebook = nbformat.read(source, 4)
    notebook.metadata.kernelspec = {"name": "ir", "display_name": "R", "language": "R"}
    nbformat.write(notebook, source)
    with pytest.raises(UsageError, match="written for R"):
        papermill.execute_notebook(str(source), None, engine_name="nbcloud", progress_bar=False)


SLOW = "import time\nfor number in range(40):\n    print(number, flush=True)\n    time.sleep(0.1)"


def test_a_killed_client_loses_nothing_and_is_gone_on_with(tmp_path: Path):
    first = "import os, nbcloud\nnbcloud.log_metric('early', 1.0)\nprint(os.getpid())"
    source = write(
        tmp_path / "in.ipynb", first, SLOW, "print('after', number)\nnbcloud.log_metric('late', 2.0)"
    )
    output = tmp_path / "out.ipynb"
    client = started(source, output)
    wait_for_output(output, '"5\\n"')
    complete_records()  # somebody looks at the list of runs
    run_id = nbformat.read(output, 4).metadata.papermill.run
    assert on_record(run_id).state is RunState.RUNNING
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    complete_records()
    assert on_record(run_id).state is RunState.LOST
    before = nbformat.read(output, 4)  # whole, although it was being written all the time
    assert [cell.metadata.papermill.status for cell in before.cells] == ["completed", "running", "pending"]
    after = run(output, output, "nbcloud", resume=True)
    assert [cell.metadata.papermill.status for cell in after.cells] == ["completed"] * 3
    assert after.cells[0].outputs == before.cells[0].outputs  # the same kernel; it did not run again
    assert "".join(each.text for each in after.cells[1].outputs) == "".join(f"{n}\n" for n in range(40))
    assert after.cells[2].outputs[0].text == "after 39\n"
    assert [cell.execution_count for cell in after.cells] == [1, 2, 3]
    # One record, which has all, whoever heard it.
    assert after.metadata.papermill.run == run_id
    record = on_record(run_id)
    assert (record.state, record.message) == (RunState.DONE, "")
    with open_store() as store:
        assert store.tracked([run_id])[run_id].metrics == {"early": 1.0, "late": 2.0}
        said = store.text(run_id)
    assert said == "".join("".join(each.text for each in cell.outputs) for cell in after.cells)


def test_one_process_writes_a_notebook_at_a_time_and_goes_on_with_no_other_code(tmp_path: Path):
    source = write(tmp_path / "in.ipynb", "print('first')", SLOW)
    output = tmp_path / "out.ipynb"
    client = started(source, output)
    wait_for_output(output, '"2\\n"')
    for resume in (False, True):
        with pytest.raises(UsageError, match="Another process is writing"):
            run_notebook(str(source), str(output), resume=resume)
    assert client.poll() is None
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    write(source, "print('other')", SLOW)
    with pytest.raises(UsageError, match=r"in.ipynb has changed since .* was run \(code cell 1\)"):
        run_notebook(str(source), str(output), resume=True)
    write(source, "print('first')", SLOW)
    assert run_notebook(str(source), str(output), resume=True).stage is Stage.DONE
    write(source, "print('other')", SLOW)
    with pytest.raises(UsageError, match="has changed since"):  # nor is it said to be done
        run_notebook(str(source), str(output), resume=True)


def test_an_output_with_other_parameters_than_it_says_is_not_gone_on_with(tmp_path: Path):
    code = "size, names, odd = (1, 2), {}, 0.5"
    source = write(tmp_path / "in.ipynb", (code, "parameters"), "print(type(size), size)")
    output = tmp_path / "out.ipynb"
    given = {"size": (3, 4), "names": {"b": 1, "a": [{"d": None, "c": -2}]}, "odd": float("nan")}
    done = run_notebook(str(source), str(output), given, progress_bar=False)
    assert done.parameters["size"] == [3, 4]
    after = nbformat.read(output, 4)
    assert after.cells[-1].outputs[0].text == "<class 'list'> [3, 4]\n"
    assert run_notebook(str(source), str(output), resume=True).run == done.run
    after.cells[1].source += "import shutil; shutil.rmtree('/')"
    nbformat.write(after, output)
    with pytest.raises(UsageError, match="is not as papermill wrote it"):
        run_notebook(str(source), str(output), resume=True)


def test_widgets_and_displays_of_the_cells_before_are_gone_on_with(tmp_path: Path):
    source = write(
        tmp_path / "in.ipynb",
        "import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\nslider",
        "from IPython.display import HTML\nshown = display(HTML('1'), display_id=True)",
        ("1 / 0", "raises-exception"),
        SLOW,
        "shown.update(HTML('2'))\nslider.value = 7",
    )
    output = tmp_path / "out.ipynb"
    client = started(source, output)
    wait_for_output(output, '"5\\n"')
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    before = nbformat.read(output, 4)
    after = run(output, output, "nbcloud", resume=True)
    cells = [cell for cell in after.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4, 5]
    assert [cell.outputs for cell in cells[:1]] == [before.cells[0].outputs]
    assert cells[0].metadata.execution == before.cells[0].metadata.execution
    assert cells[1].outputs[0].data["text/html"] == "2"
    states = after.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    assert [each["state"]["value"] for each in states if each["model_name"] == "IntSliderModel"] == [7]


def test_what_a_killed_client_did_not_put_on_record_is_fetched_from_the_journal(tmp_path: Path):
    source = write(tmp_path / "in.ipynb", "import nbcloud\nnbcloud.log_metric('early', 1.0)", SLOW)
    output = tmp_path / "out.ipynb"
    client = started(source, output)
    wait_for_output(output, '"5\\n"')
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    run_id = nbformat.read(output, 4).metadata.papermill.run
    with open_store() as store:
        files = store.files(run_id)
        files.messages.write_bytes(files.messages.read_bytes()[:40])  # as if it had been killed before
        database = sqlite3.connect(store.directory / "runs.db")
    database.executescript("DELETE FROM metrics; DELETE FROM latest")
    database.close()
    run(output, output, "nbcloud", resume=True)
    with open_store() as store:
        assert store.tracked([run_id])[run_id].metrics == {"early": 1.0}
        assert store.text(run_id) == "".join(f"{n}\n" for n in range(40))


def test_an_interrupt_stops_the_remote_cell_too(tmp_path: Path, local_cluster: ClusterInfo):
    source = write(tmp_path / "in.ipynb", SLOW.replace("40", "600"))
    output = tmp_path / "out.ipynb"
    client = started(source, output)
    wait_for_output(output, '"5\\n"')
    os.kill(client.pid, signal.SIGINT)
    assert client.wait(30) != 0
    from nbcloud.dispatch.links import link_to

    names = [each["name"] for each in link_to(local_cluster).ask("sessions")]
    assert not [name for name in names if name.startswith("out-")]
    with open_store() as store:
        record = store.get(nbformat.read(output, 4).metadata.papermill.run)
    assert record.state is RunState.CANCELLED


def test_a_notebook_is_cancelled_by_its_run(tmp_path: Path):
    source = write(tmp_path / "in.ipynb", SLOW.replace("40", "600"), "print('after')")
    output = tmp_path / "out.ipynb"
    client = started(source, output)
    wait_for_output(output, '"5\\n"')
    run_id = nbformat.read(output, 4).metadata.papermill.run
    assert cancel(on_record(run_id)) == f"Run {run_id} is being stopped."
    assert client.wait(30) != 0
    assert on_record(run_id).state is RunState.CANCELLED
    assert cancel(on_record(run_id)) == f"Run {run_id} is cancelled already."
