"""The tree of a conversation, by ids alone: the path to its head, siblings, and what is newest below."""

from __future__ import annotations

from uuid import UUID

import pytest

from feedback.branches import Tree
from feedback.threads import Places

pytestmark = pytest.mark.unit


def ids(*numbers: int) -> list[UUID]:
    return [UUID(int=number) for number in numbers]


@pytest.fixture
def tree() -> Tree:
    """1 has the answers 2 and 3; 4 follows 2 (answer 5), 6 follows 3 (answers 7, 8), and 9 is beside 4."""
    q1, a2, a3, q4, a5, q6, a7, a8, q9 = ids(*range(1, 10))
    return Tree(
        [(q1, None), (q4, a2), (q6, a3), (q9, a2)],
        [(a2, q1), (a3, q1), (a5, q4), (a7, q6), (a8, q6)],
    )


def test_without_a_head_the_path_leads_to_the_newest_question(tree: Tree) -> None:
    q1, a2, q9 = ids(1, 2, 9)
    for head in (None, UUID(int=77)):
        first, last = tree.path(head)
        assert (first.question, first.chosen, first.answers) == (q1, a2, ids(2, 3))
        assert (last.question, last.questions, last.answer) == (q9, ids(4, 9), None)


def test_a_head_that_is_an_answer_is_chosen_and_one_that_is_a_question_leaves_the_choice(tree: Tree) -> None:
    a7, q6 = ids(7, 6)
    assert [step.chosen for step in tree.path(a7)] == ids(3, 7)
    assert tree.path(a7)[-1].pair == []
    assert tree.path(q6)[-1].chosen is None
    assert tree.path(q6)[-1].pair == ids(7, 8)
    assert tree.path(q6)[-1].answer == UUID(int=8)


def test_a_branch_leads_to_the_newest_question_under_it(tree: Tree) -> None:
    under = {1: 9, 2: 9, 3: 6, 4: 4, 5: 5, 7: 7, 9: 9}
    assert {node: tree.newest_under(UUID(int=node)).int for node in under} == under


def test_an_empty_conversation_and_one_that_begins_after_a_stranger() -> None:
    assert Tree([], []).path(None) == []
    [step] = Tree([(UUID(int=4), UUID(int=99))], []).path(None)
    assert (step.question, step.answer) == (UUID(int=4), None)


def test_a_place_among_siblings() -> None:
    first, second, third = ids(1, 2, 3)
    assert Places.of([first, second, third], second) == Places(2, 3, first, third)
    assert Places.of([first], first) == Places(1, 1, None, None)
    assert Places.of([], None).count == 0
