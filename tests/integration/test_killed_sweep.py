"""A sweep whose client, worker and scheduler are killed, one after the other."""

from __future__ import annotations

import pytest

from tests.sweeps.killed import main


@pytest.mark.usefixtures("nbcloud_dirs")
def test_each_member_stands_once_in_the_table() -> None:
    assert main(24) == 0
