"""The documentation says what the source says: everything is in it, and nothing else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from django.urls import URLPattern

from demo.tastes import TASTES
from tests import source
from tests.routes import routes
from tests.source import ROOT
from training.models import Run
from training.recipes.config import CONFIGS, TrainingConfig

pytestmark = pytest.mark.unit

REFERENCE = (ROOT / "docs/reference.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDES = [page for page in PAGES if page.name != "decisions.md"]  # decisions also tell of what is gone
FOREIGN = ("VLLM_", "CUDA_", "RATCHET_")  # variables of programs that are not ours, and of the examples


def rows(title: str) -> list[list[str]]:
    """Cells of the tables' rows between the heading `title` and the next one of its level or above."""
    start = re.search(rf"^(#+) {re.escape(title)}$", REFERENCE, re.MULTILINE)
    assert start, f"docs/reference.md has no heading {title}"
    end = re.compile(rf"^#{{1,{len(start[1])}}} ", re.MULTILINE).search(REFERENCE, start.end())
    lines = REFERENCE[start.end() : end.start() if end else None].splitlines()
    is_head = [line.startswith("|---") for line in lines[1:]] + [False]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line, head in zip(lines, is_head, strict=True)
        if line.startswith("|") and not line.startswith("|---") and not head
    ]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def first(title: str) -> set[str]:
    """What stands in code in the first column of a section's tables."""
    return {span for cells in rows(title) for span in spans(cells[0])}


def same(documented: set[str], real: set[str], what: str) -> None:
    """Fails with the names that are on one side only."""
    missing, gone = sorted(real - documented), sorted(documented - real)
    assert not missing, f"docs/reference.md lacks {what}: {', '.join(missing)}"
    assert not gone, f"docs/reference.md has {what} that the source has not: {', '.join(gone)}"


def cell(value: str) -> str:
    return f"`{value}`" if value else "empty"


# --- settings --------------------------------------------------------------------------------------------
def test_every_setting_is_there_with_its_default():
    titles = ("Where things lie", "Django", "Database and broker", "Serving", "Webhooks", "Training")
    documented = {spans(cells[0])[0]: cells[1] for title in titles for cells in rows(title)}
    real = source.settings()
    same(set(documented), set(real), "settings")
    wrong = {
        name: (documented[name], cell(default))
        for name, default in real.items()
        if default is not None and documented[name] != cell(default)
    }
    assert not wrong, f"docs/reference.md has other defaults (there, in the source): {wrong}"


def test_every_option_of_the_engine_is_there_with_its_variable_and_default():
    documented = {tuple(spans(row[0]) + spans(row[1])): row[2] for row in rows("Options")}
    real = {(flag, variable): default for flag, (variable, default) in source.engine_options().items()}
    same({" ".join(one) for one in documented}, {" ".join(one) for one in real}, "engine options")
    wrong = {
        pair: documented[pair]
        for pair, default in real.items()
        if default and documented[pair] != cell(default)
    }
    assert not wrong, f"docs/reference.md has other defaults for {wrong}"


def test_every_variable_of_processes_and_make_is_there():
    real = source.shell_reads("Makefile") | source.shell_reads("Procfile")
    real |= source.environment_reads(source.files(*source.APPS, "demo"))
    real |= set(re.findall(r"\bRATCHET_TEST_\w+", (ROOT / "Makefile").read_text()))
    lacks = real - set(spans(REFERENCE))
    assert not lacks, f"docs/reference.md lacks variables: {', '.join(sorted(lacks))}"
    gone = first("Processes and make") - real
    assert not gone, f"docs/reference.md has variables that nothing reads: {', '.join(sorted(gone))}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_no_page_sets_a_variable_that_nothing_reads(page: Path):
    known = set(source.settings()) | {variable for variable, _ in source.engine_options().values()}
    known |= first("Processes and make") | {"HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"}
    known |= {f"{name}_FILE" for name in known}
    # In code alone: prose may well say a word in capitals.
    named = {name for code in codes(page) for name in re.findall(r"(?<![\w-])([A-Z][A-Z0-9_]{2,})=", code)}
    unknown = {name for name in named - known if not name.startswith(FOREIGN)}
    assert not unknown, f"{page.name} sets what nothing reads: {', '.join(sorted(unknown))}"
    tastes = {name for code in codes(page) for name in re.findall(r"\bTASTE=(\w+)", code)}
    assert tastes <= TASTES.keys(), f"{page.name} has tastes that are not: {sorted(tastes - TASTES.keys())}"


def test_every_system_check_is_there():
    same(first("System checks"), source.check_ids(), "system checks")


# --- commands and targets --------------------------------------------------------------------------------
def test_every_command_is_there_with_its_arguments():
    documented = {spans(row[0])[0]: set(spans(row[1])) for row in rows("Commands")}
    real = source.commands()
    same(set(documented), set(real), "commands")
    for name, arguments in real.items():
        same(documented[name], arguments, f"arguments of {name}")


def test_every_make_target_is_there():
    same({name.removeprefix("make ") for name in first("make")}, source.make_targets(), "make targets")


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_command_and_target_that_a_page_names_exists(page: Path):
    text = "\n".join(codes(page))
    ours = {*source.commands(), "migrate", "check", "collectstatic", "changepassword", "dumpdata"}
    named = set(re.findall(r"manage\.py ([a-z_]+)", text))
    assert named <= ours, f"{page.name} names commands that are not: {sorted(named - ours)}"
    targets = set(re.findall(r"(?:^|[\s;&])make ([a-z]+)", text, re.MULTILINE))
    gone = targets - source.make_targets()
    assert not gone, f"{page.name} names make targets that are not: {sorted(gone)}"


def test_every_schedule_is_there():
    documented = {f"{spans(row[0])[0]} each {row[1]} s" for row in rows("Schedules")}
    same(documented, {f"{name} each {s} s" for name, s in source.schedules().items()}, "schedules")


# --- routes ----------------------------------------------------------------------------------------------
def calls_of(pattern: URLPattern) -> dict[str, str]:
    """Method -> scope of an address for programs."""
    view = getattr(pattern.callback, "cls", None)
    if view is not None:
        return dict(getattr(view, "scopes", {})) or {"GET": "none"}
    # A plain function: it names its method, and its module the one scope that it asks for.
    function = inspect.unwrap(pattern.callback)
    methods = re.findall(r'"(GET|POST|DELETE)"', inspect.getsource(function))
    module = inspect.getsource(inspect.getmodule(function))  # type: ignore[arg-type]  # a view has one
    scopes = set(re.findall(r"scope=ApiKey\.Scope\.(\w+)", module))
    assert len(methods) == len(scopes) == 1, f"{function} must name one method, its module one scope"
    return {methods[0]: scopes.pop().lower().replace("_", ":")}


def test_every_call_is_there_with_its_scope():
    documented = {
        f"{spans(row[0])[0]} {spans(row[1])[0] if spans(row[1]) else row[1]}" for row in calls_table()
    }
    real = {
        f"{method} {path} {scope}"
        for path, pattern in routes()
        if path.startswith(("/api/", "/v1/"))
        for method, scope in calls_of(pattern).items()
    }
    same(documented, real, "calls (method, path, scope)")


def calls_table() -> list[list[str]]:
    return [row for row in rows("REST and OpenAI") if re.match(r"`[A-Z]+ /", row[0])]


def test_every_page_is_there_with_its_methods_and_who_may():
    documented = {page_line(*(" ".join(spans(row[i])) or row[i] for i in range(4))) for row in rows("Pages")}
    real = set()
    for path, pattern in routes():
        if path.startswith(("/api/", "/v1/")):
            continue
        methods, who = rules_of(pattern)
        row = next((row for row in rows("Pages") if spans(row[0]) == [path]), None)
        # What a view does not say itself (sign-in, redirects) is as the page has it.
        methods = methods or (row[1] if row else "?")
        real.add(page_line(path, methods, pattern.name or "", who or (row[3] if row else "?")))
    same(documented, real, "pages (path, methods, name, who)")


def page_line(path: str, methods: str, name: str, who: str) -> str:
    return f"{path} [{methods}] {name} ({who})"


def rules_of(pattern: URLPattern) -> tuple[str, str]:
    """Methods and who, as a page's function says them; empty where it does not."""
    function = inspect.unwrap(pattern.callback)
    text = inspect.getsource(function) if inspect.isfunction(function) else ""
    if "@manager_action" in text:
        return "POST", "manager"
    named = re.search(r"@require_http_methods\(\[(.*?)\]\)", text)
    simple = re.search(r'@require_(GET|POST)|request\.method != "(\w+)"', text)
    methods = named[1].replace('"', "") if named else (simple[1] or simple[2]) if simple else ""
    role = re.search(r"project_for\(request, slug(?:, Membership\.Role\.(\w+))?\)", text)
    return methods, (role[1].lower() if role[1] else "member") if role else ""


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_address_that_a_page_names_exists(page: Path):
    known = {path for path, _ in routes()} | {call.split()[1] for call in source.engine_routes()}
    forms = [re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + r"\Z") for path in known]
    named = {path for code in codes(page) for path in re.findall(r"/(?:api|v1)/[\w/{}-]+(?![\w/{}[])", code)}
    gone = {path for path in named if not any(form.match(path) for form in forms)} - {"/api/v1", "/api/v1/"}
    assert not gone, f"{page.name} names addresses that are not: {', '.join(sorted(gone))}"


def test_every_route_of_the_engine_is_there():
    same(first("Dialect"), source.engine_routes(), "engine routes")


# --- error codes and ends --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("title", "codes_of"), [("Error codes", source.web_codes), ("Its error codes", source.engine_codes)]
)
def test_every_error_code_is_there_with_its_status(title: str, codes_of: Callable[[], dict[str, set[int]]]):
    real = codes_of()
    same(first(title), set(real), "error codes")
    documented = {spans(row[0])[0]: row[1] for row in rows(title)}
    wrong = {
        code: f"{documented[code]}, raised with {status}"
        for code, statuses in real.items()
        for status in statuses
        if str(status) not in documented[code]
    }
    assert not wrong, f"docs/reference.md has other statuses: {wrong}"


def test_every_error_code_is_provoked_somewhere():
    """Clients branch on them. One that no test names may have changed, or never come."""
    tests = "".join(
        path.read_text() for path in (ROOT / "tests").rglob("*.py") if path.name != "test_docs.py"
    )
    codes = first("Error codes") | first("Its error codes")
    unnamed = sorted(code for code in codes if "*" not in code and f'"{code}"' not in tests)
    assert not unnamed, f"no test names {', '.join(unnamed)}"


def test_no_error_code_is_there_twice():
    for title in ("Error codes", "Its error codes"):
        names = [spans(row[0])[0] for row in rows(title)]
        assert sorted(names) == sorted(set(names))


def test_every_end_of_a_run_is_there():
    documented = {(span, row[1]) for row in rows("Ends") for span in spans(row[0]) if row[1]}
    real = {(cause, str(code)) for cause, code in source.exit_codes().items()}
    same({" ".join(one) for one in documented}, {" ".join(one) for one in real}, "causes and exit codes")
    same({span for row in rows("Ends") for span in spans(row[2])}, set(Run.Cause.values), "causes of a run")


def test_everything_in_a_run_directory_is_there():
    same(
        {span for row in rows("The run directory")[:11] for span in spans(row[0])},
        source.run_directory(),
        "files",
    )
    same(first("Events"), source.run_events(), "events")


@pytest.mark.parametrize("method", CONFIGS)
def test_every_hyperparameter_is_there_with_its_default(method: str):
    config = CONFIGS[method]
    tables = ["Hyperparameters of every method"]
    tables += ["Hyperparameters of every training"] * issubclass(config, TrainingConfig)
    tables += [f"Hyperparameters of {method}"]
    documented = {spans(row[0])[0]: row[1] for table in tables for row in rows(table)}
    same(set(documented), {one.name for one in fields(config)}, f"hyperparameters of {method}")
    for one in fields(config):
        if one.default is not MISSING:
            assert documented[one.name] == cell(source.as_text(one.default)), one.name


def test_every_metric_of_the_engine_is_there():
    same(first("Metrics"), source.engine_metrics(), "metrics")


# --- the pages themselves --------------------------------------------------------------------------------
def codes(page: Path) -> list[str]:
    """Code blocks and code spans of a page."""
    text = page.read_text()
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return blocks + spans(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """What `#...` may name: the headings, as forges make anchors of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_its_heading(page: Path):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{page.name} has links that lead nowhere: {', '.join(broken)}"


def test_each_decision_is_whole():
    """Merges once left the end of one entry behind another one."""
    _, *entries = (ROOT / "docs/decisions.md").read_text().strip().split("\n\n## ")
    lines = [line for entry in entries for line in entry.splitlines()]
    assert len(set(lines)) == len(lines), sorted(line for line in set(lines) if lines.count(line) > 1)
    for entry in entries:
        heading, *text = entry.splitlines()
        assert re.match(r"2\d{3}-\d\d-\d\d [A-Z]\S* \S", heading), f"no date or no title: {heading}"
        assert 1 <= len(text) <= 8 and all(text), f"not one paragraph of at most eight lines: {heading}"
        assert re.match(r"[A-Z`]", text[0]) and text[-1].endswith("."), (
            f"begins or ends amid a sentence: {heading}"
        )
        assert sum(line.count("Cost:") for line in text) <= 1, f"two entries in one: {heading}"
    dates = [entry[:10] for entry in entries]
    assert dates == sorted(dates), "newest last"


def test_each_file_that_a_decision_names_is_there():
    files = {str(path.relative_to(ROOT)) for path in source.files(*source.APPS, "bench", "demo", "tests")}
    named = set(re.findall(r"[\w./]+\.py\b", (ROOT / "docs/decisions.md").read_text())) - {"manage.py"}
    gone = {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)}
    assert not gone, f"docs/decisions.md names files that are not: {', '.join(sorted(gone))}"


def test_each_threat_names_tests_that_are_there():
    table = [
        line for line in (ROOT / "docs/threat-model.md").read_text().splitlines() if line.startswith("| ")
    ]
    for line in table[1:]:
        *_, who, _, _, tested = line.strip("| ").split(" | ")
        assert spans(tested), f"docs/threat-model.md names no test for: {who}"
        gone = [name for name in spans(tested) if not (ROOT / "tests" / name).is_file()]
        assert not gone, f"docs/threat-model.md names tests that are not: {', '.join(gone)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_is_python(page: Path):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        compile(block, page.name, "exec")


def test_the_readme_shows_python():
    assert "```python\n" in (ROOT / "README.md").read_text()
