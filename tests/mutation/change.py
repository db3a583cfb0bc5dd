"""Finding what a mutation changes, and changing it: by what it says as Python, however it is laid out."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.mutation.model import Mutation

Body = list[ast.AST]
_ELEMENTS = ("elts", "args")


class MisfitError(Exception):
    """A mutation does not fit the code as it is; the message says why."""


class Changed(NamedTuple):
    """A file, relative to the tree's root, and its text after a mutation."""

    file: str
    text: str


class _Place(NamedTuple):
    """Some neighbours in one list of nodes, or (``last`` is None) a field that holds one node."""

    holder: ast.AST
    field: str
    first: int = 0
    last: int | None = None


def apply(mutation: Mutation, root: Path) -> Changed:
    """Return what a mutation makes of the file that its symbol is in. Raises MisfitError."""
    file, text, place, mutated = _changed(mutation, root)
    tree = ast.parse(text)
    tree.body[place.at] = mutated
    return Changed(file, ast.unparse(tree))


def check(mutation: Mutation, root: Path) -> None:
    """Raise MisfitError where :func:`apply` does; writing out what it makes takes most of its time."""
    _changed(mutation, root)


class _Statement(NamedTuple):
    """A statement of a module: its place in the module's body, and its lines from the first, to its end."""

    at: int
    first: int
    end: int


def _changed(mutation: Mutation, root: Path) -> tuple[str, str, _Statement, ast.stmt]:
    """Return a file, its text, and of its statement with the symbol where it is and what it becomes.

    Only this statement is read anew, and compiled: files are long, and mutations are many.
    """
    module, name = mutation.symbol.split(":")
    file = _file(module)
    if not _defined(root / file, name):
        homes = [path for path in _modules(root) if _defined(path, name)]
        if len(homes) != 1:
            where = ", ".join(str(path.relative_to(root)) for path in homes) or "nowhere"
            raise MisfitError(f"{mutation.name}: {mutation.symbol} is gone; {name} is {where}")
        file = str(homes[0].relative_to(root))
    text = (root / file).read_text()
    statement = _statements(text)[name]
    tree = ast.parse("\n".join(text.split("\n")[statement.first : statement.end]))
    original, replacement = _parse(mutation, mutation.original), _parse(mutation, mutation.replacement)
    places = list(_places(_symbols(tree)[name], _as_like(original, replacement)))
    if len(places) != 1:
        raise MisfitError(
            f"{mutation.name}: its original is {len(places)} times in {mutation.symbol}, not once"
        )
    _put(places[0], replacement)
    ast.fix_missing_locations(tree)
    try:
        compile(tree, file, "exec")
    except SyntaxError as error:
        raise MisfitError(f"{mutation.name}: {file} would not be Python any more: {error}") from error
    return file, text, statement, tree.body[0]


def _file(module: str) -> str:
    return module.replace(".", "/") + ".py"


def _modules(root: Path) -> list[Path]:
    return sorted((root / "agent").rglob("*.py"))


def _defined(path: Path, name: str) -> bool:
    return path.is_file() and name in _statements(path.read_text())


@cache
def _statements(text: str) -> dict[str, _Statement]:
    """Return for each symbol of a module the statement of its body that it is in; the last one counts."""
    found: dict[str, _Statement] = {}
    for index, node in enumerate(ast.parse(text).body):
        decorators = [one.lineno for one in getattr(node, "decorator_list", ())]
        first, end = min([node.lineno, *decorators]) - 1, node.end_lineno
        found |= dict.fromkeys(_symbols(ast.Module([node], [])), _Statement(index, first, end or first))
    return found


def _symbols(tree: ast.AST, prefix: str = "") -> dict[str, ast.AST]:
    """Return functions, classes and constants by name; of one in another, with a dot between."""
    found: dict[str, ast.AST] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[prefix + node.name] = node
            found |= _symbols(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {prefix + target.id: node for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.stmt):
            found |= _symbols(node, prefix)
    return found


def _parse(mutation: Mutation, text: str) -> Body | ast.expr:
    """Read an expression, or statements; an expression with a comma at its end is some elements of a list."""
    try:
        body: Body = [*ast.parse(text).body]
    except SyntaxError as error:
        raise MisfitError(f"{mutation.name}: {text!r} would not be Python: {error}") from error
    if len(body) == 1 and isinstance(only := body[0], ast.Expr):
        if isinstance(only.value, ast.Tuple) and text.rstrip().endswith(","):
            return [*only.value.elts]
        return only.value
    return body


def _as_like(original: Body | ast.expr, replacement: Body | ast.expr) -> Body | ast.expr:
    """Return an expression as the statement that it is where statements, or nothing, take its place."""
    if isinstance(original, list) or not isinstance(replacement, list):
        return original
    return [ast.Expr(original)]


def _places(within: ast.AST, wanted: Body | ast.expr) -> Iterator[_Place]:
    """Give each place where nodes stand that say the same."""
    nodes: Sequence[ast.AST] = wanted if isinstance(wanted, list) else [wanted]
    told = [_told(node) for node in nodes]

    def same(found: Sequence[ast.AST]) -> bool:
        # Telling is dear, and most nodes are of another kind.
        return [*map(type, found)] == [*map(type, nodes)] and [*map(_told, found)] == told

    for holder in ast.walk(within):
        for field, value in ast.iter_fields(holder):
            if isinstance(value, ast.AST) and not isinstance(wanted, list):
                if same([value]):
                    yield _Place(holder, field)
            elif isinstance(value, list) and all(isinstance(one, ast.AST) for one in value):
                if (
                    isinstance(wanted, list)
                    and field not in _ELEMENTS
                    and not isinstance(wanted[0], ast.stmt)
                ):
                    continue
                for first in range(len(value) - len(told) + 1):
                    if same(value[first : first + len(told)]):
                        yield _Place(holder, field, first, first + len(told))


def _told(node: ast.AST) -> str:
    """Return what a node says: without where it stands, and whether it is read or written."""
    return ast.dump(node).replace("Load()", "").replace("Store()", "")


def _put(place: _Place, found: Body | ast.expr) -> None:
    value = getattr(place.holder, place.field)
    if place.last is None:
        setattr(place.holder, place.field, found)
        return
    statements = isinstance(value[place.first], ast.stmt)
    put = found if isinstance(found, list) else [ast.Expr(found) if statements else found]
    value[place.first : place.last] = put
    if statements and not value:
        value.append(ast.Pass())
