"""The sampler draws what it is told to draw."""

import pytest

pytestmark = pytest.mark.unit
torch = pytest.importorskip("torch")


def draw(logits, *, count=1, temperature=1.0, top_p=1.0, top_k=64, seed=0):
    """`count` draws from one row of logits, at positions 0, 1, ..."""
    from inference.engine.sampling import Sampling, choose

    how = Sampling.of(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, choice=0)
    columns = torch.tensor([[*how.packed(), position] for position in range(count)], dtype=torch.int32).T
    return choose(torch.tensor([logits]).repeat(count, 1), columns)


def shares(tokens, size):
    return [(tokens == token).float().mean().item() for token in range(size)]


def test_draws_follow_the_softmax():
    logits = [2.0, 1.0, 0.0, -1.0, -30.0]
    expected = torch.tensor(logits).softmax(0).tolist()
    assert shares(draw(logits, count=20_000), 5) == pytest.approx(expected, abs=0.012)


def test_temperature_sharpens():
    logits = [2.0, 1.0, 0.0]
    expected = (torch.tensor(logits) / 0.5).softmax(0).tolist()
    assert shares(draw(logits, count=20_000, temperature=0.5), 3) == pytest.approx(expected, abs=0.012)


def test_zero_is_greedy():
    assert set(draw([0.0, 0.1, 0.05], count=500, temperature=0.0).tolist()) == {1}


def test_greedy_takes_the_first_of_equals():
    """As argmax does, whatever else is in the batch: bf16 makes many equals."""
    logits = [1.0, *[2.0] * 30, 1.5]
    assert set(draw(logits, count=5, temperature=0.0).tolist()) == {1}
    assert set(draw(logits, count=5, temperature=0.0, top_k=1).tolist()) == {1}


def test_top_k_keeps_the_likeliest():
    assert set(draw([0.0, 1.0, 0.5, 0.9], count=500, top_k=2).tolist()) == {1, 3}


def test_top_p_keeps_what_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert set(draw(logits, count=2000, top_p=0.7).tolist()) == {0, 1}
    assert set(draw(logits, count=500, top_p=1e-6).tolist()) == {0}


def test_a_seed_repeats_itself_and_another_differs():
    logits = [0.0] * 64
    first, again, other = (draw(logits, count=200, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first == other).float().mean() < 0.1


def test_rows_do_not_disturb_each_other():
    """One batch with every kind of setting gives each row what it gets alone."""
    from inference.engine.sampling import Sampling, choose

    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(4, 500, generator=generator) * 3
    settings = [(0.0, 1.0, 64), (1.0, 0.5, 64), (0.7, 1.0, 3), (2.0, 0.9, 20)]
    columns = [
        [*Sampling.of(temperature=t, top_p=p, top_k=k, seed=row, choice=0).packed(), 11]
        for row, (t, p, k) in enumerate(settings)
    ]
    arguments = torch.tensor(columns, dtype=torch.int32).T
    together = choose(scores, arguments)
    alone = [choose(scores[row : row + 1], arguments[:, row : row + 1]).item() for row in range(4)]
    assert together.tolist() == alone


def test_choices_of_one_seed_differ():
    from inference.engine.sampling import Sampling

    keys = {Sampling.of(temperature=1, top_p=1, top_k=None, seed=1, choice=choice).key for choice in range(8)}
    assert len(keys) == 8
