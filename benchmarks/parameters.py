"""Parameters of each architecture by part, in millions, as a Markdown table.

    python -m benchmarks.parameters [--categories 1203]

What a setting on LVIS builds: boxes class-agnostic in a cascade, of each category elsewhere; linear layers. Each is
built, which takes half a minute in all.
"""

import argparse
from collections.abc import Sequence

import torch

from lttune.detectors import ARCHITECTURES, BACKENDS, DetectorConfig
from lttune.detectors.base import PARTS
from lttune.losses import build_loss
from lttune.types import CategoryFrequencies


def parameters(name: str, num_classes: int) -> dict[str, int]:
    """Number of parameters of each part of an architecture of the detectron2 backend."""
    counts = torch.ones(num_classes, dtype=torch.int64)
    frequencies = CategoryFrequencies(image_count=counts, instance_count=counts, group=torch.zeros_like(counts))
    config = DetectorConfig(name=name, backend="detectron2", recipe="mmdet", class_agnostic_box="cascade" in name)
    detector = BACKENDS["detectron2"]()(
        config,
        num_classes=num_classes,
        make_loss=lambda: build_loss("cross_entropy", num_classes=num_classes, frequencies=frequencies),
    )
    return {part: sum(p.numel() for p in module.parameters()) for part, module in detector.parts.items()}


def table(names: Sequence[str], num_classes: int) -> str:
    """Rows of architectures, columns of parts and their sum."""
    lines = [
        f"| architecture | {' | '.join(PARTS)} | all |",
        "|---|" + "---:|" * (len(PARTS) + 1),
    ]
    for name in names:
        own = parameters(name, num_classes)
        cells = [f"{own[part] / 1e6:.2f}" if part in own else "-" for part in PARTS]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {sum(own.values()) / 1e6:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", type=int, default=1203, help="1203 of LVIS v1, 1230 of v0.5")
    names = [name for name in ARCHITECTURES["detectron2"] if not name.startswith("tiny_")]
    print(table(names, parser.parse_args().categories))


if __name__ == "__main__":
    main()
