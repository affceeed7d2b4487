"""The memory bank: rows of earlier batches, by class, to contrast with."""

from typing import Any

import torch
from torch import Tensor, nn

from fastpixcon import distributed, functional
from fastpixcon.ops import checks

__all__ = ["MemoryBank"]


class MemoryBank(nn.Module):
    """Embeddings of earlier batches, two rings a class (Wang et al. 2021, pixel and region memory).

    >>> contrast = PixelContrastLoss(memory=MemoryBank(num_classes=19, dim=256))

    A batch adds, of every class in every image, a few random pixels to the ring of pixels and the mean embedding to the
    ring of regions. A full ring overwrites its oldest rows. Empty places take no part, and rows that are not finite do
    not get in.

    Under DistributedDataParallel give the loss its process_group, and all ranks have the same bank; without, each would
    have its own, but buffers inside the wrapped module are those of rank 0 again at the next forward.

    Args:
        num_classes: K, class 0 counts like any other.
        dim: D of the embeddings.
        pixel_size: places of a class's ring of pixels.
        region_size: places of a class's ring of regions.
        pixels_per_image: pixels that an image adds to the ring of each of its classes.
        ignore_index: label that does not count, nor does a negative one.
        dtype: torch.float32, or torch.bfloat16 for half the memory and faster products; contrast with the bank is
            computed in it.

    Buffers:
        rows: [K, S, D] unit rows, S = pixel_size + region_size: pixels, then regions.
        labels: [K, S] int32, the class, -1 where a place is empty.
        written: [2, K] int64, rows that the rings of pixels and of regions have taken so far.
        seed: [] int64, advances by one an :meth:`enqueue`.
    """

    rows: Tensor
    labels: Tensor
    written: Tensor
    seed: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        pixel_size: int = 5000,
        region_size: int = 5000,
        pixels_per_image: int = 10,
        ignore_index: int = 255,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "dim": dim, "pixel_size": pixel_size, "region_size": region_size}
        for name, value in {**sizes, "pixels_per_image": pixels_per_image}.items():
            checks.positive_int(name, value)
        checks.whole_number("ignore_index", ignore_index)
        if dtype not in (torch.float32, torch.bfloat16, torch.float64):
            raise ValueError(f"dtype: got {dtype}, want torch.float32 or torch.bfloat16")
        self.num_classes = num_classes
        self.dim = dim
        self.pixel_size = pixel_size
        self.region_size = region_size
        self.pixels_per_image = pixels_per_image
        self.ignore_index = ignore_index
        places = pixel_size + region_size
        self.register_buffer("rows", torch.zeros(num_classes, places, dim, dtype=dtype))
        self.register_buffer("labels", torch.full((num_classes, places), -1, dtype=torch.int32))
        self.register_buffer("written", torch.zeros(2, num_classes, dtype=torch.int64))
        self.register_buffer("seed", torch.tensor(torch.initial_seed() % 2**63, dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, labels: Tensor, *, process_group: Any = None) -> None:
        """Adds a batch.

        Args:
            embeddings: [B, D, h, w] floating, of any norm; detached here.
            labels: [B, H, W] integers, brought to [h, w] by nearest.
            process_group: every rank adds the batches of all its ranks, in the order of their ranks, so that all banks
                stay the same; the number of images may differ between ranks.

        Raises:
            TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
        """
        checks.embeddings_map(embeddings)
        if embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings: got {embeddings.shape[1]} features, want {self.dim} (dim)")
        rows = functional.memory_rows(
            embeddings.detach(),
            labels,
            num_classes=self.num_classes,
            pixels_per_image=self.pixels_per_image,
            ignore_index=self.ignore_index,
            seed=self.seed,
        )
        if process_group is not None:
            rows = distributed.gather_memory_rows(rows, process_group)
        self.enqueue_rows(*rows)
        self.seed.add_(1)

    @torch.no_grad()
    def enqueue_rows(self, pixels: Tensor, pixel_labels: Tensor, regions: Tensor, region_labels: Tensor) -> None:
        """Adds rows that are made already, without a batch of maps.

        Args:
            pixels, regions: [.., D] unit rows, rounded to the dtype of the bank.
            pixel_labels, region_labels: [..] int32, the class of each row; -1 leaves it out, and so does a row that is
                not finite: it would stay for thousands of steps.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        pixels, regions = (x.reshape(-1, self.dim) for x in (pixels, regions))
        functional.memory_enqueue_(
            self.rows,
            self.labels,
            self.written,
            self.pixel_size,
            pixels,
            _finite_only(pixels, pixel_labels.reshape(-1)),
            regions,
            _finite_only(regions, region_labels.reshape(-1)),
        )

    @torch.no_grad()
    def reset(self) -> None:
        """Empties all rings."""
        self.rows.zero_()
        self.labels.fill_(-1)
        self.written.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Refuses rings of other sizes, which can't be loaded without losing rows or their order, and counts that can't
        be, of which places in memory are made."""
        rows = state_dict.get(f"{prefix}rows")
        if isinstance(rows, Tensor) and rows.shape != self.rows.shape:
            K, S, D = rows.shape if rows.dim() == 3 else (rows.shape, "?", "?")
            raise ValueError(
                f"{prefix}rows: got a memory bank of {K} classes, {S} places a class and {D} features, want"
                f" {self.num_classes} classes, {self.pixel_size} + {self.region_size} places and {self.dim} features;"
                " a bank can't be resized: construct it with the saved sizes, or leave its entries out of the state"
            )
        written = state_dict.get(f"{prefix}written")
        if isinstance(written, Tensor) and bool(((written < 0) | (written >= 2**62)).any()):
            raise ValueError(f"{prefix}written: got {written.tolist()}, want counts in [0, 2^62)")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def get_extra_state(self) -> dict[str, int]:
        """What the shape of ``rows`` does not tell."""
        return {"pixel_size": self.pixel_size, "region_size": self.region_size}

    def set_extra_state(self, state: dict[str, int]) -> None:
        if state != self.get_extra_state():
            got = "no sizes of rings"
            if isinstance(state, dict) and state.keys() == self.get_extra_state().keys():
                got = f"rings of {state['pixel_size']} pixels and {state['region_size']} regions a class"
            raise ValueError(
                f"memory bank: got {got}, want rings of {self.pixel_size} pixels and {self.region_size} regions;"
                " a bank can't be resized"
            )

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, dim={self.dim}, pixel_size={self.pixel_size},"
            f" region_size={self.region_size}, pixels_per_image={self.pixels_per_image}, dtype={self.rows.dtype}"
        )


def _finite_only(rows: Tensor, labels: Tensor) -> Tensor:
    """``labels``, -1 where a row is not finite. Of another number than the rows they are refused after this."""
    return torch.where(rows.isfinite().all(dim=1), labels, -1) if len(rows) == len(labels) else labels
