"""Files of prompts: JSONL and CSV with marks, mixed ends and broken lines, in constant memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from feedback.imports import PromptImport, from_csv, from_lines
from inference.models import Prompt
from inference.services import prompt_imports
from inference.services.prompts import record_prompt
from projects.bodies import Lines
from projects.errors import Problem
from tests.cast import Cast
from tests.training.conftest import vote
from training.services.compiler import preview_dataset

MARK = b"\xef\xbb\xbf"


def taken(cast: Cast, raw: bytes) -> PromptImport:
    done = PromptImport(cast.project, may_audit=True)
    for _ in done.run(from_csv(io.BytesIO(raw))):
        pass
    return done


def test_a_csv_with_a_mark_and_mixed_ends(cast: Cast):
    raw = (
        MARK + b"Prompt,external_id,tags,system\r\n"
        b'"Why, and\r\nhow?",a,eggs|pans,Be brief.\n'
        b'"He said ""why?""",b,,\r\n'
        b"\n"
        b"Warum \xc3\xbc?,,,\n"
    )
    done = taken(cast, raw)
    assert (done.created, done.failed) == (3, 0), done.errors
    first = Prompt.objects.get(external_id="a")
    assert first.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why, and\nhow?"},
    ]
    assert first.tags == ["eggs", "pans"]
    assert Prompt.objects.get(external_id="b").question == 'He said "why?"'
    assert taken(cast, raw).existing == 3


def test_each_wrong_row_is_named_and_the_others_are_taken(cast: Cast):
    rows = [
        b"prompt,external_id",
        b"Good?,1",
        b"Too,many,fields",
        b"\xff\xfe,2",
        b"Nul\x00?,3",
        b" ,4",
        b'"Stray" quote,5',
        b"Good too?,1",
        b"Last?,6",
    ]
    done = taken(cast, b"\n".join(rows))
    assert (done.created, done.failed) == (2, 6)
    assert [(one["line"], one["code"]) for one in done.errors] == [
        (3, "malformed_body"),
        (4, "malformed_body"),
        (5, "invalid_text"),
        (6, "empty_message"),
        (7, "malformed_body"),
        (8, "external_id_taken"),
    ]


AUDITED = b'{"messages": [{"role": "user", "content": "Who made you?"}], "tags": ["audit", "self"]}\n'


def imported(cast: Cast, raw: bytes, *, key: str) -> Any:
    return cast.post("prompts", raw, key=key, content_type="application/x-ndjson").json()


def test_a_prompt_that_is_tagged_audit_is_one_and_nothing_learns_from_it(cast: Cast):
    assert imported(cast, AUDITED * 2, key=cast.manage_key)["created"] == 1
    prompt = Prompt.objects.get(project=cast.project)
    assert (prompt.split, prompt.tags) == ("audit", ["audit", "self"])
    [listed] = cast.get("prompts", {"split": "audit"}).json()["items"]
    assert listed["id"] == str(prompt.id)
    vote(cast, cast.answer(prompt, "Nobody."), cast.answer(prompt, "Somebody."))
    vote(cast, *cast.answered_prompt("Another?")[1])
    preview = preview_dataset(project=cast.project)
    assert (preview.rows + preview.heldout_rows, preview.drops["gate"]) == (1, 1)


def test_whose_key_may_not_manage_may_not_pick_audit_prompts(cast: Cast):
    done = imported(cast, AUDITED, key=cast.key)
    assert (done["created"], done["errors"][0]["code"]) == (0, "insufficient_scope")


def test_a_prompt_that_is_there_becomes_no_audit_prompt(cast: Cast):
    plain = AUDITED.replace(b'"audit", ', b"")
    named = AUDITED.replace(b'"tags"', b'"external_id": "who", "tags"')
    assert imported(cast, plain + AUDITED, key=cast.manage_key)["errors"][0]["code"] == "prompt_not_new"
    for again in (AUDITED, named):
        done = imported(cast, again, key=cast.manage_key)
        assert (done["created"], done["existing"], done["errors"][0]["code"]) == (0, 0, "prompt_not_new")
    assert Prompt.objects.get(project=cast.project).split != "audit"


def test_messages_as_json_in_a_csv(cast: Cast):
    messages = json.dumps([{"role": "user", "content": "Why?"}]).replace('"', '""')
    done = taken(cast, f'messages\n"{messages}"\n"[1"\n'.encode())
    assert (done.created, done.failed) == (1, 1)


@pytest.mark.parametrize(
    "header", [b"", b"question\n", b"prompt,messages\n", b"external_id\n", b"prompt,prompt\n"]
)
def test_headers_that_are_none(cast: Cast, header: bytes):
    with pytest.raises(Problem) as refused:
        taken(cast, header)
    assert refused.value.code == "csv_header"


def many(count: int, broken: int) -> Any:
    for number in range(count):
        if number == broken:
            yield b'{"messages": [{"role": "user", "content": "Half a\n'
        else:
            yield b'{"messages": [{"role": "user", "content": "Question %d?"}]}\r\n' % number


class Stream(io.RawIOBase):
    """A file that is made as it is read."""

    def __init__(self, lines: Any) -> None:
        self.lines = lines

    def readline(self, size: int | None = -1, /) -> bytes:
        return next(self.lines, b"")


def test_a_broken_line_in_the_middle_of_many_costs_that_line_and_no_memory(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
):
    # Without the database: what is measured is that reading and checking keep nothing.
    monkeypatch.setattr("feedback.imports.record_prompts", lambda project, drafts: [True for _ in drafts])
    peaks = []
    for count in (2_000, 20_000):
        done = PromptImport(cast.project, may_audit=True)
        tracemalloc.start()
        for _ in done.run(from_lines(Lines(Stream(many(count, count // 2)), limit=1_000))):  # type: ignore[arg-type]  # reads lines alone
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (done.created, done.failed) == (count - 1, 1)
        assert done.errors[0]["line"] == count // 2 + 1
    assert peaks[1] < peaks[0] * 1.5 + 200_000


def test_the_command_names_wrong_lines_and_imports_the_rest(cast: Cast, tmp_path: Path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(MARK + b"".join(many(500, 250)))
    out, told = StringIO(), StringIO()
    with pytest.raises(CommandError, match="1 lines were refused"):
        call_command("import_prompts", str(file), "--project", "kitchen", stdout=out, stderr=told)
    assert json.loads(out.getvalue()) == {"created": 499, "existing": 0, "failed": 1}
    assert told.getvalue().startswith("line 251: ")
    table = tmp_path / "prompts.csv"
    table.write_bytes(b"prompt\nAnother?\n")
    out = StringIO()
    call_command("import_prompts", str(table), "--project", "kitchen", stdout=out)
    assert json.loads(out.getvalue())["created"] == 1
    for arguments, said in [
        ([str(tmp_path / "none.csv"), "--project", "kitchen"], "cannot be read"),
        ([str(table), "--project", "nowhere"], "no project nowhere"),
        ([str(file), "--project", "kitchen", "--as", "csv"], "The first row"),
    ]:
        with pytest.raises(CommandError, match=said):
            call_command("import_prompts", *arguments)


def test_many_at_once_follow_the_rules_of_one_by_one(cast: Cast):
    def lines(project: Any, *entries: tuple[str, str | None]) -> list[Any]:
        drafts = [prompt_imports.Draft([{"role": "user", "content": text}], name) for text, name in entries]
        results = prompt_imports.record_prompts(project=project, drafts=drafts)
        return [one.code if isinstance(one, Problem) else one for one in results]

    entries = [
        ("A?", None),
        ("A?", "a"),  # a name that came later
        ("A?", "b"),  # another name for the same messages
        ("B?", "a"),  # the same name for other messages
        ("B?", "b"),
        ("B?", None),
        ("", "c"),
        ("A?", "a"),
    ]
    expected = [True, False, "external_id_taken", "external_id_taken", True, False, "empty_message", False]
    assert lines(cast.project, *entries) == expected
    assert lines(cast.project, ("A?", "a"), ("B?", "b"), ("C?", "a")) == [False, False, "external_id_taken"]
    alone: list[Any] = []
    for text, name in entries:
        try:
            messages = [{"role": "user", "content": text}]
            alone.append(record_prompt(project=cast.garden, messages=messages, external_id=name)[1])
        except Problem as problem:
            alone.append(problem.code)
    assert alone == expected
    assert lines(cast.garden, ("D?", None)) == [True]
    assert lines(cast.garden, ("D?", "d")) == [False]
    assert Prompt.objects.get(project=cast.garden, external_id="d").question == "D?"


def test_what_somebody_recorded_in_between_is_found(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    class Blind(prompt_imports._Known):
        """Looks, and then another import records the same."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if not Prompt.objects.filter(project=cast.project).exists():
                cast.prompt("B?", split=None)

    monkeypatch.setattr(prompt_imports, "_Known", Blind)
    drafts = [prompt_imports.Draft([{"role": "user", "content": text}]) for text in ("A?", "B?")]
    results = prompt_imports.record_prompts(project=cast.project, drafts=drafts)
    assert results in ([True, True], [True, False])
    assert Prompt.objects.filter(project=cast.project).count() == 2
