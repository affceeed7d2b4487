"""The memory bank: rows of earlier batches, by class, to contrast with."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastpixcon import distributed
from fastpixcon.functional.bank import added_rows
from fastpixcon.ops import checks, maps
from fastpixcon.ops.backends import call
from fastpixcon.ops.calls import computed_anew, draw_seed
from fastpixcon.ops.void import Void, void_labels

__all__ = ["MemoryBank"]

_ROOM = 8  # images whose rows may wait, to begin with
_OLD_STATE = ("seed",)  # what states of earlier versions have besides


class MemoryBank(nn.Module):
    """Embeddings of earlier batches, two rings a class (Wang et al. 2021, pixel and region memory).

    >>> contrast = PixelContrastLoss(memory=MemoryBank(num_classes=19, dim=256))

    A batch adds, of every class in every image, a few random pixels to the ring of pixels and the mean embedding to the
    ring of regions. A full ring overwrites its oldest rows. Empty places take no part, and rows that are not finite do
    not get in.

    What a loss adds waits beside the rings until the next call begins (or the ``state_dict`` is taken, or
    :meth:`flush`): a forward that is computed anew for its backward, as under ``torch.utils.checkpoint``, meets the
    bank that it met before, and adds nothing twice.

    Under DistributedDataParallel give the loss its process_group, and all ranks have the same bank; without, each would
    have its own, but buffers inside the wrapped module are those of rank 0 again at the next forward.

    Args:
        num_classes: K, class 0 counts like any other.
        dim: D of the embeddings.
        pixel_size: places of a class's ring of pixels.
        region_size: places of a class's ring of regions.
        pixels_per_image: pixels that an image adds to the ring of each of its classes.
        ignore_index: label, or several, that do not count, nor do negative ones.
        dtype: torch.float32, or torch.bfloat16 for half the memory and faster products; contrast with the bank is
            computed in it.

    Buffers:
        rows: [K, S, D] unit rows, S = pixel_size + region_size: pixels, then regions.
        labels: [K, S] int32, the class, -1 where a place is empty.
        written: [2, K] int64, rows that the rings of pixels and of regions have taken so far.

    Not in the state_dict: where the last call's rows wait, ``waiting_pixels`` [B, K, P, D], ``waiting_regions``
    [B, K, D] and ``waiting_labels`` [B * K * (P + 1)], of pixels, then of regions; ``waiting_seed`` [], its number.
    """

    rows: Tensor
    labels: Tensor
    written: Tensor
    waiting_pixels: Tensor
    waiting_regions: Tensor
    waiting_labels: Tensor
    waiting_seed: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        pixel_size: int = 5000,
        region_size: int = 5000,
        pixels_per_image: int = 10,
        ignore_index: Void = 255,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "dim": dim, "pixel_size": pixel_size, "region_size": region_size}
        for name, value in {**sizes, "pixels_per_image": pixels_per_image}.items():
            checks.positive_int(name, value)
        void_labels(ignore_index)  # raises
        if dtype not in (torch.float32, torch.bfloat16, torch.float64):
            raise ValueError(f"dtype: got {dtype}, want torch.float32 or torch.bfloat16")
        self.num_classes = num_classes
        self.dim = dim
        self.pixel_size = pixel_size
        self.region_size = region_size
        self.pixels_per_image = pixels_per_image
        self.ignore_index = ignore_index
        places = pixel_size + region_size
        self.register_buffer("rows", torch.empty(num_classes, places, dim, dtype=dtype))
        self.register_buffer("labels", torch.empty(num_classes, places, dtype=torch.int32))
        self.register_buffer("written", torch.empty(2, num_classes, dtype=torch.int64))
        self.register_buffer("waiting_seed", torch.empty((), dtype=torch.int64), persistent=False)
        self._make_room(_ROOM)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """An empty bank, whatever its buffers held: as after ``to_empty`` of a module made on the meta device."""
        self.reset()

    @torch.no_grad()
    def reserve(self, images: int) -> None:
        """Makes room for the rows of a batch of so many images (of all ranks) to wait in; there is some for 8.

        A call with more images makes it by itself. Only inside a CUDA graph, or under checkpoint inside a compiled
        graph, it has to be there before.
        """
        if isinstance(images, bool) or not isinstance(images, (int, torch.SymInt)) or images < 0:
            raise ValueError(f"images: got {images!r}, want an int >= 0")
        if self.waiting_pixels.shape[0] >= images:
            return
        self.flush()
        self._make_room(images)

    def _make_room(self, images: int) -> None:
        K, P, D, device = self.num_classes, self.pixels_per_image, self.dim, self.rows.device
        if self.rows.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"memory: no room for the rows of {images} images to wait in, and none can be made in a CUDA graph;"
                f" want a call before it is captured, or MemoryBank.reserve({images})"
            )
        for name, sizes in (("pixels", (images, K, P)), ("regions", (images, K))):
            rows = torch.zeros(*sizes, D, dtype=self.rows.dtype, device=device)
            self.register_buffer(f"waiting_{name}", rows, persistent=False)
        labels = torch.full((images * K * (P + 1),), -1, dtype=torch.int32, device=device)  # of both, to fill at once
        self.register_buffer("waiting_labels", labels, persistent=False)

    @torch.no_grad()
    def enqueue(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        process_group: Any = distributed.NO_GROUP,
        seed: int | Tensor | None = None,
    ) -> None:
        """Adds a batch at once. Within a backward nothing: a forward that is computed anew has added its batch.

        Args:
            embeddings: ``[B, D, *S]`` floating, S of one, two or three sizes, of any norm; detached here.
            labels: ``[B, *S']`` integers, brought to S by nearest.
            process_group: every rank adds the batches of all its ranks, in the order of their ranks, so that all banks
                stay the same; the number of images may differ between ranks. As in :class:`PixelContrastLoss`.
            seed: of the pixels drawn, int or [] int64 tensor on the device of labels; None: torch's next random number.

        Raises:
            TypeError, ValueError: naming the argument; on the CPU also for a label >= num_classes.
        """
        maps.check_memory_rows(embeddings, labels, self.num_classes, self.pixels_per_image)
        anew = self._flush()
        rows = self._rows_of(embeddings, labels, process_group, seed)
        if anew is not True:
            self._write(*_unless(anew, rows))

    def _rows_of(
        self, embeddings: Tensor, labels: Tensor, process_group: Any, seed: int | Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a batch, whose arguments are checked, adds: pixels [B, K, P, D], their labels [B, K, P], regions
        [B, K, D], theirs [B, K]; -1: none, or a row that is not finite, which would stay for thousands of steps. Of
        several ranks B is that of all."""
        if embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings: got {embeddings.shape[1]} features, want {self.dim} (dim)")
        seed = draw_seed(labels) if seed is None else seed
        how = (self.num_classes, self.pixels_per_image, self.ignore_index)
        rows = added_rows(embeddings, labels, *how, seed)
        if process_group is not distributed.NO_GROUP:
            rows = distributed.gather_memory_rows(rows, process_group)
        return rows

    @torch.no_grad()
    def flush(self) -> bool | Tensor:
        """Adds what waits to the rings. Within a backward nothing: a forward that is computed anew meets the bank that
        it met before.

        Returns:
            whether this is within a backward; in a compiled graph a [] bool tensor.
        """
        return self._flush()

    def _flush(self) -> bool | Tensor:
        anew = computed_anew(self.rows)
        if anew is True:
            return anew
        self._write(*_unless(anew, self._waiting()))
        labels = self.waiting_labels
        labels.copy_(torch.where(anew, labels, -1)) if isinstance(anew, Tensor) else labels.fill_(-1)
        return anew

    def _waiting(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels [B, K, P, D], their labels [B, K, P], regions [B, K, D], theirs [B, K]."""
        pixels, regions = self.waiting_pixels, self.waiting_regions
        B, K, P, _ = pixels.shape
        of_pixels, of_regions = self.waiting_labels.split((B * K * P, B * K))
        return pixels, of_pixels.view(B, K, P), regions, of_regions.view(B, K)

    @torch.no_grad()
    def begin_call(self, number: Tensor, *, adds: bool, is_read: bool) -> None:
        """A call of a loss with this bank begins, whose random number is ``number`` []: adds what the call before left.

        ``adds``: it will end with :meth:`end_call`; ``is_read``: the bank is among its contrast rows.

        Raises:
            RuntimeError: this is a forward that is computed anew, and the bank is no more the one that it met. (On a
                GPU, and in a compiled graph, an assertion on the device.)
        """
        if not adds and not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return  # torch.func may not change what it did not make; what waits goes on waiting
        anew = self._flush()
        number = number if adds else torch.full_like(number, -1)
        if anew is False:
            self.waiting_seed.copy_(number)
            return
        if adds and is_read:
            same = self.waiting_seed == number
            _assert(same if anew is True else same | ~anew, _MOVED_ON)
        if isinstance(anew, Tensor):
            self.waiting_seed.copy_(torch.where(anew, self.waiting_seed, number))

    @torch.no_grad()
    def end_call(self, embeddings: Tensor, labels: Tensor, *, process_group: Any, seed: int | Tensor) -> None:
        """Ends a call: its batch waits for the next one, or for :meth:`flush`. Arguments are those of
        :meth:`enqueue`, checked."""
        anew = computed_anew(self.rows)
        if anew is True:
            return
        rows = self._rows_of(embeddings, labels, process_group, seed)
        B = rows[0].shape[0]
        if self.waiting_pixels.shape[0] < B:
            self._make_room(B)
        waiting = [x[:B] for x in self._waiting()]
        if isinstance(anew, Tensor):
            for x, new in zip(waiting, rows, strict=True):
                x.copy_(torch.where(anew, x, new.to(x.dtype)))
        else:  # rows are of one dtype, labels of another: two launches
            torch._foreach_copy_(waiting[::2], rows[::2])
            torch._foreach_copy_(waiting[1::2], rows[1::2])

    @torch.no_grad()
    def enqueue_rows(self, pixels: Tensor, pixel_labels: Tensor, regions: Tensor, region_labels: Tensor) -> None:
        """Adds rows that are made already, without a batch of maps.

        Args:
            pixels, regions: [.., D] unit rows, rounded to the dtype of the bank.
            pixel_labels, region_labels: [..] int32, the class of each row; -1 leaves it out, and so does a row that is
                not finite: it would stay for thousands of steps.

        Within a backward nothing, as :meth:`enqueue`.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        anew = self._flush()
        pixel_labels, region_labels = (_finite_only(*x) for x in ((pixels, pixel_labels), (regions, region_labels)))
        if anew is not True:
            rows = _unless(anew, (pixels, pixel_labels, regions, region_labels))
            checks.memory_enqueue(self.rows, self.labels, self.written, self.pixel_size, *self._in_line(*rows))
            self._write(*rows)

    def _in_line(
        self, pixels: Tensor, pixel_labels: Tensor, regions: Tensor, region_labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        D = self.dim
        return pixels.reshape(-1, D), pixel_labels.reshape(-1), regions.reshape(-1, D), region_labels.reshape(-1)

    def _write(self, pixels: Tensor, pixel_labels: Tensor, regions: Tensor, region_labels: Tensor) -> None:
        bank = self.rows
        rows = self._in_line(pixels.detach(), pixel_labels, regions.detach(), region_labels)
        call("memory_enqueue_", bank, "auto", bank, self.labels, self.written, self.pixel_size, *rows)

    @torch.no_grad()
    def reset(self) -> None:
        """Empties all rings, and what waits for them."""
        self.rows.zero_()
        self.labels.fill_(-1)
        self.written.zero_()
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        self.waiting_pixels.zero_()
        self.waiting_regions.zero_()
        self.waiting_labels.fill_(-1)
        self.waiting_seed.fill_(-1)

    def _save_to_state_dict(self, *arguments: Any, **more: Any) -> None:
        if not self.rows.is_meta:
            self.flush()
        super()._save_to_state_dict(*arguments, **more)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Refuses rings of other sizes, which can't be loaded without losing rows or their order, and counts that can't
        be, of which places in memory are made. What waits is not of that state."""
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
        for name in _OLD_STATE:
            state_dict.pop(f"{prefix}{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        if rows is not None:
            self._forget_waiting()

    def get_extra_state(self) -> Tensor:
        """What the shape of ``rows`` does not tell, [2] int64: places of the ring of pixels, of that of regions."""
        return torch.tensor([self.pixel_size, self.region_size], device="cpu")

    def set_extra_state(self, state: Tensor | dict[str, int]) -> None:
        """Refuses other sizes than those of this bank. Earlier versions saved a dict."""
        wanted = [self.pixel_size, self.region_size]
        got: Any = [state.get("pixel_size"), state.get("region_size")] if isinstance(state, dict) else state
        if isinstance(got, Tensor) and got.is_meta:
            return
        got = got.tolist() if isinstance(got, Tensor) else got
        if got != wanted:
            is_pair = isinstance(got, list) and len(got) == 2
            words = f"rings of {got[0]} pixels and {got[1]} regions a class" if is_pair else repr(got)
            raise ValueError(
                f"memory bank: got {words},"
                f" want rings of {wanted[0]} pixels and {wanted[1]} regions; a bank can't be resized"
            )

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, dim={self.dim}, pixel_size={self.pixel_size},"
            f" region_size={self.region_size}, pixels_per_image={self.pixels_per_image}, dtype={self.rows.dtype}"
        )


_MOVED_ON = (
    "memory: a forward is computed anew within a backward, but since it ran the bank has taken a batch: another call"
    " with this memory began before this backward. Want the backward of a call before the next call, or the loss"
    " outside of checkpoint, where it is not computed anew"
)


def _finite_only(rows: Tensor, labels: Tensor) -> Tensor:
    """``labels [..]``, -1 where a row [.., D] is not finite. Of another number than the rows they are refused after
    this."""
    if rows.shape[:-1] != labels.shape:
        return labels
    largest = torch.linalg.vector_norm(rows, math.inf, dim=-1)  # NaN where there is one
    return torch.where(largest < math.inf, labels, -1)


def _unless(anew: bool | Tensor, rows: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``rows``, without their labels where ``anew`` says so."""
    if isinstance(anew, bool):
        return rows
    pixels, pixel_labels, regions, region_labels = rows
    return pixels, torch.where(anew, -1, pixel_labels), regions, torch.where(anew, -1, region_labels)


def _assert(condition: Tensor, message: str) -> None:
    """``condition`` [] on the CPU now, on a GPU without waiting for it."""
    if condition.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(condition, message)
    elif not condition:
        raise RuntimeError(message)
