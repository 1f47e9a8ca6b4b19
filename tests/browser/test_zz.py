import time, pytest
pytestmark = pytest.mark.browser
def measure(notebook, cell):
    t0=time.time(); slow=[]
    while True:
        b=time.time()
        notebook.page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        slow.append(time.time()-b)
        if cell.done: break
        notebook.page.wait_for_timeout(50)
    b=time.time()
    notebook.page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    return round(time.time()-t0,1), [round(x,2) for x in sorted(slow)[-4:]], round(time.time()-b,2)


@pytest.mark.parametrize("lines", [40000, 80000, 150000])
def test_x(notebook, lines):
    cell = notebook.start(f"text = ''.join(f'{{n}}\\n' for n in range({lines}))\nprint(text, flush=True)")
    print("MEASURE", lines, measure(notebook, cell), len(cell.text()))
    cell = notebook.start(f"import time\nfor i in range(5): print(i, flush=True); time.sleep(0.3)")
    print("MEASURE after", lines, measure(notebook, cell), len(cell.text()))
    cell = notebook.start(f"print(text, flush=True)\nfor i in range(5): print(i, flush=True); time.sleep(0.3)")
    print("MEASURE appends", lines, measure(notebook, cell), len(cell.text()))
