"""A trial's values as a configuration of its method's official repository, all of which are mmdetection's.

ECM, LOCE and ROG inherit: the file names a configuration of the repository as `_base_` and states what differs. A list
is replaced whole by mmcv, so a cascade's three heads are written out. ACSL's mmcv inherits nothing: see `acsl_config`.

Commits: ACSL dd84144, LOCE 0a0194d, ECM-Loss a637240, ROG 1dad3cf. `tempearture` is what these codes read.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lttune.engine.config import TrainConfig, plain
from lttune.errors import InputError
from lttune.export.acsl_config import acsl_config
from lttune.export.origin import Origin, commented, sampled_of_optimizer
from lttune.spec.parameters import Scalar

_BOX_HEAD = "model.roi_head.bbox_head"
_TEMPERATURES = (
    f"{_BOX_HEAD}.cls_predictor_cfg.tempearture",
    "model.roi_head.mask_head.predictor_cfg.tempearture",
)
# Of all four; a value may stand at several places.
_SHARED_KEYS = {
    "optim.lr": ("optimizer.lr",),
    "optim.momentum": ("optimizer.momentum",),
    "optim.weight_decay": ("optimizer.weight_decay",),
    "optim.clip_norm": ("optimizer_config.grad_clip.max_norm",),
    "schedule.drop_epochs": ("lr_config.step",),
    "schedule.warmup_iters": ("lr_config.warmup_iters",),
    "schedule.warmup_ratio": ("lr_config.warmup_ratio",),
}
# Of those with mmdetection 2.
_SHARED_KEYS_2 = _SHARED_KEYS | {
    "schedule.images_per_process": ("data.samples_per_gpu",),
    "evaluation.max_dets": ("model.test_cfg.rcnn.max_per_img",),
    "detector.score_threshold": ("model.test_cfg.rcnn.score_thr",),
}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A published configuration that a file is made from.

    Attributes:
        name: the file's, without `.py`.
        detector: what it trains, in our words.
        document: its values by top-level name, or what of it has to be written out before values are put into it.
        is_whole: whether the document is all of it, so that nothing is inherited.
        lacks: keys of the repository's other configurations that this one has no place for.
    """

    name: str
    detector: str
    document: Mapping[str, Any]
    is_whole: bool = False
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Repository:
    """An official repository: where its configurations lie and under which keys they hold our values."""

    url: str
    folder: str
    num_categories: tuple[int, ...]
    keys: Mapping[str, tuple[str, ...]]
    base: Callable[[TrainConfig, int], Base]


@dataclass(frozen=True, kw_only=True)
class MmdetConfig:
    """A configuration file, and the values that found no place in it.

    Attributes:
        file_name: below the repository.
        left_out: a line per value.
    """

    file_name: str
    text: str
    left_out: tuple[str, ...]


def mmdet_config(
    config: TrainConfig, origin: Origin, *, sampled: Mapping[str, Scalar], fixed: Mapping[str, Any]
) -> MmdetConfig:
    """The official repository's configuration with a trial's values.

    Values that were transferred are those that the search sampled and the loss's fixed ones; whatever else belongs to
    the setting they were found on. Without a transfer everything that has a key is written.

    Args:
        config: of the trial.
        sampled: its values by dotted key.
        fixed: what its search fixed, by dotted key.

    Raises:
        InputError: the method has no official repository with configurations.
    """
    if config.method not in REPOSITORIES:
        known = ", ".join(REPOSITORIES)
        raise InputError(
            f"method {config.method} has no official mmdetection repository ({known} do); use another format."
        )
    repository = REPOSITORIES[config.method]
    base = repository.base(config, origin.num_categories)
    writer = _Writer(config, repository, base, is_transferred=origin.transferred_to is not None)
    writer.write(sampled, fixed)
    left_out = tuple(writer.left_out)
    header = [
        *origin.lines(),
        f"For {repository.url}: copy this file to {repository.folder}/ of that repository.",
        *(
            ["Left out, because that repository has no key for it:"]
            if left_out
            else ["Nothing of the trial is left out."]
        ),
        *(f"  {line}" for line in left_out),
    ]
    inherited = "" if base.is_whole else f"_base_ = {f'./{base.name}.py'!r}\n\n"
    body = "\n".join(f"{name} = {_python(value)}" for name, value in writer.document.items())
    return MmdetConfig(
        file_name=f"{repository.folder}/{base.name}_lttune.py",
        text=f"{commented(header)}\n{inherited}{body}\n",
        left_out=left_out,
    )


class _Writer:
    """Puts values at their keys, and keeps a list of those that have none."""

    def __init__(self, config: TrainConfig, repository: Repository, base: Base, *, is_transferred: bool) -> None:
        self._config = config
        self._base = base
        self._is_transferred = is_transferred
        self._values = dict(_flat(config.to_dict()))
        self._keys = {key: paths for key, paths in repository.keys.items() if key not in base.lacks}
        self.document: dict[str, Any] = dict(base.document)
        self.left_out: list[str] = []

    def write(self, sampled: Mapping[str, Scalar], fixed: Mapping[str, Any]) -> None:
        asked = {key: plain(value) for key, value in {**fixed, **sampled}.items() if key != "method"}
        states_optimizer = not self._is_transferred or sampled_of_optimizer(sampled)
        stated = self._write_optimizer(asked) if states_optimizer else set()
        if self._is_transferred:
            others = [key for key in fixed if not (key in sampled or key in stated or key.startswith("loss."))]
            self.left_out += [f"{key} = {asked.pop(key)}: of the setting the values were found on" for key in others]
        else:
            asked = {**self._of_the_setting(), **asked}
        asked = {**{key: self._values[key] for key in self._keys if key.startswith("loss.")}, **asked}
        for key, value in asked.items():
            if key not in stated:
                self._write(key, value)
        name = self._config.detector.name
        if name != self._base.detector:
            self.left_out.append(
                f"detector.name = {name}: the nearest that the repository has is {self._base.detector}"
            )

    def _of_the_setting(self) -> dict[str, Any]:
        """What the trial ran with, as far as the repository has keys for it or would do otherwise."""
        config, values = self._config, {key: self._values[key] for key in self._keys}
        if not config.detector.normed_classifier:
            values.pop("detector.temperature", None)
        if config.schedule.policy != "steps":
            values = {
                key: value for key, value in values.items() if not key.startswith(("schedule.drop", "schedule.warm"))
            }
            values["schedule.policy"] = config.schedule.policy
        elif config.schedule.drop_factor != 0.1:
            values["schedule.drop_factor"] = config.schedule.drop_factor
        if config.sampler.name == "uniform":
            values.pop("sampler.threshold", None)
        if ("sampler.threshold" in self._keys) != (config.sampler.name == "repeat"):
            values["sampler.name"] = config.sampler.name
        return {**values, "schedule.batch_size": config.schedule.batch_size}

    def _write_optimizer(self, asked: Mapping[str, Any]) -> set[str]:
        """State the optimiser whole, since its values mean something with it only; gives the keys that are done."""
        optim = self._config.optim
        whole: dict[str, Any] = {"type": {"sgd": "SGD", "adamw": "AdamW"}[optim.name], "lr": optim.lr}
        if optim.name == "sgd":
            whole["momentum"] = optim.momentum
        whole["weight_decay"] = optim.weight_decay
        # mmcv merges with the base's values, and cannot merge into its None.
        deleting = {} if self._base.is_whole else {"_delete_": True}
        self.document["optimizer"] = {**deleting, **whole}
        done = {f"optim.{name}" for name in ("name", "lr", "weight_decay", "momentum")}  # AdamW has no momentum
        if not self._is_transferred or "optim.clip_norm" in asked:
            clip = None if optim.clip_norm is None else {"max_norm": optim.clip_norm, "norm_type": 2}
            self.document["optimizer_config"] = {**deleting, "grad_clip": clip}
            done.add("optim.clip_norm")
        return done

    def _write(self, key: str, value: Any) -> None:
        paths = self._keys.get(key, ())
        if key == "recipe.parts" and (found := _selectp(self._config, value)) is not None:
            paths, value = ("selectp",), found
        elif (key, value) in (("loss.object_loss", _object_loss_of(self._base)), ("schedule.images_per_process", None)):
            return
        elif key == "schedule.batch_size":
            self.left_out.append(f"{key} = {value}: there it is GPUs times images per GPU; start as many as give it")
            return
        if not paths:
            self.left_out.append(f"{key} = {value}")
        for path in paths:
            _put(self.document, path, value)


def _selectp(config: TrainConfig, parts: Any) -> int | None:
    """ACSL's and LOCE's switch of what trains; None where it has no such setting."""
    named = parts if parts == "all" else set(parts.split(",") if isinstance(parts, str) else parts)
    if config.method == "acsl":
        is_cascade = config.detector.name.startswith("cascade")
        return 0 if named == "all" else (3 if is_cascade else 1) if named == {"classifier"} else None
    if config.method == "loce":
        published = {"classifier", "box_regressor", "rpn", "mask_head"}
        return 0 if named == "all" else 1 if named == published else None
    return 0 if named == "all" and config.method in {"ecm", "rog"} else None


def _object_loss_of(base: Base) -> str:
    return "seesaw" if "seesaw" in base.name else "sigmoid_cross_entropy"


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a dotted path, in every element where the path meets a list."""
    *parents, last = path.split(".")
    nodes: list[dict[str, Any]] = [document]
    for name in parents:
        found = [node.setdefault(name, {}) for node in nodes]
        nodes = [element for one in found for element in (one if isinstance(one, list) else [one])]
    for node in nodes:
        node[last] = value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _python(value: Any, indent: int = 0) -> str:
    """A plain value as Python source, dictionaries as calls of `dict`, as mmdetection writes them."""
    inner, outer = " " * (indent + 4), " " * indent
    if isinstance(value, Mapping) and value:
        items = "".join(f"{inner}{name}={_python(item, indent + 4)},\n" for name, item in value.items())
        return f"dict(\n{items}{outer})"
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = "".join(f"{inner}{_python(item, indent + 4)},\n" for item in value)
        return f"[\n{items}{outer}]"
    return repr(value)


# ---- which published configuration a trial is nearest to


def _backbone(config: TrainConfig) -> str:
    name = config.detector.name
    return "x101" if "x101" in name else "r101" if "101" in name else "r50"


def _is_cascade(config: TrainConfig) -> bool:
    return config.detector.name.startswith("cascade")


def _acsl_base(config: TrainConfig, num_categories: int) -> Base:
    is_cascade = _is_cascade(config)
    backbone = _backbone(config)
    if is_cascade and backbone == "r50":
        backbone = "r101"
    name = f"{'cascade' if is_cascade else 'faster'}_rcnn_{'x101_64x4d' if backbone == 'x101' else backbone}_fpn"
    return Base(
        name=f"{name}_1x_lvis_tunefc_acsl",
        detector=name,
        document=acsl_config(backbone, is_cascade=is_cascade),
        is_whole=True,
    )


def _loce_base(config: TrainConfig, num_categories: int) -> Base:
    backbone, data = _backbone(config), "v0.5" if num_categories == 1230 else "v1"
    if backbone == "x101" or data == "v0.5":
        backbone = "r50" if data == "v0.5" else "r101"
    return Base(
        name=f"loce_mask_rcnn_{backbone}_fpn_normed_mask_mstrain_2x_lvis_{data}",
        detector=f"mask_rcnn_{backbone}_fpn",
        document={},
    )


def _ecm_base(config: TrainConfig, num_categories: int) -> Base:
    if _is_cascade(config):
        heads = [_ecm_cascade_head(stds) for stds in _CASCADE_STDS]
        document = {"model": {"roi_head": {"bbox_head": heads}}}
        return Base(name="c101_ecm_2x", detector="cascade_mask_rcnn_r101_fpn", document=document)
    if _backbone(config) != "r50":
        return Base(name="r101_ecm_2x", detector="mask_rcnn_r101_fpn", document={})
    return Base(
        name="r50_ecm_2x" if config.schedule.epochs > 12 else "r50_ecm_1x", detector="mask_rcnn_r50_fpn", document={}
    )


def _rog_base(config: TrainConfig, num_categories: int) -> Base:
    if getattr(config.loss, "object_loss", None) != "seesaw":
        # Linear layers and a loss without values.
        lacks = ("loss.seesaw.p", "loss.seesaw.q", "detector.temperature")
        return Base(name="rog_r50_sample1e-3_1x", detector="mask_rcnn_r50_fpn", document={}, lacks=lacks)
    backbone = "r50" if _backbone(config) == "r50" else "r101"
    return Base(name=f"rog_seesaw_{backbone}_sample1e-3_2x", detector=f"mask_rcnn_{backbone}_fpn", document={})


_CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def _ecm_cascade_head(stds: tuple[float, ...]) -> dict[str, Any]:
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": 256,
        "fc_out_channels": 1024,
        "roi_feat_size": 7,
        "num_classes": 1203,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": list(stds)},
        "reg_class_agnostic": True,
        "cls_predictor_cfg": {"type": "NormedLinear", "tempearture": 20},
        "loss_cls": {
            "type": "EffectiveClassMarginLoss",
            "use_sigmoid": True,
            "fg_bg_ratio": 6.3313,
            "num_classes": 1203,
            "loss_weight": 1.0,
        },
        "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0},
    }


_MFS = "model.train_cfg.rcnn.mfs"

REPOSITORIES: Mapping[str, Repository] = MappingProxyType(
    {
        "acsl": Repository(
            url="github.com/CASIA-IVA-Lab/ACSL",
            folder="configs/acsl",
            num_categories=(1230,),
            keys=_SHARED_KEYS
            | {
                "loss.score_threshold": ("model.bbox_head.loss_cls.score_thr",),
                "schedule.epochs": ("total_epochs",),
                "schedule.images_per_process": ("data.imgs_per_gpu",),
                "evaluation.max_dets": ("test_cfg.rcnn.max_per_img",),
                "detector.score_threshold": ("test_cfg.rcnn.score_thr",),
            },
            base=_acsl_base,
        ),
        "loce": Repository(
            url="github.com/fcjian/LOCE",
            folder="configs/loce",
            num_categories=(1203, 1230),
            keys=_SHARED_KEYS_2
            | {
                "loss.momentum": ("model.train_cfg.rcnn.alpha",),
                "loss.background_score": ("model.train_cfg.rcnn.bg_score",),
                "loss.queue_size": (f"{_MFS}.queue_size",),
                "loss.num_drawn_classes": (f"{_MFS}.sampled_num_classes",),
                "loss.num_drawn_features": (f"{_MFS}.sampled_num_features",),
                "schedule.epochs": ("total_epochs",),
            },
            base=_loce_base,
        ),
        "ecm": Repository(
            url="github.com/janghyuncho/ECM-Loss",
            folder="configs/effective_class_margin_loss",
            num_categories=(1203,),
            keys=_SHARED_KEYS_2
            | {
                "loss.fg_bg_ratio": (f"{_BOX_HEAD}.loss_cls.fg_bg_ratio",),
                "detector.temperature": _TEMPERATURES,
                "schedule.epochs": ("runner.max_epochs",),
                "sampler.threshold": ("data.train.oversample_thr",),
            },
            base=_ecm_base,
        ),
        "rog": Repository(
            url="github.com/EricZsy/ROG",
            folder="configs/rog",
            num_categories=(1203,),
            keys=_SHARED_KEYS_2
            | {
                "loss.gamma": (f"{_BOX_HEAD}.gamma",),
                "loss.lam": (f"{_BOX_HEAD}.lam",),
                "loss.seesaw.p": (f"{_BOX_HEAD}.loss_cls.p",),
                "loss.seesaw.q": (f"{_BOX_HEAD}.loss_cls.q",),
                "detector.temperature": _TEMPERATURES,
                "schedule.epochs": ("runner.max_epochs",),
                "sampler.threshold": ("data.train.oversample_thr",),
            },
            base=_rog_base,
        ),
    }
)
