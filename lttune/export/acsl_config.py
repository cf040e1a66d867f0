"""The published configurations of ACSL (CASIA-IVA-Lab/ACSL dd84144), whole.

Its mmcv 0.2.14 knows no `_base_`, so a configuration for it states everything. These are the values of the five files
`configs/acsl/*_1x_lvis_tunefc_acsl.py`, as plain dicts.
"""

from typing import Any

_CASCADE_IOUS = (0.5, 0.6, 0.7)
_CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
# Initial weights: the softmax baselines of the same repository.
_BASELINES = {
    ("r50", False): "R50-baseline.pth",
    ("r101", False): "R101-baseline.pth",
    ("x101", False): "X101-baseline.pth",
    ("r101", True): "Cas-R101-baseline.pth",
    ("x101", True): "Cas-X101-baseline.pth",
}


def acsl_config(backbone: str, *, is_cascade: bool) -> dict[str, Any]:
    """The published configuration by top-level name.

    Args:
        backbone: `r50`, `r101` or `x101`; a cascade has no `r50`.
        is_cascade: Cascade instead of Faster R-CNN.
    """
    return {
        "model": _model(backbone, is_cascade=is_cascade),
        "train_cfg": _train_cfg(is_cascade=is_cascade),
        "test_cfg": _test_cfg(backbone, is_cascade=is_cascade),
        **_data(),
        "optimizer": {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4},
        "optimizer_config": {"grad_clip": {"max_norm": 35, "norm_type": 2}},
        "lr_config": {
            "policy": "step",
            "warmup": "linear",
            "warmup_iters": 500,
            "warmup_ratio": 1 / 3,
            "step": [8, 11],
        },
        "checkpoint_config": {"interval": 1},
        "log_config": {"interval": 50, "hooks": [{"type": "TextLoggerHook"}]},
        "total_epochs": 12,
        "dist_params": {"backend": "nccl"},
        "log_level": "INFO",
        "load_from": f"./data/download_models/{_BASELINES[backbone, is_cascade]}",
        "resume_from": None,
        "workflow": [("train", 1)],
        # What trains: 0 everything, 1 the classifier, 3 the classifiers of a cascade.
        "selectp": 3 if is_cascade else 1,
    }


def _model(backbone: str, *, is_cascade: bool) -> dict[str, Any]:
    depth = 50 if backbone == "r50" else 101
    body: dict[str, Any] = {
        "type": "ResNet",
        "depth": depth,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "frozen_stages": 1,
        "style": "pytorch",
    }
    if backbone == "x101":
        body |= {"type": "ResNeXt", "groups": 64, "base_width": 4}
    heads = [_box_head(stds, is_class_agnostic=is_cascade) for stds in _CASCADE_STDS]
    return {
        "type": "CascadeRCNN" if is_cascade else "FasterRCNN",
        **({"num_stages": 3} if is_cascade else {}),
        "pretrained": "open-mmlab://resnext101_64x4d" if backbone == "x101" else f"torchvision://resnet{depth}",
        "backbone": body,
        "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256, "num_outs": 5},
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": 256,
            "feat_channels": 256,
            "anchor_scales": [8],
            "anchor_ratios": [0.5, 1.0, 2.0],
            "anchor_strides": [4, 8, 16, 32, 64],
            "target_means": [0.0] * 4,
            "target_stds": [1.0] * 4,
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "SmoothL1Loss", "beta": 1 / 9, "loss_weight": 1.0},
        },
        "bbox_roi_extractor": {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "out_size": 7, "sample_num": 2},
            "out_channels": 256,
            "featmap_strides": [4, 8, 16, 32],
        },
        "bbox_head": heads if is_cascade else heads[0],
    }


def _box_head(stds: tuple[float, ...], *, is_class_agnostic: bool) -> dict[str, Any]:
    return {
        "type": "SharedFCBBoxHead",
        "num_fcs": 2,
        "in_channels": 256,
        "fc_out_channels": 1024,
        "roi_feat_size": 7,
        "num_classes": 1231,  # of LVIS v0.5, background among them
        "target_means": [0.0] * 4,
        "target_stds": list(stds),
        "reg_class_agnostic": is_class_agnostic,
        "loss_cls": {"type": "ACSL", "score_thr": 0.7},
        "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0},
    }


def _train_cfg(*, is_cascade: bool) -> dict[str, Any]:
    stages = [
        {
            "assigner": _assigner(iou, iou, iou),
            "sampler": _sampler(512, 0.25, adds_targets=True),
            "pos_weight": -1,
            "debug": False,
        }
        for iou in _CASCADE_IOUS
    ]
    return {
        "rpn": {
            "assigner": _assigner(0.7, 0.3, 0.3),
            "sampler": _sampler(256, 0.5, adds_targets=False),
            "allowed_border": 0,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": _proposals(2000),
        "rcnn": stages if is_cascade else stages[0],
        **({"stage_loss_weights": [1, 0.5, 0.25]} if is_cascade else {}),
    }


def _test_cfg(backbone: str, *, is_cascade: bool) -> dict[str, Any]:
    return {
        "rpn": _proposals(1000),
        "rcnn": {
            "score_thr": 0.001 if is_cascade else 0.0,
            "use_sigmoid": True,
            "nms": {"type": "nms", "iou_thr": 0.5},
            "max_per_img": 300,
        },
        **({"keep_all_stages": backbone == "r101"} if is_cascade else {}),
    }


def _assigner(positive: float, negative: float, lowest: float) -> dict[str, Any]:
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": lowest,
        "ignore_iof_thr": -1,
    }


def _sampler(number: int, share: float, *, adds_targets: bool) -> dict[str, Any]:
    return {
        "type": "RandomSampler",
        "num": number,
        "pos_fraction": share,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": adds_targets,
    }


def _proposals(number: int) -> dict[str, Any]:
    return {
        "nms_across_levels": False,
        "nms_pre": number,
        "nms_post": number,
        "max_num": number,
        "nms_thr": 0.7,
        "min_bbox_size": 0,
    }


def _data() -> dict[str, Any]:
    normalise: dict[str, Any] = {
        "type": "Normalize",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "to_rgb": True,
    }
    pad: dict[str, Any] = {"type": "Pad", "size_divisor": 32}
    train: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "Resize", "img_scale": (1333, 800), "keep_ratio": True},
        {"type": "RandomFlip", "flip_ratio": 0.5},
        normalise,
        pad,
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels"]},
    ]
    each: list[dict[str, Any]] = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "RandomFlip"},
        normalise,
        pad,
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    test: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "MultiScaleFlipAug", "img_scale": (1333, 800), "flip": False, "transforms": each},
    ]

    def split(name: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "type": "LvisDataset",
            "ann_file": f"data/lvis/lvis_v0.5_{name}.json",
            "img_prefix": f"data/lvis/{name}2017/",
            "pipeline": pipeline,
        }

    return {
        "dataset_type": "LvisDataset",
        "data_root": "data/lvis/",
        "data": {
            "imgs_per_gpu": 2,
            "workers_per_gpu": 2,
            "train": split("train", train),
            "val": split("val", test),
            "test": split("val", test),
        },
    }
