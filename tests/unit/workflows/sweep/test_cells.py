"""The members of ``%%cloud --sweep``, as its line tells them."""

from __future__ import annotations

import pytest

from nbcloud.errors import UsageError
from nbcloud.workflows.sweep.cells import members_of


def test_members_are_every_combination() -> None:
    texts = ["seed=0:2", "optimizer=adam,sgd", "deep=True,None", "sizes=[[1,2],[3]]"]
    found = members_of(texts)
    assert len(found) == 16
    assert found[0] == {"seed": 0, "optimizer": "adam", "deep": True, "sizes": [1, 2]}
    assert found[-1] == {"seed": 1, "optimizer": "sgd", "deep": None, "sizes": [3]}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["lr"], "Write for example: --sweep lr=0.1,0.01"),
        (["lr="], "no list of values"),
        (["a.b=1,2"], "'a.b' is not the name of a variable"),
        (["class=1,2"], "'class' is not the name of a variable"),
        (["lr=1", "lr=2"], "--sweep lr is given twice"),
        (["lr=loguniform:1e-4:1e-1"], "has no end of values"),
        (["seed=4:4"], "has no value"),
    ],
)
def test_what_can_be_no_sweep_is_said(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        members_of(texts)
    assert said in str(caught.value)
