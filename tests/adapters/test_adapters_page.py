"""The code blocks of docs/adapters.md run as they stand, one after the other."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmseg_here
import pytest
import torch
from library_networks import mask2former
from torch.utils.data import DataLoader, TensorDataset

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "adapters.md").read_text()
BLOCKS = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
LIBRARIES = ("torchvision", "timm", "pytorch_metric_learning", "lightning", "transformers", "accelerate", "scipy")


def what_the_page_takes_for_granted(folder: Path) -> dict[str, Any]:
    import torchvision
    import transformers

    labels = torch.arange(5).repeat_interleave(13)[:64, None].expand(64, 64).contiguous()
    images, batch = torch.rand(2, 3, 64, 64), torch.stack([labels, labels])
    small = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8}
    segmentation = torchvision.models.segmentation
    return {
        "network": segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5),
        "loader": DataLoader(TensorDataset(images, batch), batch_size=2),
        "mask2former": mask2former(transformers),
        "rows": torch.randn(20, 8),
        "row_labels": torch.arange(20) % 4,
        "others": torch.randn(30, 8),
        "other_labels": torch.arange(30) % 4,
        "trainer_options": {"accelerator": "cpu", "logger": False, "default_root_dir": folder},
        "segformer": transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(depths=[1, 1, 1, 1], num_labels=5, **small)
        ),
        "dataset": [{"pixel_values": images[0], "labels": labels}] * 4,
        "arguments": transformers.TrainingArguments(
            output_dir=str(folder), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
            eval_strategy="steps", eval_steps=2, save_strategy="no", remove_unused_columns=False, disable_tqdm=True,
        ),
    }  # fmt: skip


def run(wanted: Callable[[str], bool], names: dict[str, Any]) -> list[str]:
    """Executes the blocks of the sections; their titles."""
    ran = []
    for title, section in BLOCKS:
        for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
            if wanted(title):
                exec(compile(code, f"docs/adapters.md, {title}", "exec"), names)
                ran.append(title)
    return ran


@pytest.mark.filterwarnings("ignore")
def test_every_block_runs(tmp_path: Path) -> None:
    for library in LIBRARIES:
        pytest.importorskip(library, reason=f"{library} is not installed")
    names = what_the_page_takes_for_granted(tmp_path)
    ran = run(lambda title: title != "mmsegmentation", names)
    assert ran == ["Any network"] * 4 + ["Transformers, volumes, masks"] * 2 + [
        "pytorch-metric-learning",
        "Lightning",
        "transformers",
    ]
    assert names["loss"].isfinite()
    assert names["embeddings"].shape[:2] == (2, 256)
    assert type(names["plain"]) is type(names["network"])


@pytest.mark.filterwarnings("ignore")
def test_the_block_of_mmsegmentation_runs() -> None:
    mmseg_here.import_or_skip()
    names: dict[str, Any] = {}
    assert run(lambda title: title == "mmsegmentation", names) == ["mmsegmentation"]
    assert type(names["head"]).__name__ == "ContrastFCNHead"
    assert names["head"].contrast.contrast.max_samples == 4096
