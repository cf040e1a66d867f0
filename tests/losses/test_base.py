import pytest
import torch

from lttune.errors import InputError
from lttune.losses import build_loss
from lttune.losses.base import at_least_float32, mean_over_rows, require, rows_by_process, uniform


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


def test_rows_are_dealt_out_by_image_in_their_own_order():
    order, sizes = rows_by_process(torch.tensor([4, 0, 1, -1, 5, 0, 4]), 2)

    # Images 0 and 1 with the row of no image, no row of images 2 and 3, images 4 and 5.
    assert order.tolist() == [1, 2, 3, 5, 0, 4, 6]
    assert sizes == [4, 0, 3]


def test_no_rows_are_no_process():
    assert rows_by_process(torch.zeros(0, dtype=torch.int64), 2)[1] == []


def test_less_than_one_image_per_process_is_refused(frequencies):
    with pytest.raises(InputError, match=r"^images_per_process is 0; use at least 1, or None for all images\.$"):
        build_loss("acsl", num_classes=1, frequencies=frequencies([3]), images_per_process=0)
