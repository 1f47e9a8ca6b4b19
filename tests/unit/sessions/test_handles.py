"""A handle says what it is, lets go of its value when it goes, and never pretends to be the value."""

import copy
import gc
import pickle
import sys
import types
from collections import deque

import pytest

from nbcloud.cells.payloads import encode
from nbcloud.errors import HandleLost, NotPicklable
from nbcloud.sessions.handles import Handle, LazyModule, size_text

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
    handle.me = handle
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


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(None, ""), (0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 * 2**50, "5,120.0 TiB")],
)
def test_sizes_for_people(nbytes, text):
    assert size_text(nbytes) == text


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
