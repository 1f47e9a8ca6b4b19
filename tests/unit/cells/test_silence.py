"""What is written while objects travel is not heard; what others write is."""

import contextlib
import io
import sys
import threading

from nbcloud.cells.payloads import decode, encode
from nbcloud.cells.silence import silence


def test_only_this_thread_is_not_heard_and_only_for_a_while():
    with contextlib.redirect_stdout(io.StringIO()) as heard:
        with silence():
            kept = sys.stdout
            print("unheard")
            other = threading.Thread(target=print, args=("heard",))
            other.start()
            other.join()
        print("after", file=kept)
        print("too")
    assert heard.getvalue() == "heard\nafter\ntoo\n"


def test_a_class_that_talks_when_it_is_revived_or_asked_for_its_state(capsys):
    namespace = {"__name__": "__main__"}
    code = (
        "class Talks:\n"
        "    def __new__(cls, *arguments):\n        print('new')\n        return super().__new__(cls)\n"
        "    def __getstate__(self):\n        print('state')\n        return {'x': 1}\n"
        "    def __setstate__(self, state):\n        print('set')\n        self.x = state['x']\n"
        "talks = Talks()"
    )
    exec(code, namespace)
    capsys.readouterr()
    payload = encode({"talks": namespace["talks"]}, namespace)
    assert decode(payload.data, payload.buffers, {"__name__": "__main__"})["talks"].x == 1
    assert capsys.readouterr().out == ""


def test_pickling_leaves_nothing_in_a_class():
    namespace = {"__name__": "__main__"}
    exec("class Plain: pass\nplain = Plain()", namespace)
    payload = encode({"plain": namespace["plain"]}, namespace)
    assert "__slotnames__" not in dir(namespace["plain"])
    assert "__slotnames__" not in dir(decode(payload.data, payload.buffers, {})["plain"])
