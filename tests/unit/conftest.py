"""A shell of its own for each test module, and messages carried from one side to the other."""

import atexit
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@pytest.fixture(scope="session")
def _shell() -> Iterator[InteractiveShell]:
    config = Config()
    config.HistoryManager.enabled = False
    main, hook, display = sys.modules["__main__"], sys.excepthook, sys.displayhook
    shell = InteractiveShell.instance(config=config)
    yield shell
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
    InteractiveShell.clear_instance()
    sys.modules["__main__"], sys.excepthook, sys.displayhook = main, hook, display


@pytest.fixture
def shell(_shell: Any) -> Any:
    """A real IPython shell with a namespace that is new."""
    _shell.reset(new_session=True)
    return _shell
