import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lttune.losses.edges import count_edges_reached, true_entries

MANY = 100_000  # far beyond the number from which a grid is made


def search(x, edges):
    return torch.bucketize(x.double(), edges, right=True, out_int32=True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    num_edges=st.sampled_from([1, 2, 7, 512]),
    scale=st.sampled_from([1e-30, 1e-6, 0.3, 1e4, 1e30]),
    shift=st.sampled_from([0.0, -7.0, 1e4]),
    width=st.sampled_from([0.0, 1e-9, 0.01, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_a_search_to_the_last_value(seed, num_edges, scale, shift, width, dtype):
    generator = torch.Generator().manual_seed(seed)
    x = (shift + scale * torch.randn(MANY, dtype=torch.float64, generator=generator)).to(dtype)
    x[:2] = torch.tensor([torch.inf, -torch.inf])
    # Edges at values themselves, and near them.
    centres = x[2 : 2 + num_edges].double()
    edges = torch.cat([centres - scale * width, centres + scale * width]).sort().values

    assert torch.equal(count_edges_reached(x, edges), search(x, edges))


def test_equal_edges_count_each():
    x = torch.linspace(-1, 1, MANY)

    assert torch.equal(count_edges_reached(x, torch.zeros(40, dtype=torch.float64)), 40 * (x >= 0).int())


@pytest.mark.parametrize("x", [torch.zeros(0), torch.tensor([-1.0, 0.5, 2.0])])
def test_few_values(x):
    edges = torch.tensor([0.5, 1.0], dtype=torch.float64)

    assert torch.equal(count_edges_reached(x, edges), search(x, edges))


def test_no_edges():
    assert torch.equal(
        count_edges_reached(torch.zeros(MANY), torch.zeros(0, dtype=torch.float64)),
        torch.zeros(MANY, dtype=torch.int32),
    )


def test_values_that_are_no_numbers_do_no_harm():
    x, edges = torch.randn(MANY, generator=torch.Generator().manual_seed(0)), torch.tensor([-1.0, 1.0]).double()
    x[5] = torch.nan

    assert torch.equal(count_edges_reached(x, edges)[6:], search(x, edges)[6:])
    count_edges_reached(x, torch.tensor([torch.nan, torch.nan]).double())


def test_true_entries():
    assert true_entries(torch.tensor([False, True, True, False])).tolist() == [1, 2]
