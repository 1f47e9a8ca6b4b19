"""What the statements and expressions of a cell read and bind.

Top-level code, class bodies and comprehensions are visited where they stand. Bodies of functions come from
their bytecode, and count as run where the function can first be reached.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager

from nbcloud.cells import idioms
from nbcloud.cells.bytecode import CodeNames, names_in_string
from nbcloud.cells.flow import Flow
from nbcloud.cells.magics import MagicEffect, shell_call, words
from nbcloud.cells.source import NOT_PYTHON, ParsedCell, parse


class CellVisitor(Flow):
    """Visits a cell once; its attributes then hold what was found.

    Attributes
    ----------
    imports, secrets : set of str
        As in :class:`nbcloud.cells.analysis.CellNames`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.imports: set[str] = set()
        self.secrets: set[str] = set()
        self._in_annotation = False
        self._shell_in_hand = False  # code holds the IPython shell, and may look names up by their text
        self._cell: ParsedCell

    def visit_cell(self, cell: ParsedCell) -> None:
        """Visit a whole cell."""
        self.bound.add("get_ipython")  # each kernel has its own
        self._run(cell)
        self.reach_all()

    def _run(self, cell: ParsedCell) -> None:
        self._cell = cell
        self.visit_all(cell.tree.body)

    # ── names and assignments ────────────────────────────────────────────────────────────────────

    def _visit_name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.store(node.id)
        elif isinstance(node.ctx, ast.Del):
            self.delete(node.id)
        elif node.id == "get_ipython":
            self._shell_in_hand = True
            self.lose_sight()
        else:
            self._load_here(node)

    def _load_here(self, node: ast.Name) -> None:
        self.load(node.id, (self._cell.lines[node.lineno - 1], node.col_offset))

    def _visit_assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        self.visit_all(node.targets)

    def _visit_augmented(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._load_here(node.target)
            self.visit(node.value)
            self.store(node.target.id)
        else:
            self.visit(node.target)
            self.visit(node.value)

    def _visit_annotated(self, node: ast.AnnAssign) -> None:
        self.visit(node.value)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self.visit(node.target)
        self._visit_annotation(node.annotation)

    def _visit_walrus(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.store(node.target.id)

    def _visit_capture(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        self.visit_children(node)
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self.store(name)

    def _visit_dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            self.visit(key)
            self.visit(value)

    def _visit_global(self, node: ast.Global) -> None:
        self.declare_global(node.names)

    def _visit_import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.imports.add(alias.name)
            self.store(alias.asname or alias.name.partition(".")[0])

    def _visit_import_from(self, node: ast.ImportFrom) -> None:
        module = "" if node.level else node.module
        if module:
            self.imports.add(module)
        for alias in node.names:
            if alias.name == "*":
                self.lose_sight()
                continue
            if module:
                self.imports.add(f"{module}.{alias.name}")
            self.store(alias.asname or alias.name)

    # ── functions and classes ────────────────────────────────────────────────────────────────────

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = node.args
        self.visit_all(node.decorator_list)
        self.visit_all(arguments.defaults)
        self.visit_all(arguments.kw_defaults)
        with self._type_parameters(node):
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                self._visit_annotation(argument.annotation)
            for rest in (arguments.vararg, arguments.kwarg):
                self._visit_annotation(rest.annotation if rest else None)
            self._visit_annotation(node.returns)
        first_line = node.decorator_list[0].lineno if node.decorator_list else node.lineno
        names = self._body_names(node, node.name, first_line)
        self.define(node.name, set(names.reads), waits=all(map(idioms.never_calls, node.decorator_list)))

    def _visit_lambda(self, node: ast.Lambda) -> None:
        self.visit_all(node.args.defaults)
        self.visit_all(node.args.kw_defaults)
        for name in self._body_names(node, "<lambda>", node.lineno).reads:
            self.load_global(name)

    def _body_names(self, node: ast.AST, name: str, first_line: int) -> CodeNames:
        """Global names in the body of a function; what it does besides reading is noted."""
        names = self._cell.functions.get((name, first_line), CodeNames())
        self.imports |= names.imports
        self.may_bind(names.binds, names.deletes)
        if names.attributes & idioms.TELLING:
            for call in ast.walk(node):
                if isinstance(call, ast.Call):
                    self._note_call(call)
        if idioms.body_binds_unseen(names.reads, names.attributes):
            self.lose_sight()
        return names

    def _visit_class(self, node: ast.ClassDef) -> None:
        self.visit_all(node.decorator_list)
        with self._type_parameters(node):
            self.visit_all(node.bases)
            self.visit_all(node.keywords)
            plain = not (node.bases or node.keywords)
            with self.class_body(plain=plain) as reads:
                self.visit_all(node.body)
        # A base class or metaclass may call methods at once.
        self.define(node.name, reads, waits=plain and all(map(idioms.never_calls, node.decorator_list)))

    @contextmanager
    def _type_parameters(self, node: ast.AST) -> Iterator[None]:
        parameters = getattr(node, "type_params", ())  # Python 3.12
        if not parameters:
            yield
            return
        with self.hidden({parameter.name for parameter in parameters}):
            with self.maybe():
                self.visit_all(parameters)
            yield

    def _visit_type_alias(self, node: ast.AST) -> None:
        name: ast.Name = node.name  # type: ignore[attr-defined]  # Python 3.12
        with self._type_parameters(node):
            self._visit_annotation(node.value)  # type: ignore[attr-defined]
        self.store(name.id)

    # ── annotations and strings ──────────────────────────────────────────────────────────────────

    def _visit_annotation(self, node: ast.expr | None) -> None:
        """Read an annotation's names: at once, later or never, depending on version and future imports."""
        if node is None:
            return
        with self.maybe():
            outer, self._in_annotation = self._in_annotation, True
            self.visit(node)
            self._in_annotation = outer

    def _visit_subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        outer = self._in_annotation
        # The strings in Literal["a"] are no forward references.
        self._in_annotation = outer and idioms.last_name(node.value) != "Literal"
        self.visit(node.slice)
        self._in_annotation = outer

    def _visit_constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, str):
            return
        if self._in_annotation:
            self._visit_forward_reference(node.value)
        names = self._cell.names
        reads = names.reads | {"get_ipython"} if self._shell_in_hand else names.reads
        for name in names_in_string(node.value, reads, names.attributes):
            self.load_global(name)

    def _visit_forward_reference(self, text: str) -> None:
        try:
            expression = ast.parse(text.strip(), mode="eval")
        except NOT_PYTHON:
            return
        for node in ast.walk(expression):
            if isinstance(node, ast.Name):
                self.load(node.id)

    # ── calls and magics ─────────────────────────────────────────────────────────────────────────

    def _visit_call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and idioms.is_get_ipython(node.func.value):
            effect = shell_call(node.func.attr, node.args)
            if effect is not None:
                self._run_magic(effect, self._cell.lines[node.lineno - 1])
                return
        self.visit_children(node)
        self._note_call(node)
        if idioms.leaves(node):
            self.doubt()
        if idioms.binds_unseen(node):
            self.lose_sight()

    def _note_call(self, node: ast.Call) -> None:
        self.secrets |= {idioms.secret_asked(node)} - {""}
        self.imports |= {idioms.module_imported(node)} - {""}

    def _run_magic(self, effect: MagicEffect, line: int) -> None:
        if not effect.certain:
            self.doubt()
        for name in effect.reads:
            self.load(name)
        self.imports |= effect.imports
        if effect.code.strip():
            self._run_magic_code(effect, line)
        self.doubt()
        for name in effect.binds:
            self.store(name)
        if effect.unseen:
            self.lose_sight()

    def _run_magic_code(self, effect: MagicEffect, line: int) -> None:
        try:
            cell = parse(effect.code, line)
        except NOT_PYTHON:
            if not effect.optional:
                for name in words(effect.code):
                    self.load(name)
                self.lose_sight()
            return
        outer, binds, deletes, bound = self._cell, set(self.binds), set(self.deletes), set(self.bound)
        self._run(cell)
        self._cell = outer
        if not effect.keeps:
            self.binds, self.deletes, self.bound = binds, deletes, bound


CellVisitor.handlers = {
    **Flow.handlers,
    ast.AnnAssign: CellVisitor._visit_annotated,
    ast.Assign: CellVisitor._visit_assign,
    ast.AsyncFunctionDef: CellVisitor._visit_function,
    ast.AugAssign: CellVisitor._visit_augmented,
    ast.Call: CellVisitor._visit_call,
    ast.ClassDef: CellVisitor._visit_class,
    ast.Constant: CellVisitor._visit_constant,
    ast.Dict: CellVisitor._visit_dict,
    ast.FunctionDef: CellVisitor._visit_function,
    ast.Global: CellVisitor._visit_global,
    ast.Import: CellVisitor._visit_import,
    ast.ImportFrom: CellVisitor._visit_import_from,
    ast.Lambda: CellVisitor._visit_lambda,
    ast.MatchAs: CellVisitor._visit_capture,
    ast.MatchMapping: CellVisitor._visit_capture,
    ast.MatchStar: CellVisitor._visit_capture,
    ast.Name: CellVisitor._visit_name,
    ast.NamedExpr: CellVisitor._visit_walrus,
    ast.Subscript: CellVisitor._visit_subscript,
}
if hasattr(ast, "TypeAlias"):  # Python 3.12
    CellVisitor.handlers[ast.TypeAlias] = CellVisitor._visit_type_alias
