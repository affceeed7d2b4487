"""What a batch adds to a memory bank."""

from torch import Tensor

from fastpixcon.ops import checks, maps
from fastpixcon.ops.backends import call
from fastpixcon.ops.void import Void, one_void, void_labels

__all__ = ["added_rows", "memory_enqueue_", "memory_rows"]


def memory_rows(
    embeddings: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    pixels_per_image: int = 10,
    ignore_index: Void = 255,
    seed: int | Tensor = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a batch adds to a memory bank (Wang et al. 2021, pixel and region memory). Without gradient.

    Args:
        embeddings: ``[B, D, *S]`` floating, S of one (tokens), two or three (volumes) sizes.
        labels: ``[B, *S']``, any integer dtype; brought to S by nearest.
        num_classes: K.
        pixels_per_image: P, the most random pixels of a class in an image.
        ignore_index: label, or several, that do not count, nor do negative ones.
        seed: int or [] int64 tensor on the device of labels.
        backend: "auto", "reference", "native" or "triton".

    Returns:
        pixels [B, K, P, D] and regions [B, K, D], unit rows in the dtype of embeddings; pixel_labels [B, K, P] and
        region_labels [B, K] int32, -1 where the image has no such pixel, or the row is not finite. In the order pixels,
        pixel_labels, regions, region_labels.

    Raises:
        TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
    """
    void_labels(ignore_index)  # raises
    maps.check_memory_rows(embeddings, labels, num_classes, pixels_per_image)
    return added_rows(embeddings, labels, num_classes, pixels_per_image, ignore_index, seed, backend)


def added_rows(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    pixels_per_image: int,
    ignore_index: Void,
    seed: int | Tensor,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`memory_rows` of checked arguments."""
    labels, void = one_void(maps.folded_labels(labels, embeddings.shape[2:]), ignore_index)
    seed = checks.seed_tensor(seed, labels.device)
    embeddings = maps.folded_rows(embeddings.detach(), 2)
    rows: tuple[Tensor, Tensor, Tensor, Tensor] = call(
        "memory_rows", embeddings, backend, embeddings, labels, seed, num_classes, pixels_per_image, void
    )
    return rows


def memory_enqueue_(
    bank: Tensor,
    bank_labels: Tensor,
    written: Tensor,
    pixel_size: int,
    pixels: Tensor,
    pixel_labels: Tensor,
    regions: Tensor,
    region_labels: Tensor,
    *,
    backend: str = "auto",
) -> None:
    """Writes ``pixels [P, D]`` and ``regions [R, D]`` into the rings of their labels, in place.

    Args:
        bank: [K, S, D] floating, a ring of ``pixel_size`` places and a ring of the rest for each class.
        bank_labels: [K, S] int32, becomes the class where a row is written.
        written: [2, K] int64, advances by the rows written to the rings of pixels and of regions.
        pixel_size: places of a ring of pixels, less than S.
        pixels, regions: [P, D], [R, D] floating; rounded to the dtype of the bank.
        pixel_labels, region_labels: [P], [R] int32; rows of other labels than 0..K-1 are left out.
        backend: "auto", "reference", "native" or "triton".

    Raises:
        TypeError, ValueError: naming the argument.
    """
    checks.memory_enqueue(bank, bank_labels, written, pixel_size, pixels, pixel_labels, regions, region_labels)
    rows = (pixels.detach(), pixel_labels, regions.detach(), region_labels)
    call("memory_enqueue_", bank, backend, bank, bank_labels, written, pixel_size, *rows)
