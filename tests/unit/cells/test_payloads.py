"""Values travel whole: shared objects stay shared, large ones are not copied, what can't travel is named."""

import pickle
import threading

import numpy
import pandas
import pytest

from nbcloud.cells.payloads import TooLarge, decode, encode
from nbcloud.errors import NotPicklable

NOTEBOOK = {"__name__": "__main__"}


def define(code, namespace):
    exec(compile(code, "<cell>", "exec"), namespace)
    return namespace


def travel(values, namespace=None, receiver=None):
    payload = encode(values, namespace)
    return decode(
        payload.data, [bytearray(buffer) for buffer in payload.buffers], {} if receiver is None else receiver
    )


def test_code_knows_the_cell_that_it_is_from():
    namespace = {"__name__": "__main__"}
    code = compile("def outer():\n    return lambda: 1 / 0\n", "<cell 7>", "exec")
    exec(code, namespace)
    outer = travel({"outer": namespace["outer"]}, namespace)["outer"]
    assert outer.__code__.co_filename == outer().__code__.co_filename == "<cell 7>"


def test_what_values_share_they_share_again():
    shared = [1, 2]
    there = travel({"model": {"weights": shared}, "optimizer": [shared]})
    there["model"]["weights"].append(3)
    assert there["optimizer"][0] == [1, 2, 3]


def test_large_buffers_are_not_copied():
    array = numpy.arange(1_000_000)
    payload = encode({"array": array})
    assert len(payload.data) < 1000
    array[0] = 77
    assert numpy.frombuffer(payload.buffers[0], dtype=array.dtype)[0] == 77


def test_arrays_are_views_of_what_was_received_and_writable():
    array = numpy.arange(1000.0)
    payload = encode({"array": array})
    received = [bytearray(buffer) for buffer in payload.buffers]
    there = decode(payload.data, received, {})["array"]
    there[0] = 5.0
    assert numpy.frombuffer(received[0])[0] == 5.0
    assert array[0] == 0.0


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_layout(order):
    array = numpy.asarray(numpy.arange(12).reshape(3, 4), order=order)
    for each in (array, array[::2, 1::2], array[:0], array.astype(object)):
        assert (travel({"a": each})["a"] == each).all()


def test_a_change_in_place_changes_the_hash_and_the_same_again_does_not():
    array = numpy.zeros(100_000)
    before = encode({"array": array}).hash
    assert encode({"array": array.copy()}).hash == before
    array[50_000] = 1
    assert encode({"array": array}).hash != before


def test_the_border_between_buffers_counts_for_the_hash():
    one = encode({"a": numpy.zeros(2, "u1"), "b": numpy.zeros(3, "u1")})
    other = encode({"a": numpy.zeros(3, "u1"), "b": numpy.zeros(2, "u1")})
    assert one.hash != other.hash


def test_a_function_takes_on_the_receivers_globals():
    here = define("factor = 2\ndef scaled(x): return x * factor", dict(NOTEBOOK))
    payload = encode({"scaled": here["scaled"]}, here)
    assert payload.uses == {"factor"}
    assert payload.files == {"<cell>"}
    receiver = {"factor": 10, "__builtins__": "mine"}
    scaled = decode(payload.data, payload.buffers, receiver)["scaled"]
    assert receiver["__builtins__"] == "mine"
    receiver["__builtins__"] = __builtins__
    assert scaled(1) == 10
    receiver["factor"] = 100
    assert scaled(1) == 100


def test_closures_defaults_recursion_and_methods_travel():
    here = define(
        "def outer(n):\n    def inner(x=5): return x + n\n    return inner\n"
        "def factorial(n): return 1 if n < 2 else n * factorial(n - 1)\n"
        "class Counter:\n    step = 2\n    def up(self): return factorial(3) + self.step\n"
        "inner = outer(1)\ncounter = Counter()",
        dict(NOTEBOOK),
    )
    receiver = {}
    names = ("inner", "factorial", "counter", "Counter")
    receiver.update(travel({name: here[name] for name in names}, here, receiver))
    assert receiver["inner"]() == 6
    assert receiver["factorial"](5) == 120
    assert receiver["counter"].up() == 8
    assert type(receiver["counter"]) is receiver["Counter"]


def test_a_class_defined_anew_is_the_one_that_travels():
    here = define("class Point:\n    size = 1\npoint = Point()", dict(NOTEBOOK))
    first = travel({"Point": here["Point"]}, here)["Point"]
    define("class Point:\n    size = 2\npoint = Point()", here)
    both = travel({"Point": here["Point"], "point": here["point"]}, here)
    assert (first.size, both["Point"].size, both["point"].size) == (1, 2, 2)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda lock: lock, "value"),
        (lambda lock: [1, {"deep": (0, lock)}], "value[1]['deep'][1]"),
        (lambda lock: {"a": [lock]}, "value['a'][0]"),
    ],
)
def test_what_cannot_be_pickled_is_named_with_its_path(make, path):
    with pytest.raises(NotPicklable, match="lock") as caught:
        encode({"fine": 1, "value": make(threading.Lock())})
    assert caught.value.path == path
    assert pickle.loads(pickle.dumps(caught.value)).path == path


def test_the_culprit_is_found_in_attributes_closures_and_cycles():
    here = define(
        "import threading\nclass Model: pass\nmodel = Model(); model.me = model; model.part = Model()\n"
        "model.part.lock = threading.Lock()\n"
        "def outer():\n    held = threading.Lock()\n    return lambda: held\nfunction = outer()",
        dict(NOTEBOOK),
    )
    with pytest.raises(NotPicklable) as caught:
        encode({"model": here["model"]}, here)
    assert caught.value.path == "model.part.lock"
    with pytest.raises(NotPicklable) as caught:
        encode({"function": here["function"]}, here)
    assert caught.value.path == "function.<closure held>"


def test_an_objects_own_error_is_the_reason():
    class Odd:
        def __reduce__(self):
            raise RuntimeError("not today.")

    with pytest.raises(NotPicklable, match=r"odd can't be pickled: not today\.$"):
        encode({"odd": Odd()})


def test_a_limit_counts_buffers_and_pickle():
    for value in (numpy.zeros(10_000), "x" * 80_000, [str(number) for number in range(20_000)]):
        with pytest.raises(TooLarge):
            encode({"value": value}, limit=50_000)
        assert encode({"value": value}, limit=1_000_000).nbytes > 50_000


def test_frames_and_their_dtypes_do_not_join_unrelated_values():
    first, second = pandas.DataFrame({"a": [1.0, 2.0]}), pandas.DataFrame({"b": ["x", "y"]})
    one, other = encode({"first": first}), encode({"second": second})
    assert not one.parts.keys() & other.parts.keys()
    pandas.testing.assert_frame_equal(travel({"f": first})["f"], first)
