"""sample against its reference, the known answers of Philox, and the distribution it draws from."""

from __future__ import annotations

import math

import pytest
import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, sample, use_backend
from lorid_engine.ops.sample import philox


def draw(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, logprobs: int = -1, key: int = 7
):
    rows = logits.shape[0]
    counter = torch.stack([torch.zeros(rows, dtype=torch.int64), torch.arange(rows)], dim=1).contiguous()
    heat, k, p = (
        torch.full((rows,), temperature),
        torch.full((rows,), top_k, dtype=torch.int32),
        torch.full((rows,), top_p),
    )
    return sample(logits, torch.full((rows,), key), counter, heat, k, p, logprobs)


def test_philox_known_answers() -> None:
    """The vectors of Random123's kat_vectors for philox4x32-10, as far as counters of two words reach."""
    expected = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox(0, 0, 0) == expected
    assert cpu.extension().philox(0, 0, 0) == expected
    for key, counter, position in ((2**64 - 1, 2**32 - 1, 2**32 - 1), (0x0123456789ABCDEF, 5, 77)):
        assert cpu.extension().philox(key, counter, position) == philox(key, counter, position)


@pytest.mark.parametrize("top_k", [0, 1, 2, 5, 50, 999, 1000])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 0.1, 0.7, 1.5, 100.0])
def test_cpu_draws_what_the_reference_draws(temperature: float, top_k: int, top_p: float) -> None:
    logits = 4 * torch.randn(6, 1000, generator=torch.Generator().manual_seed(3))
    logits[1] = logits[1].round()  # many ties
    logits[2] = 0
    with use_backend("reference"):
        expected = draw(logits, temperature, top_k, top_p, logprobs=5)
    actual = draw(logits, temperature, top_k, top_p, logprobs=5)
    assert actual[0].tolist() == expected[0].tolist()
    assert torch.equal(actual[2], expected[2]) and torch.equal(actual[3], expected[3])
    for mine, theirs in ((actual[1], expected[1]), (actual[4], expected[4])):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_greedy_ties_go_to_the_lowest_id() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [-math.inf, -math.inf, -math.inf, -5.0]])
    assert draw(logits, temperature=0.0)[0].tolist() == [1, 3]
    assert draw(logits, top_k=1)[0].tolist() == [1, 3]


def test_not_a_number_is_never_drawn() -> None:
    logits = torch.tensor([[math.nan, 1.0, math.nan, 2.0], [math.nan] * 4, [math.inf, 0.0, math.nan, 1.0]])
    for temperature in (0.0, 1.0, 50.0):
        for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.99)):
            tokens = draw(logits, temperature, top_k, top_p)[0].tolist()
            assert tokens[0] in (1, 3) and tokens[1] == -1 and tokens[2] == 0


@pytest.mark.parametrize(("top_k", "top_p", "kept"), [(0, 1.0, 6), (3, 1.0, 3), (0, 0.8, 3), (4, 0.5, 2)])
def test_frequencies(top_k: int, top_p: float, kept: int) -> None:
    """20,000 draws of one row at 20,000 positions, against the exact truncated distribution, within five sigma."""
    weights = torch.tensor([0.05, 0.3, 0.1, 0.4, 0.04, 0.11])
    count = 20000
    tokens = draw(weights.log().expand(count, 6).contiguous(), top_k=top_k, top_p=top_p)[0]
    largest = weights.sort(descending=True).indices[:kept]
    truncated = torch.zeros(6).scatter(0, largest, weights[largest])
    expected = truncated / truncated.sum()
    observed = torch.bincount(tokens, minlength=6) / count
    sigma = (expected * (1 - expected) / count).sqrt()
    assert ((observed - expected).abs() <= 5 * sigma + 1e-12).all()


def test_a_row_is_drawn_alone_as_in_company() -> None:
    logits = torch.randn(9, 5000, generator=torch.Generator().manual_seed(4))
    together = draw(logits, 1.5, 50, 0.9)[0]
    counter = torch.tensor([[0, 4]])
    alone = sample(
        logits[4:5],
        torch.tensor([7]),
        counter,
        torch.tensor([1.5]),
        torch.tensor([50], dtype=torch.int32),
        torch.tensor([0.9]),
        -1,
    )
    assert int(alone[0]) == int(together[4])


def test_top_p_alone_over_a_flat_large_vocabulary() -> None:
    logits = torch.zeros(2, 49152)
    with use_backend("reference"):
        expected = draw(logits, top_p=0.5)[0].tolist()
    assert draw(logits, top_p=0.5)[0].tolist() == expected
    assert max(expected) < 49152 / 2 + 1


def test_refusals() -> None:
    with pytest.raises(ShapeError, match="temperature"):
        draw(torch.zeros(1, 4), temperature=-1.0)
    with pytest.raises(ShapeError, match="temperature must be 0 or more and finite"):
        draw(torch.zeros(1, 4), temperature=math.inf)
    with pytest.raises(ShapeError, match="a column for each token"):
        draw(torch.zeros(1, 0))
    with pytest.raises(ShapeError, match="philox_counter must be from 0"):
        one = torch.ones(1)
        sample(torch.zeros(1, 4), one.long(), torch.tensor([[0, 2**32]]), one, one.int(), one, -1)
    with pytest.raises(ShapeError, match="top_p"):
        draw(torch.zeros(1, 4), top_p=0.0)
    with pytest.raises(ShapeError, match="num_logprobs must be from -1 to V = 4"):
        draw(torch.zeros(1, 4), logprobs=5)
