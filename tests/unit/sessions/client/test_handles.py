"""A handle says what it is, lets go of its value when it goes, and never pretends to be the value."""

import copy
import gc
import pickle
import re
import sys
import types
from collections import deque

import numpy as np
import pytest
from IPython.utils.capture import capture_output

from nbcloud.cells.payloads import encode
from nbcloud.errors import HandleLost, NotPicklable
from nbcloud.sessions.client.handles import Handle, LazyModule

FACTS = {"type": "torch.Tensor", "nbytes": 96 * 2**20, "text": "3 x 4 float32", "id": "abc"}


@pytest.fixture
def session():
    """As much of a session as a handle knows."""
    return types.SimpleNamespace(
        released=deque(), lost="", where="session 's' of cluster 'local'", pull_handle=lambda i, n: (i, n)
    )


def test_it_says_what_it_is_and_how_to_get_it(session):
    shown = repr(Handle(session, "weights", FACTS))
    assert "weights stays on session 's' of cluster 'local': torch.Tensor, 3 x 4 float32, 96.0 MiB" in shown
    assert "weights.get()" in shown


def test_it_is_released_when_garbage_collected_also_in_a_cycle(session):
    handle = Handle(session, "a", FACTS)
    vars(handle)["me"] = handle
    del handle
    gc.collect()
    assert list(session.released) == ["abc"]


def test_get_brings_the_value_and_says_when_it_is_gone(session):
    handle = Handle(session, "a", FACTS)
    assert handle.get() == ("abc", "a")
    session.lost = "its kernel was killed"
    with pytest.raises(HandleLost, match=r"a is gone with its session: its kernel was killed\. Run the cell"):
        handle.get()


def test_using_it_as_the_value_names_the_next_step(session):
    handle = Handle(session, "weights", FACTS)
    with pytest.raises(AttributeError, match=r"weights is a torch.Tensor .* weights = weights\.get\(\)"):
        _ = handle.shape
    assert not hasattr(handle, "_repr_html_")
    for refuses in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"weights\.get\(\)"):
            refuses(handle)
    with pytest.raises(NotPicklable, match=r"values\[0\].*weights"):
        encode({"values": [handle]})


USES = [
    np.sum,
    np.asarray,
    lambda h: np.concatenate([h, h]),
    lambda h: np.ones(3) * h,
    lambda h: h == 0,
    lambda h: h != 0,
    lambda h: h in [1, 2],
    lambda h: h < 1,
    lambda h: h + 1,
    lambda h: 1 + h,
    lambda h: -h,
    lambda h: h @ h,
    bool,
    len,
    list,
    sum,
    float,
    range,
    round,
    next,
    sorted,
    lambda h: 1 in h,
    lambda h: h[0],
    lambda h: h.__setitem__(0, 1),
    lambda h: f"{h:.2f}",
]


@pytest.mark.parametrize("use", USES)
def test_no_operation_takes_it_for_the_value(session, use):
    handle = Handle(session, "weights", FACTS)
    with pytest.raises(TypeError, match=r"weights is a torch.Tensor .* weights = weights\.get\(\)"):
        use(handle)


def test_its_attributes_can_be_neither_set_nor_deleted(session):
    handle = Handle(session, "weights", FACTS)
    with pytest.raises(AttributeError, match=r"weights = weights\.get\(\)"):
        handle.value = 9
    with pytest.raises(AttributeError, match=r"weights = weights\.get\(\)"):
        del handle.name


def test_it_is_itself_and_no_other(session):
    one, other = Handle(session, "a", FACTS), Handle(session, "a", FACTS)
    assert one == one
    assert one != other
    assert {one: 1, other: 2}[one] == 1
    assert f"{one}" == str(one) == repr(one)


def test_ipython_shows_it_and_looks_at_it(session, shell):
    handle = Handle(session, "weights", FACTS)
    bundle, _ = shell.display_formatter.format(handle)
    assert bundle == {"text/plain": repr(handle)}
    shell.user_ns["weights"] = handle
    assert "stays on session 's'" in shell.object_inspect_mime("weights")["text/plain"]
    assert shell.run_cell("weights").success
    with capture_output() as shown:
        shell.run_line_magic("whos", "")
    assert "<weights stays on session" in shown.stdout


def test_what_can_not_travel_says_so_and_promises_nothing(session):
    def pull(identity, name):
        raise NotPicklable(f"{path} can't be pickled: cannot pickle '_thread.lock' object.")

    session.pull_handle = pull
    reason = "guard can't be pickled: cannot pickle '_thread.lock' object."
    handle = Handle(session, "guard", {**FACTS, "type": "_thread.lock", "reason": reason})
    assert "get()" not in repr(handle)
    assert repr(handle).endswith("it can't be pickled>")
    with pytest.raises(TypeError, match=r"Use it in a %%cloud cell; it can't be pickled"):
        bool(handle)
    for path in ("", ".lock", "['lock']"):
        named = re.escape(f"guard{path} can't be pickled: cannot pickle '_thread.lock' object.")
        with pytest.raises(NotPicklable, match=rf"^{named} Use guard in %%cloud cells, and bind"):
            handle.get()


def test_a_module_is_imported_at_its_first_use(tmp_path, monkeypatch):
    (tmp_path / "rarely_used.py").write_text("value = 42\ndef double(x): return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = LazyModule("rarely_used")
    assert not hasattr(module, "_ipython_display_")
    assert not hasattr(module, "__wrapped__")
    assert "rarely_used" not in sys.modules
    assert module.double(module.value) == 84
    assert "rarely_used" in sys.modules
    assert "double" in dir(module)
    del sys.modules["rarely_used"]


def test_a_module_that_is_not_here_says_so_at_its_first_use():
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        _ = LazyModule("no_such_module_anywhere").value
