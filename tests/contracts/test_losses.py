"""What every loss promises, over every row of `LOSSES`; see `lttune/losses/base.py`."""

import copy
import math
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lttune.errors import InputError
from lttune.losses import LOSSES, build_loss
from lttune.types import CategoryFrequencies

NUM_CLASSES = 6
# A category without images, one of each group, and two more.
IMAGES = (0, 3, 40, 500, 7, 200)
DRAWING = {"acsl", "federated"}
# Their gradients are prescribed (GAP) or leave a factor out (Seesaw's compensation): not derivatives.
NO_DERIVATIVE = {"rog", "seesaw"}
# Terms that are taken of each process apart; all others are of the whole batch.
TERMS_OF_A_PROCESS = {
    "acsl": {"loss_cls"},
    "federated": {"loss_cls"},
    "rog": {"loss_rank"},
    "seesaw": {"loss_classes", "loss_objectness"},
}
# Three rows each of four images, not in order.
IMAGE_IDS = torch.tensor([0, 3, 1, 2, 0, 1, 2, 3, 3, 2, 0, 1])
every_loss = pytest.mark.parametrize("name", sorted(LOSSES))
few_examples = settings(max_examples=10, deadline=None)


def build(name, images=IMAGES, **hyperparameters):
    image_count = torch.tensor(images)
    frequencies = CategoryFrequencies(
        image_count=image_count,
        instance_count=3 * image_count,
        group=(image_count > 10).long() + (image_count > 100).long(),
        repeated_instance_count=3.5 * image_count.double(),
    )
    generator = torch.Generator().manual_seed(0)
    return build_loss(name, num_classes=len(images), frequencies=frequencies, generator=generator, **hyperparameters)


def batch(loss, num_rows=12, seed=0, dtype=torch.float64):
    """Logits, labels with about half background, and instances of one or two RoIs."""
    generator = torch.Generator().manual_seed(seed)
    num_classes = loss.num_classes
    logits = torch.randn(num_rows, loss.num_logits, dtype=torch.float64, generator=generator).to(dtype)
    categories = torch.randint(num_classes, (num_rows,), generator=generator)
    instance_ids = torch.arange(num_rows) // 2
    is_foreground = instance_ids % 2 == 0
    labels = categories[instance_ids].where(is_foreground, num_classes)
    return logits.requires_grad_(), labels, instance_ids.where(is_foreground, -1)


def total(terms):
    return torch.stack(list(terms.values())).sum()


def gradient(loss, logits, labels, instance_ids):
    value = total(loss(logits, labels, instance_ids=instance_ids))
    return value.detach(), torch.autograd.grad(value, logits)[0]


@every_loss
def test_terms_are_named_finite_scalars(name):
    loss = build(name)
    logits, labels, instance_ids = batch(loss)

    terms = loss(logits, labels, instance_ids=instance_ids)

    assert terms
    for term, value in terms.items():
        assert term.startswith("loss_")
        assert value.shape == ()
        assert value.isfinite()
        assert value > 0


@every_loss
def test_width_holds_every_category_and_background(name):
    loss = build(name)
    bias = loss.initial_bias()

    assert loss.num_logits > NUM_CLASSES
    assert bias is None or bias.shape == (loss.num_logits,)
    assert loss.scope in {"process", "global"}


@every_loss
def test_no_rows_give_zero_with_a_gradient(name):
    loss = build(name)
    logits, labels, instance_ids = batch(loss, num_rows=0)

    value, slope = gradient(loss, logits, labels, instance_ids)

    assert value == 0
    assert slope.shape == (0, loss.num_logits)


@every_loss
@pytest.mark.parametrize("label", [0, NUM_CLASSES], ids=["only foreground", "only background"])
def test_one_kind_of_row(name, label):
    loss = build(name)
    logits, labels, _ = batch(loss)
    labels = torch.full_like(labels, label)

    value, slope = gradient(loss, logits, labels, torch.full_like(labels, -1))

    assert value.isfinite()
    assert slope.isfinite().all()


@every_loss
def test_one_category(name):
    loss = build(name, images=(5,))
    logits, labels, instance_ids = batch(loss)

    value, slope = gradient(loss, logits, labels, instance_ids)

    assert value.isfinite()
    assert slope.isfinite().all()
    assert loss.scores(logits).shape == (12, 1)


@every_loss
def test_category_without_images_trains(name):
    loss = build(name)
    logits, labels, instance_ids = batch(loss)
    labels = torch.zeros_like(labels)

    value, slope = gradient(loss, logits, labels, instance_ids)

    assert value.isfinite()
    assert (slope[:, 0] < 0).all()


@every_loss
def test_instance_ids_are_optional(name):
    loss = build(name)
    logits, labels, _ = batch(loss)

    assert total(loss(logits, labels)).isfinite()


@every_loss
@pytest.mark.parametrize("images_per_process", [4, 100])
def test_one_process_that_has_every_image_is_the_whole_batch(name, images_per_process):
    whole, loss = build(name), build(name, images_per_process=images_per_process)
    logits, labels, instance_ids = batch(loss)

    expected = whole(logits, labels, instance_ids=instance_ids)
    terms = loss(logits, labels, instance_ids=instance_ids, image_ids=IMAGE_IDS)

    assert terms == expected
    assert torch.equal(*(torch.autograd.grad(total(own), logits, retain_graph=True)[0] for own in (terms, expected)))


@every_loss
def test_processes_are_taken_apart_and_averaged(name):
    loss, whole, apart = build(name, images_per_process=2), build(name), build(name)
    logits, labels, instance_ids = batch(loss)

    terms = loss(logits, labels, instance_ids=instance_ids, image_ids=IMAGE_IDS)
    expected = whole(logits, labels, instance_ids=instance_ids)
    # Statistics of the whole batch first; the processes then only read them.
    apart.load_state_dict(whole.state_dict())
    first, second = (apart.eval()(logits[rows], labels[rows]) for rows in (IMAGE_IDS < 2, IMAGE_IDS >= 2))
    for term in TERMS_OF_A_PROCESS.get(name, set()):
        expected[term] = (first[term] + second[term]) / 2

    assert terms == expected
    slopes = [torch.autograd.grad(total(own), logits, retain_graph=True)[0] for own in (terms, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-15)


@every_loss
def test_processes_share_statistics_that_count_each_row_once(name):
    loss, whole = build(name, images_per_process=1), build(name)
    logits, labels, instance_ids = batch(loss)

    loss(logits, labels, instance_ids=instance_ids, image_ids=IMAGE_IDS)
    whole(logits, labels, instance_ids=instance_ids)

    assert loss.state_dict().keys() == whole.state_dict().keys()
    for key, value in whole.state_dict().items():
        assert torch.equal(loss.state_dict()[key], value), key


@every_loss
def test_process_without_rows_counts_as_nothing(name):
    loss, other = build(name, images_per_process=1).eval(), build(name, images_per_process=1).eval()
    logits, labels, _ = batch(loss)

    alone = other(logits, labels, image_ids=torch.zeros_like(labels))
    terms = loss(logits, labels, image_ids=torch.ones_like(labels))  # none of image 0

    for term, value in terms.items():
        share = 0.5 if term in TERMS_OF_A_PROCESS.get(name, set()) else 1
        assert value == share * alone[term], term


@every_loss
def test_processes_need_the_images_of_the_rows(name):
    loss = build(name, images_per_process=2)

    if name in TERMS_OF_A_PROCESS:
        with pytest.raises(InputError, match=r"images_per_process is 2, but the loss was called without image_ids; .*"):
            loss(*batch(loss)[:2])
    else:
        assert total(loss(*batch(loss)[:2])).isfinite()


@every_loss
def test_bytes_of_the_state_are_those_of_a_checkpoint(name):
    loss = build(name)

    assert loss.state_bytes == sum(value.nbytes for value in loss.state_dict().values())
    assert (loss.state_bytes > 0) == bool(loss.state_dict())


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(name, dtype):
    loss, reference = build(name), build(name)
    logits, labels, instance_ids = batch(loss, dtype=dtype)

    terms = loss(logits, labels, instance_ids=instance_ids)
    expected = reference(logits.float(), labels, instance_ids=instance_ids)

    assert {term: value.dtype for term, value in terms.items()} == dict.fromkeys(terms, torch.float32)
    assert terms == expected
    assert loss.scores(logits).dtype == torch.float32
    assert torch.autograd.grad(total(terms), logits)[0].dtype == dtype


@every_loss
def test_float64_stays(name):
    loss = build(name)
    logits, labels, instance_ids = batch(loss)

    terms = loss(logits, labels, instance_ids=instance_ids)

    assert {value.dtype for value in terms.values()} == {torch.float64}
    assert loss.scores(logits).dtype == torch.float64


@every_loss
def test_gradient_is_the_derivative(name):
    if name in NO_DERIVATIVE:
        logits, labels, instance_ids = batch(build(name))
        assert not torch.autograd.gradcheck(
            lambda z: total(build(name)(z, labels, instance_ids=instance_ids)), logits, raise_exception=False
        )
        return
    loss = build(name).eval()
    logits, labels, instance_ids = batch(loss, num_rows=6)

    def value(z):
        loss.generator.manual_seed(0)
        return total(loss(z, labels, instance_ids=instance_ids))

    assert torch.autograd.gradcheck(value, logits)


@every_loss
def test_falls_over_thirty_steps_on_one_batch(name):
    loss = build(name)
    logits, labels, instance_ids = batch(loss, num_rows=24)

    values = []
    for _ in range(30):
        value, slope = gradient(loss, logits, labels, instance_ids)
        values.append(value)
        logits = (logits - 10 * slope).detach().requires_grad_()

    assert values[-1] < 0.5 * values[0]


@every_loss
@few_examples
@given(
    seed=st.integers(0, 1000),
    magnitude=st.sampled_from([1e2, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_huge_logits_stay_finite(name, seed, magnitude, dtype):
    loss = build(name)
    logits, labels, instance_ids = batch(loss, seed=seed, dtype=dtype)
    logits = (magnitude * logits.detach().sign()).requires_grad_()

    value, slope = gradient(loss, logits, labels, instance_ids)
    scores = loss.scores(logits)

    assert value.isfinite()
    assert slope.isfinite().all()
    assert ((scores >= 0) & (scores <= 1)).all()


@every_loss
@few_examples
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 30))
def test_scores_are_of_categories_and_lie_in_0_1(name, seed, scale):
    loss = build(name)
    logits = scale * batch(loss, seed=seed, dtype=torch.float32)[0]

    scores = loss.scores(logits)

    assert scores.shape == (12, NUM_CLASSES)
    assert ((scores >= 0) & (scores <= 1)).all()


@every_loss
@few_examples
@given(seed=st.integers(0, 1000))
def test_order_of_rows_does_not_matter(name, seed):
    loss, shuffled = build(name), build(name)
    logits, labels, instance_ids = batch(loss, seed=seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    generator_before = loss.generator.get_state()

    value, slope = gradient(loss, logits, labels, instance_ids)
    other, other_slope = gradient(shuffled, logits[order], labels[order], instance_ids[order])

    draws = not torch.equal(loss.generator.get_state(), generator_before)
    assert draws == (name in DRAWING)
    if name != "acsl":  # its draw is of rows
        torch.testing.assert_close(other, value)
        torch.testing.assert_close(other_slope, slope[order])


@every_loss
def test_same_generator_gives_the_same(name):
    values = []
    for _ in range(2):
        loss = build(name)
        values.append(loss(*batch(loss)[:2]))

    assert values[0] == values[1]


@every_loss
def test_global_generator_is_left_alone(name):
    loss = build(name)
    before = torch.get_rng_state()

    loss(*batch(loss)[:2])

    assert torch.equal(torch.get_rng_state(), before)


@every_loss
def test_statistics_move_in_training_mode_only(name):
    loss = build(name)
    logits, labels, instance_ids = batch(loss)
    start = copy.deepcopy(loss.state_dict())

    loss.eval()(logits, labels, instance_ids=instance_ids)
    still = copy.deepcopy(loss.state_dict())
    loss.train()(logits, labels, instance_ids=instance_ids)
    moved = loss.state_dict()

    for key in start:
        assert torch.equal(start[key], still[key]), key
        assert not torch.equal(start[key], moved[key]), key


@every_loss
def test_restored_state_continues_to_the_bit(name):
    loss, restored = build(name), build(name)
    for seed in range(3):
        logits, labels, instance_ids = batch(loss, seed=seed)
        loss(logits, labels, instance_ids=instance_ids)

    restored.load_state_dict(copy.deepcopy(loss.state_dict()))
    restored.generator.set_state(loss.generator.get_state())

    for seed in range(3, 6):
        logits, labels, instance_ids = batch(loss, seed=seed)
        value, slope = gradient(loss, logits, labels, instance_ids)
        other, other_slope = gradient(restored, logits, labels, instance_ids)
        assert torch.equal(value, other)
        assert torch.equal(slope, other_slope)


@every_loss
def test_statistics_carry_no_graph(name):
    loss = build(name)
    loss(*batch(loss)[:2])

    assert not any(buffer.requires_grad for buffer in loss.buffers())


@every_loss
def test_hyperparameters_are_frozen(name):
    kind = LOSSES[name].Hyperparameters
    values = kind()

    assert is_dataclass(kind)
    assert hash(values) == hash(kind())
    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(values, field.name, None)


@every_loss
def test_plain_values_build_the_same_loss(name):
    values = LOSSES[name].Hyperparameters()

    assert build(name, **asdict(values)).hyperparameters == values


def bad_values():
    for name, loss in sorted(LOSSES.items()):
        for field in fields(loss.Hyperparameters):
            default = getattr(loss.Hyperparameters(), field.name)
            if isinstance(default, bool) or is_dataclass(default):
                continue
            bad = (
                ["nonsense"]
                if isinstance(default, str)
                else [-1, math.nan]
                if isinstance(default, int)
                else [-1.0, math.nan, math.inf]
            )
            for value in bad:
                yield pytest.param(name, field.name, value, id=f"{name}-{field.name}-{value}")


@pytest.mark.parametrize(("name", "field", "value"), list(bad_values()))
def test_bad_values_name_their_field(name, field, value):
    with pytest.raises(InputError, match=rf"^loss\.{field} is {value}; .*\.$"):
        build(name, **{field: value})
