from __future__ import annotations

import builtins
import sys

import pytest

from nbcloud.cells.analysis import CellNames, Required, analyze

BUILTINS = frozenset(dir(builtins))

# (cell, what it reads, what it binds, what it certainly needs); builtins are left out of all of them.
EXPRESSIONS = [
    ("", "", "", ""),
    ("x", "x", "", "x"),
    ("print(x)", "x", "", "x"),
    ("f(a, *b, k=c, **d)", "f a b c d", "", "f a b c d"),
    ("a.b.c", "a", "", "a"),
    ("a[b:c, d]", "a b c d", "", "a b c d"),
    ("a if b else c", "a b c", "", "b"),
    ("a and b or c", "a b c", "", "a"),
    ("a < b < c", "a b c", "", "a b"),
    ("{a: b, **c}", "a b c", "", "a b c"),
    ("f'{a!r:>{b}} {c[\"k\"]}'", "a b c", "", "a b c"),
    ("f'{f\"{a}\"}'", "a", "", "a"),
    ("lambda x, y=a, *z: x + y + b", "a b", "", "a"),
    ("[f(y) for y in data]", "f data", "", "data"),
    ("{k: v for k, v in pairs if ok(k)}", "pairs ok", "", "pairs"),
    ("[x for x in x]", "x", "", "x"),
    ("[z for y in a for z in y]", "a", "", "a"),
    ("[z for y in a for z in b]", "a b", "", "a"),
    ("sum(w * n for n in values)", "w values", "", "values"),
    ("[lambda: i + j for i in range(3)]", "j", "", ""),
    ("await fetch(url)", "fetch url", "", "fetch url"),
    ("[await g(x) async for x in source]", "g source", "", "source"),
    ("(y := f(x)) + y", "f x", "y", "f x"),
    ("any((last := n) > 3 for n in ns)\nlast", "ns last", "last", "ns"),
    ("[y for n in ns if (y := f(n))]", "ns f", "y", "ns"),
    ("[y for n in ns if (y := f(n)) and g(y)]", "ns f g", "y", "ns"),
    ("print(a, file=sys.stderr); b", "a sys b", "", "a sys b"),
    ("x.y = z", "x z", "", "z x"),
    ("x[i] = z", "x i z", "", "z x i"),
]
ASSIGNMENTS = [
    ("x = 1\nx", "", "x", ""),
    ("x = x + 1", "x", "x", "x"),
    ("total += 1", "total", "total", "total"),
    ("total += step\ntotal", "total step", "total", "total step"),
    ("obj.count += n", "obj n", "", "obj n"),
    ("a = b = c", "c", "a b", "c"),
    ("a, (b, *c) = d\na, b, c", "d", "a b c", "d"),
    ("x: int = y\nx", "y", "x", "y"),
    ("x: Kind", "Kind", "", ""),
    ("x: 'Kind' = 1", "Kind", "x", ""),
    ("mode: Literal['train', 'test'] = m", "Literal m", "mode", "m"),
    ("boxes: dict[str, 'Box'] = {}", "Box", "boxes", ""),
    ("x.y: Kind = 1", "x Kind", "", "x"),
    ("del x", "x", "", ""),
    ("x = 1\ndel x", "", "x", ""),
    ("del x\nx", "x", "", ""),
    ("del a.b, c[d]", "a c d", "", "a c d"),
    ("import numpy as np, os.path\nnp.pi, os", "", "np os", ""),
    ("from a.b import c as d, e\nd, e", "", "d e", ""),
    ("if (n := len(s)) > 2:\n    print(n)\nn", "s", "n", "s"),
    ("if a and (n := f(a)):\n    use(n)", "a f use", "n", "a"),
    ("while chunk := stream.read():\n    use(chunk)", "stream use", "chunk", "stream"),
]
BRANCHES = [
    ("if c:\n    x = 1\nprint(x)", "c x", "x", "c"),
    ("if c:\n    x = 1\nelse:\n    x = 2\nprint(x)", "c", "x", "c"),
    ("if c:\n    x = 1\nelif d:\n    x = 2\nprint(x)", "c d x", "x", "c"),
    ("if c:\n    x = 1\nelse:\n    raise E\nprint(x, y)", "c E y", "x", "c"),
    ("for i in y:\n    use(t)\n    t = i", "y use t", "i t", "y"),
    ("for i in y:\n    t = i\n    use(t)", "y use", "i t", "y"),
    ("for i in y:\n    pass\nprint(i)", "y i", "i", "y"),
    (
        "for i, j in y:\n    if i:\n        continue\n    else:\n        k = j\n    use(k)",
        "y use",
        "i j k",
        "y",
    ),
    ("for i in y:\n    pass\nelse:\n    done = z", "y z", "i done", "y"),
    ("for x[0] in y:\n    pass", "x y", "", "y"),
    ("async for i in y:\n    print(i)", "y", "i", "y"),
    ("while c:\n    c = f(c)", "c f", "c", "c"),
    ("try:\n    x = f()\nexcept E:\n    pass\nprint(x)", "f E x", "x", ""),
    ("try:\n    import a\nexcept ImportError:\n    a = None\na", "", "a", ""),
    ("try:\n    x = f()\nexcept E:\n    raise\nprint(x)", "f E", "x", ""),
    ("try:\n    x = f()\nexcept E as e:\n    x = e\nprint(x)", "f E", "x e", ""),
    ("try:\n    f()\nexcept E as e:\n    pass\nprint(e)", "f E e", "e", ""),
    ("try:\n    x = 1\nfinally:\n    y = x\nprint(x, y)", "x", "x y", ""),
    ("try:\n    f()\nexcept E:\n    x = 1\nelse:\n    x = 2\nx", "f E", "x", ""),
    ("try:\n    x = 1\nexcept* E:\n    x = 2\nx", "E x", "x", ""),
    ("with open(p) as f:\n    data = f.read()\ndata", "p", "f data", "p"),
    ("with a as x, b(x) as y:\n    use(y, z)", "a b use z", "x y", "a"),
    ("with suppress(E):\n    x = f()\nprint(x)", "suppress E f x", "x", "suppress E"),
    ("async with lock:\n    x = 1\nx", "lock", "x", "lock"),
    ("assert ok, message", "ok message", "", "ok"),
    ("match c:\n    case 1:\n        x = 1\nx", "c x", "x", "c"),
    ("match c:\n    case 1:\n        x = 1\n    case _:\n        x = 2\nx", "c", "x", "c"),
    ("match c:\n    case Point(x=px, y=0) if px > m:\n        use(px)", "c Point m use", "px", "c"),
    ("match c:\n    case Color.RED | Color.BLUE:\n        pass", "c Color", "", "c"),
    (
        "match c:\n    case [a, *rest]:\n        pass\n    case {'k': v, **more}:\n        pass",
        "c",
        "a rest v more",
        "c",
    ),
    (
        "match c:\n    case (1 | 2) as n:\n        use(n)\n    case other:\n        use(other)",
        "c use",
        "n other",
        "c",
    ),
    ("raise SystemExit\nundefined", "undefined", "", ""),
    ("if c:\n    raise E\nx", "c E x", "", "c"),
    ("if c:\n    sys.exit()\nx", "c sys x", "", "c"),
]
FUNCTIONS = [
    ("def f(a, b=c):\n    return a + b + d", "c d", "f", "c"),
    ("def f():\n    x = 1\n    def g():\n        return x + y\n    return g", "y", "f", ""),
    ("def f():\n    x = 1\n    def g():\n        nonlocal x\n        x += 1\n    g()", "", "f", ""),
    ("def f():\n    global n\n    n = 1\nf()\nprint(n)", "n", "f n", ""),
    ("def f():\n    global n\n    n += 1", "n", "f n", ""),
    ("def f():\n    global n\n    del n", "", "f", ""),
    ("scale = 2\ndef f(x):\n    return x * scale", "", "f scale", ""),
    ("def f():\n    return scale\nscale = 2\nf()", "", "f scale", ""),
    ("def f():\n    return scale\nf()\nscale = 2", "scale", "f scale", ""),
    ("def f():\n    return g()\ndef g():\n    return 1\nf()", "", "f g", ""),
    ("def f():\n    return g()\ndef g():\n    return k\nf()\nk = 1", "k", "f g k", ""),
    (
        "def f():\n    return g()\nhook(f)\ndef g():\n    return k\nrun()\nk = 1",
        "g hook run k",
        "f g k",
        "hook run",
    ),
    ("def f():\n    return k\nif c:\n    k = 1\n    f()\nelse:\n    f()\nk = 2", "c k", "f k", "c"),
    ("for i in n:\n    def f():\n        return k\nk = 1", "n k", "i f k", "n"),
    ("@register\ndef f():\n    return k\nk = 1", "register k", "f k", "register"),
    ("@cache\ndef fib(n):\n    return fib(n - 1)", "cache", "fib", "cache"),
    ("@lru_cache(maxsize=n)\ndef f(x):\n    return k\nk = 1", "lru_cache n", "f k", "lru_cache n"),
    ("def f(x: A, *args: B, **kw: 'C') -> D:\n    y: E = 1", "A B C D", "f", ""),
    ("from __future__ import annotations\ndef f(x: A): ...", "A", "annotations f", ""),
    ("async def f():\n    async with s as t:\n        return [await x async for x in t]", "s", "f", ""),
    ("g = lambda: later\nlater = 1", "later", "g later", ""),
    ("def f():\n    import a.b\n    from c import d", "", "f", ""),
    ("def f():\n    return [y for y in z for z in y if w]", "z w", "f", ""),
    ("def f():\n    return __name__, x", "x", "f", ""),
    ("def f():\n    return locals(), vars()\nx", "x", "f", "x"),
    ("class A:\n    x = 1\n    y = x + z", "z", "A", "z"),
    ("class A:\n    n = 3\n    x = [n for _ in range(n)]", "n", "A", ""),
    ("class A:\n    x = x", "x", "A", "x"),
    ("class A:\n    if c:\n        x = 1\n    y = x", "c x", "A", "c"),
    ("class A:\n    x = 1\n    def f(self):\n        return x", "x", "A", ""),
    ("class A:\n    def f(self):\n        return A()", "", "A", ""),
    (
        "class A(Base, metaclass=M):\n    x: T = field()\n    def f(self):\n        return super().f(k)",
        "Base M T field k",
        "A",
        "Base M",
    ),
    ("class A:\n    def f(self):\n        return h()\ndef h(): ...\nA()", "", "A h", ""),
    ("class A(B):\n    def f(self):\n        return h()\ndef h(): ...", "B h", "A h", "B"),
    ("class A:\n    def f():\n        return k\n    x = f()\nk = 1", "k", "A k", ""),
    ("class A:\n    global g\n    g = 1\ng", "", "A g", ""),
    ("class A:\n    del x", "x", "A", ""),
    ("class A:\n    class B:\n        def f(self):\n            return k\n    y = B", "k", "A", ""),
    ("class A:\n    @property\n    def f(self):\n        return k\nk = 1", "", "A k", ""),
    ("class A:\n    @njit\n    def f(self):\n        return k\nk = 1", "njit k", "A k", "njit"),
    ("@dataclass\nclass A:\n    x: int = y", "dataclass y", "A", "dataclass y"),
    ("class A:\n    __slots__ = names\n    q = __qualname__, __module__", "names", "A", "names"),
]
MAGICS = [
    ("%matplotlib inline\nplot(x)", "plot x", "", ""),
    ("before\n%matplotlib inline\nafter", "before after", "", "before"),
    ("%time f(x)", "f x", "", ""),
    ("%time x = f(y)\nx", "f y", "x", ""),
    ("%time --no-raise-error f(x)", "f x", "", ""),
    ("%timeit -n10 -r 3 -q y = f(x)\ny", "f x y", "", ""),
    ("r = %timeit -o f(x)", "f x", "r", ""),
    ("%timeit -qov best f(x)", "f x", "best", ""),
    ("%timeit -x", "x", "", ""),
    ("%prun -l 5 -q f(x)", "f x", "", ""),
    ("%memit -r 1 f(x)", "f x", "", ""),
    ("%lprun -f A.g -f h run(x)", "A h run x", "", ""),
    ("%debug f(x)", "f x", "", ""),
    ("%debug", "", "", ""),
    ("%cd {d}/$sub", "d sub", "", ""),
    ("%env A={b} ${c} $$d", "b c", "", ""),
    ("%pinfo x", "x", "", ""),
    ("%store x y", "x y", "", ""),
    ("%store -r x", "", "x", ""),
    ("%load_ext local_ext", "", "", ""),
    ("%aimport pkg.mod", "", "pkg", ""),
    ("%unknown x, y.z --opt", "x y", "", ""),
    ("a = %sql select * from t where n = :n and m = {{m}}", "n m", "a", ""),
    ("x?", "x", "", ""),
    ("x.y??", "x", "", ""),
    ("?x", "x", "", ""),
    ("?", "", "", ""),
    ("%time?", "", "", ""),
    ("!echo {a + b} $c {d}", "a b c d", "", ""),
    ("!echo {a} '$b' {c}", "a c", "", ""),
    ("!awk '{print $1}' {name}", "name", "", ""),
    ("!echo }{", "", "", ""),
    ("files = !ls {path} $var ${other}\nfiles", "path var other", "files", ""),
    ("!!ls $d", "d", "", ""),
    ("if c:\n    !ls {d}\n    %time y = f(x)\ny", "c d f x y", "y", "c"),
    ("def f(p):\n    !ls {p} {q}", "p q ls", "f", ""),
    ("x = 1\n!echo {x} {y}", "y", "x", ""),
    ("!ls \\\n  {a}\nb", "a b", "", ""),
    ("%%time\ny = f(x)", "f x", "y", ""),
    ("%%time --no-raise-error\nf(x)", "f x", "", ""),
    ("%%timeit -n 1 s = setup(a)\ny = f(s, x)", "setup a f x", "", ""),
    ("%%capture out --no-stderr\ny = f(x)", "f x", "out y", ""),
    ("%%capture\n%%time\ny = f(x)", "f x", "y", ""),
    ("%%time\n%%capture out\ny = f(x)", "f x", "out y", ""),
    ("%%prun\nf(x)", "f x", "", ""),
    ("%%memit\ny = f(x)", "f x", "y", ""),
    ("%%debug\nf(x)", "f x", "", ""),
    ("%%cloud --gpus 1 -o y\ny = f(x)", "f x", "y", "f x"),
    ("%%bash --out o --err e {arg}\necho $HOME {x}", "arg", "o e", ""),
    ("%%bash -s $n\nls", "n", "", ""),
    ("%%script python3\nprint(x)", "", "", ""),
    ("%%writefile {name}.py\nimport x\nx.y", "name", "", ""),
    ("%%html\n<b>{x}</b>", "", "", ""),
    ("%%javascript\nalert(x)", "", "", ""),
    ("%%latex\n$x$", "", "", ""),
    ("%%sx\nls {d}", "d", "", ""),
    ("%%sql result << \nselect :n", "n", "result", ""),
    ("%%unknown a\ny = f(x)", "a f x", "", ""),
    ("%%unknown\nnot $ python", "", "", ""),
    ("get_ipython().run_line_magic('time', 'f(x)')", "f x", "", ""),
    ("get_ipython().system('ls {d}')", "d", "", ""),
    ("ip = get_ipython()\nip.user_ns['x']\ny", "x y", "ip", ""),
    ("ls", "ls", "", ""),
    ("cd {d}", "d", "", ""),
    ("time f(x)", "f x", "", ""),
    ("\n\n%%time\nf(x)", "f x", "", ""),
    (">>> x = y\n... z", "y z", "x", "y z"),
    ("In [1]: x = y", "y", "x", "y"),
    ("    x = y\n    %time x", "y", "x", "y"),
]
BY_TEXT = [
    ("exec(code)\nx", "code x", "", "code"),
    ("exec('y = x')", "x y", "", ""),
    ("eval('a + b')\nc", "a b c", "", ""),
    ("globals()['x']\ny", "x y", "", ""),
    ("'{x}'.format(**locals())\ny", "x y", "", ""),
    ("vars(args)\ny", "args y", "", "args y"),
    ("df.query('a > @low')", "df low", "", "df"),
    ("duckdb.sql('select * from sales join users')", "duckdb sales users", "", "duckdb"),
    ("model.eval()\nprint('loss on test')", "model", "", "model"),
    ("smf.ols('y ~ np.log(x) + z', data)", "smf np data", "", "smf data"),
    ("open('~/data.csv')", "", "", ""),
    ("def f():\n    return eval('a')", "a", "f", ""),
    ("def f():\n    return df.query('b == @b')", "df b", "f", ""),
    ("from m import *\nx", "x", "", ""),
]
TABLE = EXPRESSIONS + ASSIGNMENTS + BRANCHES + FUNCTIONS + MAGICS + BY_TEXT


@pytest.mark.parametrize(("cell", "reads", "binds", "required"), TABLE, ids=[row[0] for row in TABLE])
def test_names_of_a_cell(cell: str, reads: str, binds: str, required: str) -> None:
    names = analyze(cell)
    assert names.reads - BUILTINS == set(reads.split())
    assert names.binds == set(binds.split())
    assert [entry.name for entry in names.required if entry.name not in BUILTINS] == required.split()


@pytest.mark.parametrize(
    ("cell", "deletes"),
    [
        ("del x, y.z", "x"),
        ("if c:\n    del x", "x"),
        ("x = 1\ndel (x, [y])", "x y"),
        ("def f():\n    del x", ""),
    ],
)
def test_deleted_names(cell: str, deletes: str) -> None:
    assert analyze(cell).deletes == set(deletes.split())


@pytest.mark.parametrize(
    ("cell", "imports"),
    [
        ("import a, b.c as d", "a b.c"),
        ("from a.b import c, d", "a.b a.b.c a.b.d"),
        ("from a import *", "a"),
        ("from . import x\nfrom .y import z", ""),
        ("def f():\n    import a.b\n    from c import d as e", "a.b c c.d"),
        ("class A:\n    import a\n    def f(self):\n        import b", "a b"),
        ("try:\n    import a\nexcept ImportError:\n    import b", "a b"),
        (
            "import importlib\nimportlib.import_module('pkg.mod')\n__import__('other')",
            "importlib pkg.mod other",
        ),
        ("def f():\n    return import_module('a.b')", "a.b"),
        ("%load_ext my.ext", "my.ext"),
        ("%%time\nimport a", "a"),
        ("%lprun -m pkg.mod f()", "pkg.mod"),
    ],
)
def test_imported_modules(cell: str, imports: str) -> None:
    assert analyze(cell).imports == set(imports.split())


@pytest.mark.parametrize(
    "cell",
    [
        "from m import *",
        "if c:\n    exec('x = 1')",
        "globals()['x'] = 1",
        "vars()['x'] = 1",
        "def f():\n    globals()['x'] = 1",
        "%run script.py",
        "%pylab",
        "%store -r x",
        "%load_ext e",
        "%unknown",
        "%%unknown\nx",
        "%reset -f",
        "ip = get_ipython()",
        "get_ipython().run_cell('x = 1')",
        "get_ipython().run_line_magic('run', 'script.py')",
        "%%capture\n%run script.py",
        "%time (",
    ],
)
def test_names_bound_out_of_sight(cell: str) -> None:
    assert analyze(cell).star


@pytest.mark.parametrize(
    "cell",
    [
        "x = 1",
        "%time x = 1",
        "%%time\nx",
        "!ls",
        "%matplotlib inline",
        "f = !ls",
        "x?",
        "%%bash\nls",
        "vars(x)",
        "m.eval()",
    ],
)
def test_nothing_is_bound_out_of_sight(cell: str) -> None:
    assert not analyze(cell).star


@pytest.mark.parametrize(
    "cell", ["x = (", "def f(:", "print x", "return 1", "x = 1\n  y = 2", "'\x00'", "f(\n"]
)
def test_a_cell_that_is_no_python_is_refused_by_the_kernel_only(cell: str) -> None:
    assert analyze(cell) == CellNames(star=True)


def test_statements_before_one_that_does_not_compile_are_run() -> None:
    names = analyze("y = f(x)\nreturn z")
    assert (names.reads, names.binds) == ({"f", "x"}, {"y"})


def test_a_future_import_may_stand_anywhere_as_in_ipython() -> None:
    names = analyze("import a\nfrom __future__ import annotations\nb")
    assert (names.reads, names.binds) == ({"b"}, {"a", "annotations"})


@pytest.mark.parametrize(
    ("cell", "secrets"),
    [
        ("nbcloud.secret('TOKEN')", "TOKEN"),
        ("from nbcloud import secret\nx = secret('A') + secret(name)", "A"),
        ("def f():\n    return nbcloud.secret('B')", "B"),
        ("class A:\n    key = lambda: secret('C')", "C"),
        ("%%time\nsecret('D')", "D"),
    ],
)
def test_secrets(cell: str, secrets: str) -> None:
    assert analyze(cell).secrets == set(secrets.split())


@pytest.mark.parametrize(
    ("cell", "place"),
    [
        ("x", (1, 0, 1)),
        ("a = 1\nb = [a, long]", (2, 8, 12)),
        ("'ü', x", (1, 5, 6)),
        ("\n\n  \nx", (4, 0, 1)),
        ("%%cloud\n\nx", (3, 0, 1)),
        ("\n%%cloud\nx", (3, 0, 1)),
        ("def f(): ...\n(f,\n  x)\n!ls \\\n -l\ny", (3, 2, 3)),
        ("    y = 1\n    y + x\n    %time x", (2, 8, 9)),
        (">>> (1,\n...  x)", (2, 5, 6)),
        ("'a\x0cb'; x", (1, 7, 8)),
        ("a = 1\r\nx", (2, 0, 1)),
    ],
)
def test_required_names_stand_where_the_user_typed_them(cell: str, place: tuple[int, int, int]) -> None:
    first = next(entry for entry in analyze(cell).required if entry.name not in BUILTINS)
    assert (first.lineno, first.col_offset, first.end_col_offset) == place


def test_each_required_name_is_listed_once_where_it_is_evaluated_first() -> None:
    assert analyze("b\na + b").required == (Required("b", 1, 0, 1), Required("a", 2, 0, 1))


def test_warnings_are_left_to_the_kernel_that_runs_the_cell() -> None:
    assert analyze(r"x = '\d' is y").reads == {"y"}
    assert analyze("!echo {x is 1}").reads == {"x"}


def test_an_expression_too_deep_to_visit_is_still_read() -> None:
    names = analyze("y = x\ndel q\nimport m\n" + " + ".join(f"v{i}" for i in range(900)))
    assert {"x", "v0", "v899"} <= names.reads
    assert (names.binds, names.deletes, names.imports) == ({"y", "m"}, {"q"}, {"m"})
    assert names.star


def test_many_functions_that_call_each_other_take_no_time() -> None:
    calls = [f"def f{i}():\n    f{i + 1}(); f{i + 2}()" for i in range(60)]
    assert analyze("\n".join([*calls, "f0()"])).reads == {"f60", "f61"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 695")
@pytest.mark.parametrize(
    ("cell", "reads", "binds"),
    [
        ("def f[T: Bound](x: T) -> list[T]:\n    return T, k", "Bound k", "f"),
        ("class A[T](Base[T]):\n    x: T\n    def f(self) -> T:\n        return T, k", "Base k", "A"),
        ("type Pair[T] = tuple[T, Other]\nPair", "Other", "Pair"),
        ("class A[T]:\n    T = 1\n    y = T", "", "A"),
        ('f\'{x!r:{"w"}} {f"{y}"}\'', "x y", ""),
    ],
)
def test_names_in_newer_syntax(cell: str, reads: str, binds: str) -> None:
    names = analyze(cell)
    assert names.reads - BUILTINS == set(reads.split())
    assert names.binds == set(binds.split())
