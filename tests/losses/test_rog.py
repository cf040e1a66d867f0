import pytest
import torch

from lttune.errors import InputError
from lttune.losses import LOSSES, build_loss
from lttune.losses.rog import gap_loss


@pytest.fixture
def build(frequencies):
    def make(name="rog", **hyperparameters):
        return build_loss(
            name,
            num_classes=3,
            frequencies=frequencies([2, 30, 400]),
            generator=torch.Generator().manual_seed(0),
            **hyperparameters,
        )

    return make


LABELS = torch.tensor([0, 1, 2, 3, 3, 0])


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"rog"}))
def test_any_other_loss_keeps_its_terms_and_scores(build, name):
    rog, plain = build(object_loss=name), build(name)
    logits = torch.randn(6, plain.num_logits, generator=torch.Generator().manual_seed(1))

    terms, plain_terms = rog(logits, LABELS), plain(logits, LABELS)

    assert rog.num_logits == plain.num_logits
    assert terms.pop("loss_rank") == gap_loss(logits, LABELS, LABELS.bincount())
    assert terms == plain_terms
    assert torch.equal(rog.scores(logits), plain.scores(logits))
    assert (rog.augmenter is None) == (plain.augmenter is None)
    assert rog.num_warm_images == plain.num_warm_images


def test_counts_include_the_batch_and_forget_by_their_momentum(build):
    rog = build(count_momentum=0.5)

    for _ in range(2):
        rog(torch.zeros(6, 4), LABELS)

    # Per batch 2, 1, 1 and 2 of background.
    assert rog.counts.tolist() == [3.0, 1.5, 1.5, 3.0]


def test_values_reach_the_gradient(build):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    values = {"gamma": 0.5, "lam": 2.0, "delta": 0.25}
    ours, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    build(**values)(ours, LABELS)["loss_rank"].backward()
    gap_loss(expected, LABELS, LABELS.bincount(), **values).backward()

    assert torch.equal(ours.grad, expected.grad)
    assert ours.grad.abs().sum() > 0


def test_sharp_step_is_delta_0(build):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    ours, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    build(step="sharp", delta=0.7)(ours, LABELS)["loss_rank"].backward()
    gap_loss(expected, LABELS, LABELS.bincount(), delta=0.0).backward()

    assert torch.equal(ours.grad, expected.grad)


def test_each_process_ranks_its_own_cells(build):
    """The only negatives that reach the positive lie in the other image."""
    logits = torch.tensor([[3.0, -9, -9, 0], [-9, 8, -9, 0]])
    labels, image_ids = torch.tensor([0, 3]), torch.tensor([0, 1])

    whole = build()(logits, labels, image_ids=image_ids)["loss_rank"]
    apart = build(images_per_process=1)(logits, labels, image_ids=image_ids)["loss_rank"]

    assert whole == pytest.approx(1 / 1.5)
    assert apart == 0


def test_values_of_the_other_loss(build):
    rog = build(object_loss="seesaw", seesaw={"p": 0.3})

    assert rog.object_loss.hyperparameters.p == 0.3
    assert build(sigmoid_cross_entropy={"prior": 0.1}).initial_bias() is not None


def test_batch_without_foreground_has_the_same_terms(build):
    rog = build()
    logits = torch.zeros(2, 4, requires_grad=True)

    rank = rog(logits, torch.tensor([3, 3]))["loss_rank"]
    rank.backward()

    assert rank.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 4))


def test_unknown_object_loss(build):
    with pytest.raises(InputError, match=r"loss\.object_loss is seesow; .* Did you mean 'seesaw'\?"):
        build(object_loss="seesow")


def test_rog_is_not_put_on_itself(build):
    with pytest.raises(InputError, match=r"loss\.object_loss is rog"):
        build(object_loss="rog")


def test_unknown_value_of_the_other_loss(build):
    with pytest.raises(
        InputError, match=r"loss 'rog', acsl has no hyperparameter 'score_treshold'.* 'score_threshold'"
    ):
        build(acsl={"score_treshold": 0.5})
