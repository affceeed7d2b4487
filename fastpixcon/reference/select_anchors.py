"""Class-aware hard-anchor selection (Wang et al. 2021, section 3.3), without reading anything back."""

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF
SEGMENT_STREAM = 0x5E6D  # draws of whole segments use another stream than draws of pixels


def mix32(x: Tensor) -> Tensor:
    """Bijective mixing of 32-bit words held in int64 (Wellons' lowbias32)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK32
    return x ^ (x >> 16)


def hash32(seed: Tensor, counter: Tensor, stream: int = 0) -> Tensor:
    """The one counter-based hash: 32-bit keys for int64 counters under an int64 seed and a stream."""
    key = mix32((seed & MASK32) ^ stream)
    key = mix32(((seed >> 32) & MASK32) ^ key)
    key = mix32(((counter >> 32) & MASK32) ^ key)
    return mix32((counter & MASK32) ^ key)


def predicted_class(predictions: Tensor) -> Tensor:
    """[B, h, w] int64; of logits [B, K, h, w] the argmax: lowest class on ties, NaN never wins."""
    if predictions.dim() == 3:
        return predictions.to(torch.int64)
    best = predictions.select(1, 0).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    winner = torch.zeros_like(best, dtype=torch.int64)
    for k in range(1, predictions.shape[1]):
        better = predictions.select(1, k) > best
        best = torch.where(better, predictions.select(1, k), best)
        winner = torch.where(better, k, winner)
    return winner


def downsample(labels: Tensor, h: int, w: int) -> Tensor:
    """[B, H, W] -> [B, h, w] int64, source index floor(i * H / h)."""
    rows = torch.arange(h, device=labels.device) * labels.shape[1] // h
    columns = torch.arange(w, device=labels.device) * labels.shape[2] // w
    return labels.to(torch.int64)[:, rows[:, None], columns]  # CUDA may not index unsigned integers of 16 and 32 bits


def check_labels(labels: Tensor, counted: Tensor, num_classes: int) -> None:
    """A label >= num_classes is the user's mistake; on CUDA it is asserted without a host read."""
    good = ~(counted & (labels >= num_classes))
    if labels.device.type == "cpu":
        if not bool(good.all()):
            wrong = int(labels[~good][0])
            raise ValueError(f"labels: got label {wrong}, want labels in [0, {num_classes}) or ignore_index")
    else:
        torch._assert_async(good.all(), "labels: a label is neither below num_classes nor ignore_index")


def select_anchors(
    labels: Tensor,
    predictions: Tensor,
    seed: Tensor,
    num_classes: int,
    max_samples: int,
    max_views: int,
    min_pixels: int,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = labels.device
    B, K = labels.shape[0], num_classes
    h, w = predictions.shape[-2:]
    label = downsample(labels, h, w).view(-1)  # [P], P = B*h*w pixels in the order of their index
    counted = (label != ignore_index) & (label >= 0)
    check_labels(label, counted, K)
    hard = predicted_class(predictions).view(-1) != label

    # Segments s = class * B + image; pixels that do not count fall into a last one.
    pixel = torch.arange(label.numel(), device=device)  # [P]
    image = pixel // (h * w)
    segment = torch.where(counted, label * B + image, K * B)

    def per_segment(which: Tensor) -> Tensor:  # [P] bool -> [K*B] counts
        return torch.zeros(K * B + 1, dtype=torch.int64, device=device).index_add_(0, segment, which.long())[:-1]

    num_hard, num_easy = per_segment(hard), per_segment(~hard)
    num_pixels = num_hard + num_easy  # [K*B]
    eligible = num_pixels >= min_pixels
    S = eligible.sum()
    most = (max_samples // S.clamp(min=1)).clamp(min=1, max=max_views)
    V = num_pixels.clamp(max=most)  # [K*B]

    # More segments than samples: one pixel each of max_samples drawn segments.
    number = torch.arange(K * B, device=device)
    key = torch.where(eligible, hash32(seed, number, SEGMENT_STREAM), MASK32 + 1)
    rank = torch.empty_like(number)
    rank[key.argsort(stable=True)] = number
    eligible &= rank < max_samples
    left_out = (num_pixels > 0) & ~eligible
    segments = torch.stack([eligible, left_out]).view(2, K, B).sum(dim=2)  # [2, K]

    # How many hard and easy pixels each segment keeps.
    many_hard, many_easy = 2 * num_hard >= V, 2 * num_easy >= V
    keep_hard = torch.where(many_hard, torch.where(many_easy, V // 2, V - num_easy), num_hard)
    keep = torch.stack([keep_hard, V - keep_hard], dim=1) * eligible[:, None]  # [K*B, 2]: hard, easy

    # Rank the pixels of each group (segment, hard or easy) by (key, index): two stable sorts.
    group = segment * 2 + (~hard).long()  # [P]
    by_key = hash32(seed, pixel).argsort(stable=True)
    order = by_key[group[by_key].argsort(stable=True)]
    size = torch.stack([num_hard, num_easy], dim=1).view(-1)  # [2*K*B]
    start = size.cumsum(0) - size
    sorted_group = group[order]
    inside = sorted_group < 2 * K * B
    g = sorted_group.where(inside, 0)
    kept = inside & (pixel - start[g] < keep.view(-1)[g])
    chosen = torch.zeros_like(counted)
    chosen[order] = kept

    # Compact in order (class, image, pixel): a stable sort by segment keeps the pixels in order.
    output = torch.where(chosen, segment, K * B).argsort(stable=True)[:max_samples]
    count = chosen.sum()
    valid = torch.arange(output.numel(), device=device) < count

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x.where(valid, -1), (0, max_samples - x.numel()), value=-1)

    anchors = padded(output), padded(label[output]).to(torch.int32), count.to(torch.int32).view(1)
    return *anchors, segments.to(torch.int32)
