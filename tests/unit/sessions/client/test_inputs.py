"""Names are followed to all that they need, and what the session has is not sent."""

import math
import time
import types

import numpy
import pytest

from nbcloud.cells.ledger import Ledger
from nbcloud.sessions.client.handles import Handle
from nbcloud.sessions.client.inputs import Inputs


@pytest.fixture
def namespace():
    here = {"__name__": "__main__", "_": 1, "_i1": "code", "In": [], "hidden": 3}
    code = (
        "import math\nscale = 2\nunused = 3\n"
        "def inner(x): return x * scale + math.pi\n"
        "def outer(x): return inner(x)\n"
        "def ping(n): return pong(n)\ndef pong(n): return ping(n)\n"
    )
    exec(compile(code, "<cell>", "exec"), here)
    return here


@pytest.fixture
def inputs(namespace):
    return Inputs(namespace, Ledger(namespace), {"hidden": namespace["hidden"]})


def sent_names(choice):
    return sorted(name for bundle in choice.bundles for name in bundle.names)


def test_functions_bring_what_they_use_in_turn(inputs):
    choice = inputs.choose({"outer"})
    assert sent_names(choice) == ["inner", "outer", "scale"]
    assert choice.modules == {"math": "math"}
    assert choice.names == {"outer", "inner", "scale", "math"}


def test_functions_that_use_each_other(inputs):
    assert sent_names(inputs.choose({"ping"})) == ["ping", "pong"]


def test_what_was_sent_is_known_and_what_it_uses_is_still_followed(inputs, namespace):
    inputs.sent(inputs.choose({"outer"}).bundles)
    again = inputs.choose({"outer"})
    assert sent_names(again) == []
    assert sorted(name for names in again.known.values() for name in names) == ["inner", "outer", "scale"]
    namespace["scale"] = 5
    assert sent_names(inputs.choose({"outer"})) == ["scale"]
    assert sent_names(inputs.choose({"outer"}, resend=True)) == ["inner", "outer", "scale"]


def test_a_function_redefined_with_new_uses(inputs, namespace):
    inputs.sent(inputs.choose({"outer"}).bundles)
    exec(compile("def inner(x): return x + unused", "<cell 2>", "exec"), namespace)
    assert sent_names(inputs.choose({"outer"})) == ["inner", "unused"]


def test_ipythons_own_names_and_absent_ones_are_passed_over(inputs):
    choice = inputs.choose({"_", "_i1", "In", "hidden", "nowhere", "print"})
    assert choice.names == set()
    assert choice.records() == []


def test_a_hidden_name_that_the_user_took_is_the_users(inputs, namespace):
    namespace["hidden"] = [4]
    assert sent_names(inputs.choose({"hidden"})) == ["hidden"]


def test_records_tell_what_travels(inputs, namespace):
    from collections import deque

    session = types.SimpleNamespace(released=deque(), lost="", where="there")
    namespace["kept"] = Handle(session, "kept", {"type": "x", "id": "1"})
    records = {record["name"]: record for record in inputs.choose({"scale", "math", "kept"}).records()}
    assert {name: record["kind"] for name, record in records.items()} == {
        "scale": "value",
        "math": "module",
        "kept": "handle",
    }
    assert records["scale"]["bytes"] > 0
    assert len(records["scale"]["hash"]) == 32
    assert math is namespace["math"]


def test_what_cannot_travel_is_refused_by_name(inputs, namespace):
    import threading

    namespace["lock"] = threading.Lock()
    choice = inputs.choose({"lock", "scale"})
    assert list(choice.refused) == ["lock"]
    assert sent_names(choice) == ["scale"]


@pytest.mark.parametrize(
    ("value", "alias"),
    [
        ([1, 2], lambda value: value),
        (numpy.arange(1000.0), lambda value: value[10:20]),
        (types.SimpleNamespace(a=1), lambda value: value),
    ],
    ids=["list", "view", "object"],
)
def test_a_name_given_to_a_value_after_it_was_sent_goes_with_it(inputs, namespace, value, alias):
    namespace["value"] = value
    inputs.sent(inputs.choose({"value"}).bundles)
    assert sent_names(inputs.choose({"value"})) == []
    namespace["alias"] = alias(value)
    assert sent_names(inputs.choose({"value"})) == ["alias", "value"]
    inputs.sent(inputs.choose({"value"}).bundles)
    assert sent_names(inputs.choose({"value"})) == []


class Waiting:
    """Takes long to be looked into, on a machine that does something else meanwhile."""

    def __getstate__(self):
        time.sleep(0.3)
        return {}


def test_what_shares_is_found_however_busy_the_machine_is():
    weights = [0.0]
    here = {
        "__name__": "__main__",
        "waiting": Waiting(),
        "model": {"weights": weights},
        "optimizer": (weights,),
    }
    choice = Inputs(here, Ledger(here), {}).choose({"optimizer"})
    assert sent_names(choice) == ["model", "optimizer"]
