"""The methods as Ray trainables, each with what its authors train."""

from lttune.tuning.trainable import MethodTrainable
from trainables.acsl import AcslTrainable
from trainables.baseline import BaselineTrainable
from trainables.ecm import EcmTrainable
from trainables.loce import LoceTrainable
from trainables.rog import RogTrainable
from trainables.seesaw import SeesawTrainable

TRAINABLES: dict[str, type[MethodTrainable]] = {
    "acsl": AcslTrainable,
    "cross_entropy": BaselineTrainable,
    "ecm": EcmTrainable,
    "federated": BaselineTrainable,
    "loce": LoceTrainable,
    "logit_adjustment": BaselineTrainable,
    "rog": RogTrainable,
    "seesaw": SeesawTrainable,
    "sigmoid_cross_entropy": BaselineTrainable,
}
