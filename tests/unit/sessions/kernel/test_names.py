"""What a cell reads is bound before it, what it left is gathered after it, and nothing else is touched."""

import linecache
import sys
import threading

import numpy
import pytest

from nbcloud.cells.ledger import Ledger
from nbcloud.errors import HandleLost, UsageError
from nbcloud.sessions.kernel.names import RemoteNames
from nbcloud.sessions.parcels import Parcels, SpooledBlobs, open_parcel


class Session:
    """A session's namespace and the notebook's, with what passes between them."""

    def __init__(self, shell, spool):
        self.shell = shell
        self.names = RemoteNames(shell)
        self.there = shell.user_ns
        self.here = {}
        self.ledger = Ledger(self.here)
        self.spool = spool
        self.runs = 0

    def request(self, **fields):
        self.runs += 1
        request = {"run": f"run{self.runs}", "spool": str(self.spool), "inputs": [], "reads": [], "binds": []}
        limits = {
            "home_limit": 2**20,
            "out_limit": 2**30,
            "changed_limit": 2**30,
            "code_hash": "code",
            "uses": [],
            "history": {},
        }
        return {**request, **limits, **fields}

    def send(self, *names, lacking_data=False, **fields):
        """Bind values of the notebook; returns what is missing."""
        parcels = Parcels(SpooledBlobs(self.spool))
        bundles, refused = self.ledger.bundles(names)
        assert not refused
        entries = [
            {"names": list(bundle.names), "kind": "value", **parcels.add(bundle.payload)}
            for bundle in bundles
        ]
        if lacking_data:
            entries = [{**entry, "data": None} for entry in entries]
        missing = self.names.bind(self.request(inputs=entries, **fields), [bytes(b) for b in parcels.buffers])
        if not missing:
            for bundle in bundles:
                self.ledger.sent(bundle)
        return missing

    def run(self, code, **fields):
        """Run a cell; returns what came home, name by name, as its entry."""
        self.names.watch()
        self.shell.run_cell(code).raise_error()
        answer, buffers = self.names.gather(self.request(**fields))
        self.answer = answer
        for entry in answer["results"]:
            if entry["kind"] == "value":
                values = open_parcel(entry, [bytes(b) for b in buffers], SpooledBlobs(self.spool), self.here)
                self.here.update(values)
                self.ledger.received(values, entry)
        return {name: entry for entry in answer["results"] for name in entry["names"]}


@pytest.fixture
def session(shell, tmp_path):
    return Session(shell, tmp_path)


def test_inputs_are_bound_and_results_come_home(session):
    session.here["numbers"] = [1, 2, 3]
    session.send("numbers")
    home = session.run("total = sum(numbers)", binds=["total"], reads=["numbers"])
    assert session.here["total"] == 6
    assert set(home) == {"total"}
    assert session.answer["added"] == ["numbers", "total"]


def test_an_input_changed_in_place_comes_home_and_an_unchanged_one_does_not(session):
    session.here.update(a=[1], b=[2])
    session.send("a", "b")
    home = session.run("a.append(b[0])", reads=["a", "b"])
    assert set(home) == {"a"}
    assert session.here["a"] == [1, 2]


def test_model_and_optimizer_share_their_list_there_and_at_home_again(session):
    weights = [1.0]
    session.here.update(model={"w": weights}, optimizer={"over": weights})
    session.send("model", "optimizer")
    session.run(
        "optimizer['over'][0] = 2.0\nsame = optimizer['over'] is model['w']", reads=["model", "optimizer"]
    )
    assert session.here["same"]
    assert session.here["model"] == {"w": [2.0]}
    assert session.here["optimizer"]["over"] is session.here["model"]["w"]


def test_what_the_session_lacks_is_asked_for_and_nothing_is_bound(session):
    session.here.update(a=[1], b=numpy.zeros(100_000))
    assert len(session.send("a", "b", lacking_data=True)) == 2
    assert "a" not in session.there
    session.send("b")
    for blob in session.spool.iterdir():
        blob.unlink()
    session.here["b"] = numpy.ones(100_000)
    parcels = Parcels(SpooledBlobs(session.spool))
    (bundle,), _ = session.ledger.bundles(["b"])
    entry = {"names": ["b"], "kind": "value", **parcels.add(bundle.payload)}
    for blob in session.spool.iterdir():
        blob.unlink()
    assert session.names.bind(session.request(inputs=[entry]), parcels.buffers) == [entry["hash"]]
    assert session.there["b"][0] == 0


def test_a_value_already_there_is_left_as_the_session_has_it(session):
    session.here["counts"] = {"n": 0}
    session.send("counts")
    session.there["counts"]["n"] = 5  # by a cell whose results nobody fetched
    entry = {"names": ["counts"], "kind": "value", "hash": session.ledger.agreed_hash("counts"), "data": None}
    assert session.names.bind(session.request(inputs=[entry]), []) == []
    assert session.there["counts"]["n"] == 5


def test_what_cannot_come_home_stays_as_a_handle(session):
    home = session.run(
        "import threading\nlock = threading.Lock()\nbig = bytearray(3_000_000)", binds=["lock", "big"]
    )
    assert home["lock"]["kind"] == home["big"]["kind"] == "handle"
    assert "lock" in home["lock"]["reason"]
    assert home["threading"] == {"names": ["threading"], "kind": "module", "module": "threading"}
    entry = {"names": ["mine"], "kind": "handle", "id": home["big"]["id"]}
    session.names.bind(session.request(inputs=[entry]), [])
    assert session.there["mine"] is session.there["big"]
    home = session.run("", out=["big"])
    assert len(session.here["big"]) == 3_000_000


def test_a_released_handle_is_gone_and_says_so(session):
    home = session.run("import threading\nlock = threading.Lock()", binds=["lock"])
    handle = home["lock"]["id"]
    session.names.call("release", {"handles": [handle, "unknown"]}, [])
    with pytest.raises(HandleLost, match="mine is a handle"):
        session.names.bind(session.request(inputs=[{"names": ["mine"], "kind": "handle", "id": handle}]), [])
    with pytest.raises(HandleLost):
        session.names.call("pull", {"handle": handle, "name": "lock", "spool": str(session.spool)}, [])


def test_deleted_names_are_told_and_dropped(session):
    session.here["a"] = [1]
    session.send("a")
    session.run("del a\nb = 1", reads=["a"], binds=["b"])
    assert session.answer["removed"] == ["a"]
    session.names.bind(session.request(drop=["b", "never there"]), [])
    assert "b" not in session.there


def test_an_out_name_that_is_not_there_is_missing(session):
    assert session.run("x = 1", out=["y"])["y"]["kind"] == "missing"


def test_without_auto_only_what_was_asked_for_comes(session):
    home = session.run("x = 1\ny = 2", binds=["x", "y"], out=["y"], auto=False)
    assert set(home) == {"y"}
    assert session.answer["added"] == ["x", "y"]


def test_ipythons_own_names_are_not_the_users(session):
    home = session.run("1 + 1\nx = 5", binds=["x"])
    assert set(home) == {"x"}
    listed, _ = session.names.call("names", {}, [])
    assert [entry["name"] for entry in listed] == ["x"]


def test_a_function_that_comes_home_uses_the_notebooks_names(session):
    home = session.run("factor = 2\ndef scaled(x): return x * factor", binds=["scaled", "factor"])
    assert home["scaled"]["kind"] == "value"
    session.here["factor"] = 50
    assert session.here["scaled"](1) == 50
    (source,) = session.answer["sources"]
    assert "def scaled" in source["text"]


def test_a_traceback_through_a_function_of_the_notebook_shows_its_lines(session):
    session.names.bind(session.request(sources=[{"file": "<nb>", "text": "one\ntwo\n", "count": 3}]), [])
    assert linecache.getline("<nb>", 2) == "two\n"
    linecache.cache.pop("<nb>")


def test_the_notebooks_directory_and_path_are_followed(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    session.names.bind(session.request(cwd=str(folder), path=[str(folder), "/is/not/there"]), [])
    session.run("import os; here = os.getcwd()", binds=["here"])
    assert session.here["here"] == str(folder)
    assert str(folder) in sys.path
    assert "/is/not/there" not in sys.path
    assert session.answer["cwd"] is None
    (folder / "sub").mkdir()
    session.run("os.chdir('sub')")
    assert session.answer["cwd"] == str(folder / "sub")


def test_the_same_code_and_inputs_are_known_until_a_result_is_bound_anew(session):
    session.here["x"] = [1]
    session.send("x")
    request = session.request(uses=["x"])
    key = session.names.cache_key(request)
    assert session.names.done_before(key) == ""
    session.names.watch()
    session.shell.run_cell("y = x[0]")
    results, _ = session.names.gather({**request, "binds": ["y"]})
    session.names.remember(request, key, results)
    assert session.names.done_before(session.names.cache_key(request)) == request["run"]
    session.here["x"] = [2]
    session.send("x")
    assert session.names.done_before(session.names.cache_key(request)) == ""
    session.run("y = 7", binds=["y"])
    assert session.names.done_before(key) == ""


def test_pull_push_and_hold(session):
    session.run("value = [1]", auto=False)
    answer, buffers = session.names.call(
        "pull", {"names": ["value"], "limit": 1000, "spool": str(session.spool)}, []
    )
    (entry,) = answer["results"]
    assert open_parcel(entry, buffers, None, {}) == {"value": [1]}
    held, _ = session.names.call("hold", {"name": "value"}, [])
    answer, buffers = session.names.call(
        "pull", {"handle": held["id"], "name": "v", "spool": str(session.spool)}, []
    )
    assert open_parcel(answer["results"][0], buffers, None, {}) == {"": [1]}
    with pytest.raises(UsageError, match="no method"):
        session.names.call("format_disk", {}, [])


def test_a_value_whose_own_code_fails_does_not_take_the_others_with_it(session):
    home = session.run(
        "class Odd:\n    def __reduce__(self): raise SystemError('no')\nodd = Odd()\nfine = 1",
        binds=["odd", "fine"],
    )
    assert session.here["fine"] == 1
    assert home["odd"]["kind"] == "handle"


def test_threads_of_earlier_cells_do_not_disturb_gathering(session):
    session.there["stop"] = stop = threading.Event()
    code = (
        "import threading, itertools\n"
        "def spin():\n"
        "    for n in itertools.count():\n"
        "        globals()[f'spin_{n % 50}'] = n\n"
        "        if stop.is_set(): break\n"
        "thread = threading.Thread(target=spin)\nthread.start()"
    )
    try:
        session.run(code, auto=False)
        for _ in range(20):
            session.run("x = 1", binds=["x"])
    finally:
        stop.set()
        session.there["thread"].join()
