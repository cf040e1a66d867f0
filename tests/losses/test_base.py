import pytest
import torch

from lttune.errors import InputError
from lttune.losses.base import at_least_float32, mean_over_rows, require, uniform


def test_message_names_field_value_and_advice():
    with pytest.raises(InputError) as caught:
        require(False, "tau", -1, "use 0 or more")

    assert str(caught.value) == "loss.tau is -1; use 0 or more."


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_precision(given, wanted):
    assert at_least_float32(torch.zeros(1, dtype=given)).dtype == wanted


def test_mean_of_no_rows_has_a_gradient():
    cells = torch.zeros(0, 3, requires_grad=True)

    mean_over_rows(cells, 0).backward()

    assert cells.grad.shape == (0, 3)


def test_draws_depend_on_the_generator_alone():
    first, second = (
        uniform(2, 3, generator=torch.Generator().manual_seed(1), device=torch.device("cpu")) for _ in range(2)
    )

    assert torch.equal(first, second)
    assert first.dtype == torch.float64
