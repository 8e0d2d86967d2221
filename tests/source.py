"""What the source says of itself, for tests that hold the documentation against it: read, never listed.

Settings, commands, error codes, exit codes and the like are found where they are written down once: a call
of `env.int("NAME")`, a class attribute `code`, a keyword `code=`. Nothing here is imported or run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APPS = ("config", "projects", "inference", "feedback", "training")
ENGINE = ROOT / "inference/engine"
RECIPES = ROOT / "training/recipes"
Definition = ast.FunctionDef | ast.AsyncFunctionDef
Kinds = dict[str, dict[str, ast.expr]]  # class name -> its attributes


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def files(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [path for path in found if "migrations" not in path.parts]


@cache
def walked(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


def nodes(paths: list[Path], kind: type[ast.AST]) -> Iterator[ast.AST]:
    for path in paths:
        yield from (node for node in walked(path) if isinstance(node, kind))


def calls(paths: list[Path], name: str) -> Iterator[ast.Call]:
    """Calls of a function or method of this name."""
    for node in nodes(paths, ast.Call):
        assert isinstance(node, ast.Call)
        if called(node) == name:
            yield node


def called(call: ast.Call) -> str:
    """`f` of `f(...)` and of `a.b.f(...)`."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def texts(node: ast.AST | None) -> list[str]:
    """The texts that an expression can be: constants, sides of a condition, `{...}` of an f-string as *."""
    match node:
        case ast.Constant(value=str(value)):
            return [value] if value else []
        case ast.JoinedStr(values=values):
            return ["".join("".join(texts(value)) or "*" for value in values)]
        case ast.IfExp(body=body, orelse=orelse):
            return texts(body) + texts(orelse)
        case ast.BoolOp(values=values):
            return [text for value in values for text in texts(value)]
    return []


def settings() -> dict[str, str | None]:
    """Variable -> default of config/settings.py, None where the default is computed."""
    found: dict[str, str | None] = {}
    for node in nodes([ROOT / "config/settings.py"], ast.Call):
        assert isinstance(node, ast.Call)
        is_read = ast.unparse(node.func).startswith("env.") or called(node) == "_secret"
        if not is_read or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        given = next((keyword.value for keyword in node.keywords if keyword.arg == "default"), None)
        try:
            value = ast.literal_eval(given) if given is not None else None
        except ValueError:
            value = None
        if isinstance(value, list):
            value = ",".join(value)
        name = str(node.args[0].value)
        found[name] = as_text(value) if value is not None else found.get(name)
    return found


def as_text(value: object) -> str:
    """A default as a person would type it: 600 for 600.0, true for True, nothing for an empty text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def engine_options() -> dict[str, tuple[str, str]]:
    """Flag -> (variable, default) of the engine's command line; empty where one must be given."""
    found = {}
    for call in calls([ENGINE / "options.py"], "add"):
        flag, variable, default = (ast.literal_eval(argument) for argument in call.args[:3])
        found[flag] = (variable, default or "")
    return found


def environment_reads(paths: list[Path]) -> set[str]:
    """Variables that Python code asks os.environ for by name; what it only sets is left out."""
    found = set()
    for call in calls(paths, "get"):
        if ast.unparse(call.func) == "os.environ.get":
            found |= set(texts(call.args[0]))
    for node in nodes(paths, ast.Subscript):
        assert isinstance(node, ast.Subscript)
        if ast.unparse(node.value) == "os.environ" and isinstance(node.ctx, ast.Load):
            found |= set(texts(node.slice))
    return found


def shell_reads(path: str) -> set[str]:
    """`${NAME:-default}`, `$(or $(NAME),...)` and `NAME ?= default` of a Makefile, a Procfile or a script."""
    found = re.findall(
        r"\$\{([A-Z][A-Z_]+):-|\$\(or \$\(([A-Z_]+)\)|\b([A-Z_]+) \?=", (ROOT / path).read_text()
    )
    return {name for groups in found for name in groups if name}


def commands() -> dict[str, set[str]]:
    """Name -> arguments of each management command."""
    found = {}
    for path in files(*APPS):
        if path.parent.name == "commands" and not path.stem.startswith("_"):
            found[path.stem] = {
                name for call in calls([path], "add_argument") for name in texts(call.args[0])
            }
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def schedules() -> dict[str, str]:
    """Name -> seconds between two bells, of config/celery.py."""
    for node in nodes([ROOT / "config/celery.py"], ast.Assign):
        assert isinstance(node, ast.Assign)
        if ast.unparse(node.targets[0]) == "app.conf.beat_schedule":
            schedule = ast.literal_eval(node.value)
            return {name: as_text(entry["schedule"]) for name, entry in schedule.items()}
    raise AssertionError("config/celery.py has no beat_schedule")


def check_ids() -> set[str]:
    """Ids of the system checks."""
    found: set[str] = set()
    for call in nodes([ROOT / "config/checks.py"], ast.Call):
        assert isinstance(call, ast.Call)
        found |= {text for word in call.keywords if word.arg == "id" for text in texts(word.value)}
    return found


def web_codes() -> dict[str, set[int]]:
    """Error code -> statuses, of the web process; a code without a known status has an empty set."""
    return error_codes([path for path in files(*APPS) if not path.is_relative_to(ENGINE)], "Problem")


def engine_codes() -> dict[str, set[int]]:
    return error_codes(files("inference/engine"), "EngineError")


def error_codes(paths: list[Path], base: str) -> dict[str, set[int]]:
    """Codes of `base`'s kinds: class attributes, `code=` where one is made, `.code =` where one is changed.

    The status is that of the class; `base` itself is also made with statuses of all sorts, so it tells none.
    """
    kinds = _kinds(paths, base)
    found: dict[str, set[int]] = {}

    def note(names: list[str], status: int | None) -> None:
        for name in names:
            found.setdefault(name, set()).update({status} if status else set())

    for name, attributes in kinds.items():
        note(texts(attributes.get("code")), _status(kinds, name) if name != base else None)
    for path in paths:
        for scope in walked(path):
            if isinstance(scope, Definition):
                _note_scope(scope, kinds, base, note)
    for function, place in _shortcuts(paths, kinds):
        for call in calls(paths, function):
            note(texts(call.args[place]), None)
    return found


def _note_scope(
    scope: Definition, kinds: Kinds, base: str, note: Callable[[list[str], int | None], None]
) -> None:
    """`Kind(..., code="x")`, `problem.code = "x"`, and a variable `code` that reaches such a call."""
    variables: dict[str, list[str]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    variables.setdefault(target.id, []).extend(texts(node.value))
                elif isinstance(target, ast.Attribute) and target.attr == "code":
                    note(texts(node.value), None)
                    if isinstance(node.value, ast.Name):
                        note(variables.get(node.value.id, []), None)
        if isinstance(node, ast.Dict):  # a refusal spelled out: {"type": ..., "code": ...}
            pairs = {
                text: value for key, value in zip(node.keys, node.values, strict=True) for text in texts(key)
            }
            if {"type", "code", "message"} <= pairs.keys():
                code = pairs["code"]
                note(variables.get(code.id, []) if isinstance(code, ast.Name) else texts(code), None)
    for node in ast.walk(scope):
        if isinstance(node, ast.Call) and called(node) in kinds:
            given = next((keyword.value for keyword in node.keywords if keyword.arg == "code"), None)
            names = variables.get(given.id, []) if isinstance(given, ast.Name) else texts(given)
            note(names, _status(kinds, called(node)) if called(node) != base else None)


def _kinds(paths: list[Path], base: str) -> Kinds:
    """Class name -> class attributes (and `bases`) of `base` and everything under it."""
    classes = [node for node in nodes(paths, ast.ClassDef) if isinstance(node, ast.ClassDef)]
    names = {base}
    while more := {
        one.name for one in classes if names & {ast.unparse(parent) for parent in one.bases}
    } - names:  # fmt: skip
        names |= more
    return {one.name: class_attributes(one) for one in classes if one.name in names}


def class_attributes(one: ast.ClassDef) -> dict[str, ast.expr]:
    """Name -> value of `name = value` and `a, b = value, value` in a class body; `bases`: the first base."""
    found: dict[str, ast.expr] = {"bases": one.bases[0]} if one.bases else {}
    for node in one.body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = zip(target.elts, value.elts, strict=True)
                found |= {ast.unparse(name): element for name, element in pairs}
            else:
                found[ast.unparse(target)] = value
    return found


def _status(kinds: Kinds, name: str) -> int | None:
    while name in kinds:
        if isinstance(status := kinds[name].get("status"), ast.Constant):
            return int(str(status.value))
        name = ast.unparse(kinds[name]["bases"])
    return None


def _shortcuts(paths: list[Path], kinds: Kinds) -> Iterator[tuple[str, int]]:
    """Functions that take a code as a positional parameter and make a problem of it, and its place."""
    for node in nodes(paths, Definition):  # type: ignore[arg-type]  # isinstance takes a union
        assert isinstance(node, Definition)
        names = [argument.arg for argument in node.args.args]
        makes = any(isinstance(one, ast.Call) and called(one) in kinds for one in ast.walk(node))
        if "code" in names and makes:
            yield node.name, names.index("code")


def exit_codes() -> dict[str, int]:
    """Cause -> exit code of a recipe that ends early."""
    found = {}
    for attributes in _kinds(files("training/recipes"), "RunFailure").values():
        code = attributes.get("code")
        found.update({cause: ast.literal_eval(code) for cause in texts(attributes.get("cause")) if code})
    return found


def run_directory() -> set[str]:
    """Names that are made or read directly in a run's folder: right sides of `folder / "name"`."""
    paths = [
        *files("training/recipes"),
        ROOT / "training/services/rundir.py",
        *files("training/launchers"),
    ]
    owners = ("folder", "run.folder", "job.folder", "self.folder", "self._run.folder")
    return {
        text
        for node in nodes(paths, ast.BinOp)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and ast.unparse(node.left) in owners
        for text in texts(node.right)
    }


def run_events() -> set[str]:
    """Names of the lines in events.jsonl."""
    paths = files("training/recipes")
    emitted = {text for call in calls(paths, "emit") for text in texts(call.args[0])}
    return emitted | {text for call in calls(paths, "write_event") for text in texts(call.args[1])}


def engine_routes() -> set[str]:
    """`METHOD /path` of the engine."""
    found = set()
    for call in calls([ENGINE / "app.py"], "Route"):
        methods = next(
            (ast.literal_eval(word.value) for word in call.keywords if word.arg == "methods"), ["GET"]
        )
        found |= {f"{method} {text}" for method in methods for text in texts(call.args[0])}
    return found


def engine_metrics() -> set[str]:
    found = nodes([ENGINE / "metrics.py"], ast.Call)
    made = [call for call in found if isinstance(call, ast.Call)]
    return {
        text
        for call in made
        if called(call) in ("Gauge", "Counter", "Histogram")
        for text in texts(call.args[0])
    }
