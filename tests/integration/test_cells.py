"""A ``%%cloud`` cell is as if it ran here: outputs, variables, sessions, control."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbcloud.clusters.base import ClusterInfo
from tests.integration.notebooks import RunningNotebook, Shown, running_notebook


def test_streams_come_in_the_order_in_which_they_were_written(notebook: RunningNotebook) -> None:
    notebook.run("%%cloud\npass")
    shown = notebook.run(
        "%%cloud\nimport sys\nfor i in range(3):\n    print('out', i)\n    print('err', i, file=sys.stderr)"
    )
    texts = [(m["content"]["name"], m["content"]["text"]) for m in shown.messages]
    assert "".join(text for _, text in texts) == "".join(f"out {i}\nerr {i}\n" for i in range(3))
    assert [name for name, _ in texts] == ["stdout", "stderr"] * 3


def test_output_is_live(notebook: RunningNotebook) -> None:
    notebook.run("%%cloud\npass")
    seen: list[float] = []
    began = time.monotonic()

    def look(shown: Shown) -> bool:
        if shown.text():
            seen.append(time.monotonic() - began)
        return bool(seen)

    notebook.run("%%cloud\nimport time\nprint('now')\ntime.sleep(3)", meanwhile=look)
    assert seen[0] < time.monotonic() - began - 1.5, "the text came before the cell ended"


def test_output_of_c_and_of_child_processes_is_captured(notebook: RunningNotebook) -> None:
    shown = notebook.run(
        "%%cloud\nimport ctypes, subprocess\nctypes.CDLL(None).puts(b'from C')\nctypes.CDLL(None).fflush(None)\n"
        "subprocess.run('echo from a child; echo to stderr >&2', shell=True)\n!echo from the shell\npass"
    )
    assert "from C" in shown.text()
    assert "from a child" in shown.text()
    assert "from the shell" in shown.text()
    assert "to stderr" in shown.notes


def test_output_of_forked_children_is_captured_without_a_port(notebook: RunningNotebook) -> None:
    shown = notebook.run(
        "%%cloud\nimport multiprocessing, os, sys\nfork = multiprocessing.get_context('fork')\n"
        "def work():\n    print('from a fork')\n    print('its stderr', file=sys.stderr)\n"
        "child = fork.Process(target=work)\nchild.start()\nchild.join()\n"
        "import psutil\n[c.laddr for c in psutil.Process().net_connections() if c.status == 'LISTEN']"
    )
    assert (shown.text(), shown.result) == ("from a fork\n", "[]")
    assert "its stderr" in shown.notes


def test_rich_displays_updates_and_results(notebook: RunningNotebook) -> None:
    shown = notebook.run(
        "%%cloud\nfrom IPython.display import HTML, clear_output, display\n"
        "handle = display(HTML('<i>1</i>'), display_id=True)\nhandle.update(HTML('<i>2</i>'))\nclear_output(wait=True)\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n40 + 2"
    )
    kinds = [m["msg_type"] for m in shown.messages]
    assert "clear_output" in kinds
    pictures = [c["data"] for c in shown.of_type("display_data") if "image/png" in c["data"]]
    assert len(pictures) == 1
    assert shown.result == "42"


def test_await_magics_warnings_and_a_refused_question(notebook: RunningNotebook) -> None:
    assert notebook.run("%%cloud\nimport asyncio\nawait asyncio.sleep(0.01, 'awaited')").result == "'awaited'"
    assert "CPU times" in notebook.run("%%cloud\n%time sum(range(10))").text()
    assert "UserWarning: careful" in notebook.run("%%cloud\nimport warnings\nwarnings.warn('careful')").notes
    shown = notebook.run("%%cloud\nname = input('who? ')")
    assert shown.error == "StdinNotImplementedError"
    assert "input() can't ask here" in shown.traceback


def test_a_traceback_points_at_the_users_cells_and_lines_here_and_there(notebook: RunningNotebook) -> None:
    notebook.run("def local_one(x):\n    y = x\n    return y / 0")
    notebook.run("%%cloud\ndef remote_one(x):\n\n    return local_one(x)")
    shown = notebook.run("%%cloud\nprint('first')\nremote_one(1)")
    assert shown.error == "ZeroDivisionError"
    assert "line 2\n" in shown.traceback
    assert "----> 2 remote_one(1)" in shown.traceback
    assert "----> 3     return local_one(x)" in shown.traceback
    assert "----> 3     return y / 0" in shown.traceback
    assert "nbcloud" not in shown.traceback
    home = notebook.run("remote_one(1)")
    assert "----> 3     return local_one(x)" in home.traceback


def test_an_undefined_name_fails_before_anything_is_sent(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud\nprint('never')\nmissing_name + 1")
    assert (shown.text(), shown.error) == ("", "NameError")
    assert "----> 2 missing_name + 1" in shown.traceback


def test_variables_travel_both_ways_and_only_when_they_changed(notebook: RunningNotebook) -> None:
    notebook.run(
        "import numpy as np\nbig = np.ones(2_000_000)\nsettings = {'rate': 1}\nlist_ = [1]\nalias = list_"
    )
    shown = notebook.run("%%cloud\nlist_.append(2)\ntotal = big.sum() * settings['rate']\nprint(alias)")
    assert shown.text() == "[1, 2]\n", "two names of one object stay two names of one object"
    assert notebook.run("total, list_, alias is list_").result == "(np.float64(2000000.0), [1, 2], True)"
    plan = notebook.run("%%cloud --dry-run\nbig.sum() * settings['rate']").of_type("display_data")[0]
    assert "0 B. Nothing was sent" in plan["data"]["text/plain"]
    notebook.run("big[0] = 5")
    plan = notebook.run("%%cloud --dry-run\nbig.sum() * settings['rate']").of_type("display_data")[0]
    assert "15.3 MiB" in plan["data"]["text/plain"], "an array changed in place is noticed"
    assert notebook.run("%%cloud\nbig.sum() * settings['rate']").result == "np.float64(2000004.0)"


def test_model_and_optimizer_still_share_their_parameters(notebook: RunningNotebook) -> None:
    notebook.run(
        "class Model:\n    def __init__(self): self.weights = [0.0]\n"
        "class Optimizer:\n    def __init__(self, weights): self.weights = weights\n"
        "    def step(self): self.weights[0] += 1\n"
        "model = Model()\noptimizer = Optimizer(model.weights)"
    )
    notebook.run("%%cloud\noptimizer.step()\noptimizer.step()")
    assert notebook.run("%%cloud\nmodel.weights").result == "[2.0]"
    assert notebook.run("optimizer.step()\nmodel.weights").result == "[3.0]"
    assert notebook.run("%%cloud\noptimizer.step()\nmodel.weights").result == "[4.0]"


def test_large_and_unpicklable_results_are_handles(notebook: RunningNotebook) -> None:
    notebook.run(
        "%%cloud\nimport numpy as np\nlarge = np.arange(1_000_000)\ngenerator = (i for i in range(3))"
    )
    assert "stays on session" in notebook.run("large").result
    notebook.run("other_name = large")
    assert notebook.run("%%cloud\nother_name is large, next(generator)").result == "(True, 0)"
    assert notebook.run("large.get().sum()").result == "np.int64(499999500000)"
    shown = notebook.run("large.shape")
    assert shown.error == "AttributeError"
    assert "large.get()" in shown.traceback
    shown = notebook.run("generator.get()")
    assert shown.error == "NotPicklable"
    notebook.run("%%cloud -o large\npass")
    assert notebook.run("type(large).__name__").result == "'ndarray'"


def test_a_local_module_travels_and_is_refreshed_when_it_changes(
    notebook: RunningNotebook, tmp_path: Path
) -> None:
    module = tmp_path / "local_recipe.py"
    module.write_text("def cook():\n    return 'raw'\n")
    notebook.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    assert (
        notebook.run("%%cloud\nimport local_recipe\nfrom local_recipe import cook\ncook()").result == "'raw'"
    )
    module.write_text("def cook():\n    return 'new'\n")
    assert (
        notebook.run("%%cloud\nimport local_recipe\ncook(), local_recipe.cook()").result == "('new', 'new')"
    )


def test_an_unpicklable_input_is_named_with_the_path_to_the_culprit(notebook: RunningNotebook) -> None:
    notebook.run("import threading\nconfiguration = {'model': {'lock': threading.Lock()}}")
    shown = notebook.run("%%cloud\nprint('never')\nconfiguration['model']")
    assert (shown.text(), shown.error) == ("", "NotPicklable")
    assert "configuration['model']['lock']" in shown.traceback


def test_interrupt_raises_keyboard_interrupt_there_and_the_session_goes_on(notebook: RunningNotebook) -> None:
    def look(shown: Shown) -> bool:
        if "begun" in shown.text():
            notebook.interrupt()
            return True
        return False

    shown = notebook.run(
        "%%cloud\nimport time\nkept = 1\nprint('begun', flush=True)\ntime.sleep(60)", meanwhile=look
    )
    assert shown.error == "KeyboardInterrupt"
    assert "----> 4 time.sleep(60)" in shown.traceback
    assert notebook.run("%%cloud\nkept").result == "1"


def test_sessions_by_name_are_apart_and_shared_between_notebooks(
    notebook: RunningNotebook, local_cluster: ClusterInfo
) -> None:
    notebook.run("%%cloud -s shared-one\nwhere = 'named'")
    assert notebook.run("%%cloud\n'here' in globals(), 'where' in dir()").result == "(False, True)"
    with running_notebook() as other:
        assert other.run("%%cloud -s shared-one\nwhere").result == "'named'"
        assert other.run("%%cloud\nwhere").error == "NameError"
        assert other.run("%cloud reset -s shared-one").error == ""


def test_a_fresh_session_keeps_nothing(notebook: RunningNotebook) -> None:
    first = notebook.run("%%cloud --fresh\nimport os\nprint(os.getpid())").text()
    second = notebook.run("%%cloud --fresh\nimport os\nprint(os.getpid())").text()
    assert first != second


def test_notebooks_at_once_do_not_mix_their_outputs(notebook: RunningNotebook) -> None:
    with running_notebook() as other:
        code = (
            "%%cloud\nimport time\nfor i in range(50):\n    print({!r}, i, flush=True)\n    time.sleep(0.01)"
        )
        ids = [(n, n.start(code.format(name))) for n, name in ((notebook, "one"), (other, "two"))]
        shown = [n.finish(identity) for n, identity in ids]
    assert shown[0].text() == "".join(f"one {i}\n" for i in range(50))
    assert shown[1].text() == "".join(f"two {i}\n" for i in range(50))


def test_a_background_run_shows_in_the_cell_that_started_it(notebook: RunningNotebook) -> None:
    notebook.run("factor = 2")
    started = notebook.start(
        "%%cloud --bg -o answer\nimport time\nfor i in range(3):\n    print('step', i, flush=True)\n"
        "    time.sleep(0.2)\nanswer = 21 * factor"
    )
    shown = notebook.finish(started)
    assert "<run r" in str(shown.messages), "the run itself is shown"
    notebook.run("run = _")
    assert notebook.run("print('meanwhile')").text() == "meanwhile\n"
    later = notebook.later(started, lambda found: "step 2" in found.text())
    assert shown.text() + later.text() == "step 0\nstep 1\nstep 2\n"
    assert notebook.run("run.result(timeout=30)").result == "42"
    assert notebook.run("run.done(), run.state.value").result == "(True, 'done')"


def test_a_background_run_can_be_cancelled(notebook: RunningNotebook) -> None:
    notebook.run("%%cloud --bg\nimport time\ntime.sleep(600)")
    notebook.run("run = _")
    notebook.run("import time\nwhile not run.running(): time.sleep(0.05)")
    notebook.run("get_ipython().run_line_magic('cloud', f'cancel {run.id}')")
    assert notebook.run("print(type(run.exception(timeout=30)).__name__)").text() == "RunCancelled\n"
    assert notebook.run("%%cloud\n1 + 1").result == "2"


def test_a_cell_behind_a_run_in_the_background_says_what_it_waits_for(
    notebook: RunningNotebook, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    notebook.run(
        f"%%cloud --bg\nimport time, pathlib\nwhile not pathlib.Path({str(flag)!r}).exists():\n    time.sleep(0.05)"
    )
    run = notebook.run("run = _\nprint(run.id)").text().strip()

    def let_go_when_told(shown: Shown) -> bool:
        if shown.notes:
            flag.touch()
        return flag.exists()

    shown = notebook.run("%%cloud\nprint('at last')", meanwhile=let_go_when_told)
    assert shown.text() == "at last\n"
    assert shown.notes == (
        f"nbcloud: Waiting for run {run} in this session; to end it: %cloud cancel {run}\n"
    )
    slow = "import time\ntime.sleep(3)"
    assert notebook.run(f"%%cloud\n{slow}").notes == "", "a run that is on waits for nobody"


def test_attaching_to_a_run_of_ones_own_takes_nothing_from_it(notebook: RunningNotebook) -> None:
    notebook.run(
        "%%cloud --bg -o end\nimport time\nfor i in range(20):\n    print(i, flush=True)\n    time.sleep(0.1)\nend = i"
    )
    notebook.run("run = _\nimport time; time.sleep(0.5)")
    shown = notebook.run("get_ipython().run_line_magic('cloud', f'attach {run.id}')")
    assert shown.text() == "".join(f"{i}\n" for i in range(20))
    assert notebook.run(
        "run.result(timeout=30), run.text() == ''.join(f'{i}\\n' for i in range(20))"
    ).result == ("(19, True)")


def test_after_a_restart_attach_shows_all_that_was_missed_and_goes_on(notebook: RunningNotebook) -> None:
    notebook.run(
        "%%cloud -s lasting --bg --name long\nimport time\nfor i in range(60):\n    print('line', i, flush=True)\n"
        "    time.sleep(0.1)"
    )
    notebook.run("import time; time.sleep(1)")
    notebook.restart()
    notebook.run("%load_ext nbcloud")
    run = (
        notebook.run("print(get_ipython().run_line_magic('cloud', 'runs long --json')[0]['id'])")
        .text()
        .strip()
    )
    shown = notebook.run(f"%cloud attach {run}")
    assert shown.text() == "".join(f"line {i}\n" for i in range(60)), shown.messages
    assert notebook.run(f"%cloud logs {run}").text() == shown.text(), "the record has it all, once"
    notebook.run("%cloud reset -s lasting")


def test_a_flood_of_lines_is_cut_for_the_page_and_whole_in_the_record(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud\nfor i in range(300_000): print('line', i)", limit=120)
    text = shown.text()
    assert text.startswith("line 0\nline 1\n")
    assert text.endswith("line 299999\n")
    assert len(text) < 1.2 * 2**20
    assert any("lines more" in str(content) for content in shown.of_type("update_display_data"))
    count = notebook.run(
        "from nbcloud.runs.store import Store\n"
        "magic = get_ipython().magics_manager.registry['CloudMagics']\nmagic.runner.notebook.recorder.flush()\n"
        "with Store() as store:\n    run = store.search(limit=1)[0]\n    print(store.text(run.id).count('\\n'))"
    )
    assert count.text() == "300000\n"


def test_secrets_reach_the_cell_and_nothing_that_is_kept(notebook: RunningNotebook, tmp_path: Path) -> None:
    secret = "sk-live-0123456789abcdef"
    notebook.run(f"import nbcloud, os\nos.environ['SERVICE_TOKEN'] = {secret!r}")
    shown = notebook.run(
        "%%cloud\nimport nbcloud, sys\ntoken = nbcloud.secret('SERVICE_TOKEN')\nprint(len(token), token)\n"
        "for letter in token: print(letter, end='')\nprint()\nraise RuntimeError(token)"
    )
    assert f"{len(secret)} ***" in shown.text()
    assert secret not in str(shown.messages)
    notebook.run(
        "magic = get_ipython().magics_manager.registry['CloudMagics']\nmagic.runner.notebook.recorder.flush()"
    )
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert kept == []


def test_cache_skips_a_cell_whose_code_and_inputs_are_the_same(notebook: RunningNotebook) -> None:
    notebook.run("rate = 2")
    cell = "%%cloud --cache\nimport uuid\nmark = uuid.uuid4().hex\nprint(mark, rate)"
    first = notebook.run(cell)
    second = notebook.run(cell)
    assert second.text() == first.text()
    assert "same code and inputs" in second.notes
    notebook.run("rate = 3")
    assert notebook.run(cell).text().split()[0] != first.text().split()[0]


def test_local_runs_here_with_a_record(notebook: RunningNotebook) -> None:
    here = notebook.run("import os; os.getpid()").result
    shown = notebook.run("%%cloud --local --name at-home\nimport os\nprint('at home')\nos.getpid()")
    assert (shown.text(), shown.result) == ("at home\n", here)
    assert "at home" in notebook.run("%cloud logs").text()


def test_pull_push_and_names(notebook: RunningNotebook) -> None:
    notebook.run("local_value = 1")
    notebook.run("%%cloud\nremote_value = [1, 2]")
    assert "local_value" in notebook.run("%cloud push local_value").result
    assert "remote_value" in notebook.run("%cloud names").result
    assert "local_value" in notebook.run("%cloud names").result
    notebook.run("del remote_value")
    assert notebook.run("%cloud pull remote_value").error == ""
    assert notebook.run("remote_value").result == "[1, 2]"


def test_a_name_deleted_in_a_cell_is_deleted_here_and_the_other_way_round(notebook: RunningNotebook) -> None:
    notebook.run("%%cloud\none = 1\ntwo = 2")
    notebook.run("%%cloud\ndel one")
    assert notebook.run("'one' in globals(), 'two' in globals()").result == "(False, True)"
    notebook.run("del two")
    assert notebook.run("%%cloud\ntry:\n    two\nexcept NameError:\n    print('gone')").text() == "gone\n"


def _tab(notebook: RunningNotebook, code: str) -> list[Any]:
    reply = notebook.client.complete(code, cursor_pos=len(code), reply=True, timeout=30)
    content = reply["content"]
    return [code[: content["cursor_start"]] + match for match in content["matches"]]


def test_tab_completes_commands_flags_and_names(
    notebook: RunningNotebook, wait_until: Callable[..., Any]
) -> None:
    assert "%cloud attach" in _tab(notebook, "%cloud at")
    assert "%%cloud --timeout" in _tab(notebook, "%%cloud --ti")
    notebook.run("%%cloud --name for-tab\nfar_away = 1")
    assert "%cloud pull far_away" in _tab(notebook, "%cloud pull far_")
    assert any(match.startswith("%cloud logs r") for match in _tab(notebook, "%cloud logs r"))
    assert "%cloud status local" in _tab(notebook, "%cloud status lo")


def test_what_a_function_needs_and_can_not_travel_is_named(notebook: RunningNotebook) -> None:
    notebook.run("import threading\nlock = threading.Lock()\ndef locked():\n    with lock: return 3")
    shown = notebook.run("%%cloud\nlocked()")
    assert shown.error == "NameError"
    assert "lock is defined here, but could not travel: lock can't be pickled" in shown.notes


def test_results_of_a_background_run_are_bound_for_the_cell_after_its_end(
    notebook: RunningNotebook, wait_until: Callable[..., Any]
) -> None:
    notebook.run("%%cloud --bg -o squares\nsquares = [n * n for n in range(5)]")
    notebook.run("run = _")
    wait_until(lambda: notebook.run("run.done()").result == "True")
    assert notebook.run("squares").result == "[0, 1, 4, 9, 16]"


def test_a_large_input_that_a_cell_changes_is_changed_here(notebook: RunningNotebook) -> None:
    notebook.run("import numpy as np\nimport pandas as pd\nframe = pd.DataFrame({'a': np.arange(300_000)})")
    notebook.run("big = np.zeros(500_000)")
    notebook.run("%%cloud\nframe['b'] = frame.a * 2\nbig[17] = 3")
    assert (
        notebook.run("list(frame), big[17], big.sum()").result
        == "(['a', 'b'], np.float64(3.0), np.float64(3.0))"
    )
    notebook.run("frame.loc[0, 'a'] = -1")
    assert notebook.run("%%cloud\nlist(frame), frame.a[0]").result == "(['a', 'b'], np.int64(-1))"
