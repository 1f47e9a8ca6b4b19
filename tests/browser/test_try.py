import time
import pytest
pytestmark = pytest.mark.browser

def test_hello(notebook):
    t=time.time()
    cell = notebook.run("%%cloud\nprint('hello'); 1+1")
    print(cell.outputs, time.time()-t)
    notebook.picture("x")
    print(notebook.path, notebook.save())
