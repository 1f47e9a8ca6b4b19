"""What did not change is not sent again; what did change always is."""

import configparser
import copy
import functools
import io
import time

import numpy
import pytest

from nbcloud.cells import ledger as ledger_module
from nbcloud.cells.ledger import Ledger
from nbcloud.cells.payloads import decode


class Pair:
    """A notebook and a session, each with its ledger."""

    def __init__(self):
        self.here, self.there = {}, {}
        self.ours, self.theirs = Ledger(self.here), Ledger(self.there)

    def send(self, *names):
        """Send what changed; returns the names that travelled."""
        return self._move(names, self.ours, self.theirs, self.there)

    def bring(self, *names):
        return self._move(names, self.theirs, self.ours, self.here)

    def _move(self, names, ledger, other, namespace):
        bundles, refused = ledger.bundles(name for name in names if not ledger.unchanged(name))
        assert not refused
        for bundle in bundles:
            payload = bundle.payload
            values = decode(payload.data, [bytearray(b) for b in payload.buffers], namespace)
            namespace.update(values)
            sizes = [buffer.nbytes for buffer in payload.buffers]
            other.received(
                values, {"hash": payload.hash, "buffers_hash": payload.buffers_hash, "sizes": sizes}
            )
            ledger.sent(bundle)
        return sorted(name for bundle in bundles for name in bundle.names)


@pytest.fixture
def pair():
    return Pair()


def test_an_unchanged_50_mb_array_is_not_sent_twice_and_changed_in_place_it_is(pair):
    pair.here["array"] = numpy.zeros(50 * 2**20 // 8)
    assert pair.send("array") == ["array"]
    assert pair.send("array") == []
    pair.here["array"][123_456] = 1
    assert pair.send("array") == ["array"]
    assert pair.there["array"][123_456] == 1


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1, 2], lambda v: v.append(3)),
        ({"a": {"b": 1}}, lambda v: v["a"].update(b=2)),
        ({1, 2}, lambda v: v.add(3)),
        (numpy.zeros(3), lambda v: v.fill(1)),
        (bytearray(b"abc"), lambda v: v.extend(b"d")),
    ],
)
def test_a_change_in_place_is_noticed(pair, value, change):
    pair.here["value"] = value
    assert pair.send("value") == ["value"]
    assert pair.send("value") == []
    change(value)
    assert pair.send("value") == ["value"]


def test_a_number_that_took_the_address_of_the_one_before_is_noticed(pair):
    pair.here["rate"] = float("1.5")
    pair.send("rate")
    for _ in range(200):
        # Python gives the memory of a float that went away to the next one.
        pair.here["rate"] *= 1.01
        assert pair.send("rate") == ["rate"]
        assert pair.there["rate"] == pair.here["rate"]


ENTRY = {"hash": "hash", "buffers_hash": "", "sizes": []}


def test_a_large_value_that_took_the_address_of_the_one_before_is_noticed(monkeypatch):
    monkeypatch.setattr(ledger_module, "LOOK", 1000)
    namespace = {}
    ledger = Ledger(namespace)
    for number in range(20):
        namespace["big"] = numpy.full(10_000, number)
        ledger.received(["big"], {**ENTRY, "hash": f"hash {number}"})  # too large to be looked at
        assert ledger.unchanged("big")
        del namespace["big"]
        namespace["big"] = numpy.full(10_000, -1)
        assert not ledger.unchanged("big")


def test_the_ledger_keeps_no_array_alive(monkeypatch):
    import weakref

    monkeypatch.setattr(ledger_module, "LOOK", 1000)

    namespace = {"big": numpy.zeros(10_000)}
    gone = weakref.ref(namespace["big"])
    ledger = Ledger(namespace)
    ledger.received(["big"], ENTRY)
    del namespace["big"]
    assert gone() is None


def test_model_and_optimizer_share_their_list_there_and_back(pair):
    weights = [1.0, 2.0]
    pair.here.update(model={"weights": weights}, optimizer={"over": weights})
    assert pair.send("model", "optimizer") == ["model", "optimizer"]
    assert pair.there["optimizer"]["over"] is pair.there["model"]["weights"]
    pair.there["model"]["weights"][0] = 7.0
    assert pair.bring("model") == ["model", "optimizer"]
    assert pair.here["model"]["weights"] == [7.0, 2.0]
    assert pair.here["optimizer"]["over"] is pair.here["model"]["weights"]
    assert pair.send("model", "optimizer") == []


def test_a_new_name_for_part_of_a_sent_value_travels_with_it(pair):
    pair.here["model"] = {"weights": [1.0]}
    pair.send("model")
    pair.here["weights"] = pair.here["model"]["weights"]
    assert pair.send("weights") == ["model", "weights"]
    assert pair.there["weights"] is pair.there["model"]["weights"]


def test_names_that_no_longer_share_part(pair):
    shared = [1]
    pair.here.update(a={"x": shared}, b={"x": shared})
    pair.send("a", "b")
    pair.here["b"] = {"x": [2]}
    assert pair.send("a", "b") == ["a", "b"]
    pair.here["b"]["x"].append(3)
    assert pair.send("a", "b") == ["b"]


def test_each_side_compares_with_its_own_pickle(pair):
    pair.here["words"] = {"b", "a", "c"}
    pair.send("words")
    assert pair.theirs.unchanged("words")
    assert pair.ours.agreed_hash("words") == pair.theirs.agreed_hash("words")


def test_what_cannot_travel_is_refused_and_the_rest_goes():
    import threading

    ledger = Ledger({"lock": threading.Lock(), "fine": [1], "big": "x" * 10_000})
    bundles, refused = ledger.bundles(["lock", "fine", "big"], limit=1000)
    assert [bundle.names for bundle in bundles] == [("fine",)]
    assert sorted(refused) == ["big", "lock"]


def test_forgetting_a_name_forgets_those_bundled_with_it(pair):
    shared = [1]
    pair.here.update(a=[shared], b=[shared])
    pair.send("a", "b")
    pair.ours.forget(["a"])
    assert "b" not in pair.ours
    assert pair.send("b") == ["b"] or pair.there["b"] == [[1]]


def test_a_value_whose_pickle_never_repeats_counts_as_changed_once_something_ran(pair):
    global _Restless

    class _Restless:
        def __reduce__(self):
            return _Restless, (), {"time": time.perf_counter_ns()}

    _Restless.__qualname__ = "_Restless"
    pair.here["restless"] = _Restless()
    pair.send("restless")
    assert not pair.ours.unchanged("restless")
    cells = [0]
    ledger = Ledger(pair.here, lambda: cells[0])
    bundles, _ = ledger.bundles(["restless"])
    ledger.sent(bundles[0])
    assert ledger.unchanged("restless")  # nothing ran that could have changed it
    cells[0] += 1
    assert not ledger.unchanged("restless")


@pytest.mark.parametrize("side", ["here", "there"])
@pytest.mark.parametrize(
    ("value", "change"),
    [
        (io.BytesIO(), lambda value: value.write(b"more")),
        (io.StringIO(), lambda value: value.write("more")),
        (configparser.ConfigParser(), lambda value: value.add_section("more")),
        (functools.partial(sorted, []), lambda value: value.args[0].append(1)),
        (ValueError("x"), lambda value: value.__setattr__("args", ("y",))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_change_is_noticed_also_where_pickling_leaves_traces(pair, value, change, side):
    pair.here["value"] = copy.deepcopy(value)
    pair.send("value")
    ledger, names = (pair.ours, pair.here) if side == "here" else (pair.theirs, pair.there)
    assert ledger.unchanged("value")
    change(names["value"])
    assert not ledger.unchanged("value")


def test_a_function_that_came_is_known_to_use_what_it_reads(pair):
    exec("def scaled(x): return x * factor", pair.here)
    pair.send("scaled")
    assert pair.ours.uses_of("scaled") == {"factor"}
    assert pair.theirs.uses_of("scaled") == {"factor"}
    assert pair.ours.uses_of("nobody") == frozenset()


@pytest.mark.parametrize("changed_by", ["here", "there"])
def test_one_number_of_a_large_array_that_changed_is_noticed(pair, changed_by):
    pair.here["big"] = numpy.zeros(2_000_000)
    assert pair.send("big") == ["big"]
    assert pair.theirs.unchanged("big")
    {"here": pair.here, "there": pair.there}[changed_by]["big"][1_234_567] = 1
    assert pair.ours.unchanged("big") is (changed_by == "there")
    assert pair.theirs.unchanged("big") is (changed_by == "here")
