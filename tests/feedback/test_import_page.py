"""Prompts from a file in the browser: what is taken, and what each refused line is told."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from inference.models import Prompt
from tests.cast import Cast

URL = "/p/kitchen/prompts/import"


def send(cast: Cast, name: str, content: bytes) -> Any:
    return cast.client.post(URL, {"file": SimpleUploadedFile(name, content)})


def test_is_for_managers(cast: Cast) -> None:
    for user, status in ((cast.bob, 404), (cast.eve, 404), (cast.ada, 200)):
        cast.client.force_login(user)
        assert cast.client.get(URL).status_code == status
        assert send(cast, "a.csv", b"prompt\nHow long?\n").status_code == status
    assert Prompt.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        (
            "a.csv",
            b"\xef\xbb\xbfprompt,tags\r\nOne?,eggs|short\r\n\xff,\r\nTwo?,\r\nToo,many,fields\r\n",
            [3, 5],
        ),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": "One?"}], "tags": ["eggs", "short"]}\n\n{"no": 1}\n'
            b'{"messages": [{"role": "user", "content": "Two?"}]}\n{"messages"',
            [3, 5],
        ),
    ],
)
def test_takes_what_is_right_and_names_each_wrong_line(
    cast: Cast, name: str, content: bytes, wrong: list[int]
) -> None:
    cast.client.force_login(cast.ada)
    page = send(cast, name, content)
    done = page.context["done"]
    assert (done.created, done.existing, done.failed) == (2, 0, 2)
    assert [error["line"] for error in done.errors] == wrong
    for error in done.errors:
        assert error["message"]
    assert "2 lines were refused" in page.content.decode()
    assert {prompt.question for prompt in Prompt.objects.all()} == {"One?", "Two?"}
    assert ["eggs", "short"] in [prompt.tags for prompt in Prompt.objects.all()]
    again = send(cast, name, content).context["done"]
    assert (again.created, again.existing) == (0, 2)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"prompt,tags\n,x\n", "The prompt is empty."),
        ("a.csv", b"messages\nno\n", "The column messages is not valid JSON"),
        ("a.jsonl", b"no\n", "The line is not valid JSON"),
        ("a.jsonl", b'{"prompt": "How?"}\n', 'in place of "prompt".'),
    ],
)
def test_a_wrong_line_is_explained_in_the_words_of_the_file(
    cast: Cast, name: str, content: bytes, says: str
) -> None:
    cast.client.force_login(cast.ada)
    [error] = send(cast, name, content).context["done"].errors
    assert says in error["message"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "not empty"),
        ("a.csv", b"question\nHow?\n", "The first row must name columns"),
        ("a.csv", b"prompt\n", "no line"),
        ("a.png", b"\x89PNG", "must end in"),
        ("a.jsonl", b"\n\n", "no line"),
    ],
)
def test_says_what_is_wrong_with_a_file(cast: Cast, name: str, content: bytes, says: str) -> None:
    cast.client.force_login(cast.ada)
    page = send(cast, name, content)
    assert page.status_code == 200
    assert says in page.context["refusal"]
    assert 'role="alert"' in page.content.decode()
    assert not Prompt.objects.exists()
