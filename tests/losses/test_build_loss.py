import pytest
import torch

from lttune import losses
from lttune.errors import InputError
from lttune.losses import LOSSES, build_loss


def test_public_names():
    assert set(losses.__all__) == {
        "LOSSES",
        "ClassificationLoss",
        "LossHyperparameters",
        "RoiAugmenter",
        "build_loss",
    }


def test_table():
    assert sorted(LOSSES) == [
        "acsl",
        "cross_entropy",
        "ecm",
        "federated",
        "loce",
        "logit_adjustment",
        "rog",
        "seesaw",
        "sigmoid_cross_entropy",
    ]


def test_values_and_generator_arrive(frequencies):
    generator = torch.Generator()

    loss = build_loss("acsl", num_classes=2, frequencies=frequencies([3, 30]), generator=generator, score_threshold=0.4)

    assert loss.hyperparameters.score_threshold == 0.4
    assert loss.hyperparameters.background_ratio_common == 0.1
    assert loss.generator is generator


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("asl", {}, r"loss 'asl' does not exist\. Did you mean 'acsl'\?"),
        ("xyzzy", {}, r"loss 'xyzzy' does not exist\. Known: acsl, cross_entropy"),
        (
            "acsl",
            {"score_treshold": 0.5},
            r"loss 'acsl' has no hyperparameter 'score_treshold'\. .*'score_threshold'\?",
        ),
        ("cross_entropy", {"tau": 0.5}, r"loss 'cross_entropy' has no hyperparameter 'tau'\. Known: weight"),
    ],
)
def test_unknown_names_offer_the_nearest(frequencies, name, values, message):
    with pytest.raises(InputError, match=message):
        build_loss(name, num_classes=1, frequencies=frequencies([3]), **values)
