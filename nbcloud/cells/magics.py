"""What IPython's magics and shell lines read and bind."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MagicEffect:
    """What a magic does to the notebook's namespace.

    Attributes
    ----------
    reads, binds, imports : frozenset of str
        Names in its line, variables that it sets, modules that it imports.
    code : str
        Python that it runs, the magic's own line first (blank where that line holds no code).
    keeps : bool
        What ``code`` binds stays bound.
    certain : bool
        ``code`` surely runs in the notebook's namespace, and its errors reach the user.
    optional : bool
        ``code`` may be another language: it says what it would read if it parses, and nothing if it doesn't.
    unseen : bool
        It may bind names that can't be seen from here.
    """

    reads: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    imports: frozenset[str] = frozenset()
    code: str = ""
    keeps: bool = True
    certain: bool = False
    optional: bool = False
    unseen: bool = False


def _set_of(names: str) -> frozenset[str]:
    return frozenset(names.split())


@dataclass(frozen=True)
class _PythonMagic:
    """A magic that runs Python: the letters of its options that take a value, and what is known of it.

    Names in it are never certain: an error there shows the magic's own frames, which only the kernel has.
    """

    valued: str = ""
    keeps: bool = True
    names: str = ""
    """Letters of the options whose value is an expression of the notebook."""
    binds: str = ""
    """Letters of the options whose value is a variable to set."""
    flags: str = ""
    """Letters of the options without a value; no others are taken off: a minus may begin an expression."""


_PYTHON = {
    "time": _PythonMagic(),
    "timeit": _PythonMagic("nrpv", flags="tcqo", keeps=False, binds="v"),
    "prun": _PythonMagic("DlsT", flags="rq"),
    "memit": _PythonMagic("rtiI", flags="co"),
    "lprun": _PythonMagic("fmDTuz", flags="rs", names="f"),
    "mprun": _PythonMagic("fT", flags="rc", names="f"),
    "debug": _PythonMagic("b"),
    "snakeviz": _PythonMagic("f", flags="t"),
    "ipytest": _PythonMagic(),
}

# Line magics whose arguments are text: only {expressions} and $names in them are looked up.
_TEXT = _set_of(
    "alias alias_magic autoawait autocall automagic autoreload bookmark cat cd clear code_wrap colors conda "
    "config connect_info cp dhist dirs doctest_mode env gui hist history killbgscripts ldir less lf lk ll "
    "logoff logon logstart logstate logstop ls lsmagic lx magic mamba man matplotlib micromamba mkdir more "
    "mv notebook page pdb pip popd pprint precision pushd pwd pycat qtconsole quickref rehashx rep rm rmdir "
    "save set_env sx system tb tensorboard unalias unload_ext uv watermark who who_ls whos xmode"
)
# Line magics whose arguments are objects.
_INSPECTING = _set_of("pinfo pinfo2 pdef pdoc pfile psource psearch pastebin")
# Line magics that run or change what can't be seen here.
_UNSEEN = _set_of("ed edit load loadpy macro pylab recall rerun reset reset_selective run sc store xdel")
_EXTENSIONS = frozenset({"load_ext", "reload_ext"})

# All that IPython takes for a magic, without %, where a cell of one line begins with it.
AUTOMAGIC = frozenset(_PYTHON) | _TEXT | _INSPECTING | _UNSEEN | _EXTENSIONS

# Cell magics whose body is handed to another program, or to the browser, or to a file.
_SCRIPTS = _set_of("bash sh script perl ruby pypy python python2 python3 cmd powershell node")
_VERBATIM = _set_of(
    "html HTML svg SVG javascript js latex markdown writefile file writefile_append css mermaid"
)
_SHELL = frozenset({"!", "sx", "system"})

_IDENTIFIER = re.compile(r"(?<![\w.%\-])[^\W\d]\w*")
_SQL_VARIABLE = re.compile(r"[:{]\s*([^\W\d]\w*)")
_SQL_RESULT = re.compile(r"\s*([^\W\d]\w*)\s*(?:<<|=<<)")
_OPTIONS = re.compile(r"\s*-([A-Za-z]\S*)")
_KEEPS_ERRORS = "--no-raise-error"
_VALUE = re.compile(r"\s*('[^']*'|\"[^\"]*\"|\S+)")
_SCRIPT_VARIABLE = re.compile(r"--(?:out|err|proc)[ =]\s*([^\W\d]\w*)")


def expanded_names(text: str) -> frozenset[str]:
    """Names that IPython looks up when it expands ``{expressions}`` and ``$names`` in a line."""
    from IPython.utils.text import DollarFormatter

    try:
        fields = list(DollarFormatter().parse(text))
    except ValueError:  # unbalanced braces: IPython leaves such a line as it is
        return frozenset()
    names: set[str] = set()
    for _, expression, rest, _ in fields:
        if expression:
            names |= _names_in_expression(f"{expression}:{rest}" if rest else expression)
    return frozenset(names)


def shell_call(method: str, arguments: Sequence[ast.expr]) -> MagicEffect | None:
    """Effect of ``get_ipython().method(...)``, which IPython makes of a magic; None where that is unknown."""
    texts = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
    match method, texts:
        case "run_line_magic", [str(name), str(line)]:
            return line_magic(name, line)
        case "run_cell_magic", [str(name), str(line), str(body)]:
            return cell_magic(name, line, body)
        case "magic", [str(text)]:
            name, _, line = text.lstrip("%").partition(" ")
            return line_magic(name, line)
        case (("system" | "getoutput"), [str(command)]):
            return MagicEffect(expanded_names(command))
        case "show_usage", []:
            return MagicEffect()
        case _:
            return None


def line_magic(name: str, line: str) -> MagicEffect:
    """Effect of ``%name line``."""
    if name in _PYTHON:
        return _python_magic(name, line, None)
    expanded = expanded_names(line)
    if name in _TEXT:
        return MagicEffect(expanded)
    if name in _INSPECTING:
        return MagicEffect(expanded | words(line))
    if name in _EXTENSIONS:
        return MagicEffect(expanded, imports=frozenset(line.split()[:1]), unseen=True)
    if name == "aimport":
        modules = frozenset(module.lstrip("-+") for module in re.split(r"[\s,]+", line) if module)
        return MagicEffect(
            expanded, binds=frozenset(module.partition(".")[0] for module in modules), imports=modules
        )
    if name == "store":
        return _store(line, expanded)
    if name in _UNSEEN:
        return MagicEffect(expanded, unseen=True)
    if name == "sql":
        return _sql(line)
    return MagicEffect(expanded | words(line), unseen=True)


def cell_magic(name: str, line: str, body: str) -> MagicEffect:
    """Effect of ``%%name line`` over ``body``."""
    if name in _PYTHON:
        return _python_magic(name, line, body)
    below = "\n" + body
    if name == "cloud":
        return MagicEffect(code=below, certain=True)
    expanded = expanded_names(line)
    if name == "capture":
        output = [word for word in line.split() if not word.startswith("-")]
        # It shows the body's errors and goes on, so nothing in the body is certain.
        return MagicEffect(expanded, binds=frozenset(output[:1]), code=below)
    if name in _SCRIPTS:
        return MagicEffect(expanded, binds=frozenset(_SCRIPT_VARIABLE.findall(line)))
    if name in _SHELL:
        return MagicEffect(expanded | expanded_names(body))
    if name in _VERBATIM:
        return MagicEffect(expanded)
    if name == "sql":
        return _sql(line + below)
    return MagicEffect(expanded | words(line), code=below, keeps=False, optional=True, unseen=True)


def _python_magic(name: str, line: str, body: str | None) -> MagicEffect:
    magic = _PYTHON[name]
    statement, options = _split_options(line.lstrip().removeprefix(_KEEPS_ERRORS), magic)
    return MagicEffect(
        reads=frozenset().union(
            *(_names_in_expression(value) for key, value in options if key in magic.names)
        ),
        binds=frozenset(value for key, value in options if key in magic.binds),
        imports=frozenset(value for key, value in options if key == "m" and name == "lprun"),
        code=statement if body is None else f"{statement}\n{body}",
        keeps=magic.keeps,
    )


def _split_options(line: str, magic: _PythonMagic) -> tuple[str, list[tuple[str, str]]]:
    """Split the leading options off a magic's line, as getopt does."""
    options: list[tuple[str, str]] = []
    rest = line.strip()
    while (cluster := _OPTIONS.match(rest)) and cluster[1][0] in magic.valued + magic.flags:
        letters, rest = cluster[1], rest[cluster.end() :]
        while letters and letters[0] in magic.flags:
            options.append((letters[0], ""))
            letters = letters[1:]
        if letters:
            value = _VALUE.match(rest) if len(letters) == 1 else None
            options.append((letters[0], value[1] if value else letters[1:]))
            rest = rest[value.end() :] if value else rest
    return rest.strip(), options


def _store(line: str, expanded: frozenset[str]) -> MagicEffect:
    names = words(line)
    if re.match(r"\s*-[rdz]", line):
        return MagicEffect(
            expanded, binds=names if line.lstrip().startswith("-r") else frozenset(), unseen=True
        )
    return MagicEffect(expanded | names)


def _sql(text: str) -> MagicEffect:
    """Effect of the SQL magics: ``:name`` and ``{{name}}`` are variables, ``name <<`` takes the result."""
    result = _SQL_RESULT.match(text)
    return MagicEffect(
        expanded_names(text) | frozenset(_SQL_VARIABLE.findall(text)),
        binds=frozenset({result[1]} if result else ()),
        unseen=True,
    )


def words(text: str) -> frozenset[str]:
    """Identifiers in a text, except attributes and options."""
    return frozenset(_IDENTIFIER.findall(text))


def _names_in_expression(expression: str) -> frozenset[str]:
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return frozenset()
    return frozenset(_loaded(ast.walk(tree)))


def _loaded(nodes: Iterable[ast.AST]) -> Iterable[str]:
    return (node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
