"""sample: one token of every row. A first kernel keeps the maxima of 16 and 256 columns, a second draws, a row a program.

The k largest logits lie in the k ranges of columns with the largest maxima (equal ones in the order of ids), so the usual
row, with top_k up to 64, reads its logits once and then sorts three short lists; greedy rows need the maxima alone. What is
left (a larger top_k, or top_p that 64 tokens do not fill) searches the whole row for its threshold, two bits at a time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024  # columns of a program of the first kernel
CHUNK = 2048  # columns that the search takes at a time
LOG_FAN = 4  # columns of a narrow range, and narrow ranges of a wide one
LOG_KEEP = 6  # 64 candidates are sorted; a larger top_k is searched for


@triton.jit
def _load(logits_ptr, ids, V):
    """Logits as they compare: NaN and what is past the end as -inf, and one zero."""
    logits = tl.load(logits_ptr + ids, mask=ids < V, other=float("-inf"))
    logits = tl.where(logits != logits, float("-inf"), logits)
    return tl.where(logits == 0.0, 0.0, logits)


@triton.jit
def _image(logits):
    """uint32 that are in the order of the float32."""
    bits = logits.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)


@triton.jit
def _logit_of(image):
    bits = image.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ -2147483648, ~bits).to(tl.float32, bitcast=True)


@triton.jit
def _ordered(logits, ids, there):
    """int64 that sort by logit, then by the lower id; below all others where nothing is there."""
    high = (_image(logits).to(tl.int64) - 2147483648) << 32
    return tl.where(there, high | (2147483647 - ids.to(tl.int64)), -9223372036854775808)


@triton.jit
def _weight(logits, most, temperature):
    return tl.exp((logits.to(tl.float64) - most) / temperature)


@triton.jit
def _random_bits(key, sample, position):
    """53 bits of Philox4x32-10 with counter (sample, position, 0, 0)."""
    first, second, _, _ = tl.philox(key, sample.to(tl.uint32), position.to(tl.uint32), 0, 0)
    return (first.to(tl.int64) << 21) | (second.to(tl.int64) >> 11)


@triton.jit
def _sort_runs(x, LOG_N: tl.constexpr, LOG_RUN: tl.constexpr):
    """Sorts each bitonic run of 2^LOG_RUN of the int64 x [2^LOG_N], every second one rising, the others falling."""
    N: tl.constexpr = 1 << LOG_N
    rising = (-((tl.arange(0, N) >> LOG_RUN) & 1)).to(tl.int64)
    is_left = tl.arange(0, 2)[None, :, None] == 0
    x = x ^ rising
    for i in tl.static_range(1, LOG_RUN + 1):
        pairs = tl.reshape(x, [N >> (LOG_RUN - i + 1), 2, 1 << (LOG_RUN - i)])
        others = tl.sum(pairs, axis=1, keep_dims=True) - pairs
        x = tl.reshape(tl.where(is_left == (pairs > others), pairs, others), [N])
    return x ^ rising


@triton.jit
def _largest(x, LOG_N: tl.constexpr, LOG_KEEP: tl.constexpr):
    """The 2^LOG_KEEP largest of the int64 x [2^LOG_N], as one bitonic run (tl.topk takes seconds in the interpreter)."""
    for i in tl.static_range(1, LOG_KEEP + 1):
        x = _sort_runs(x, LOG_N, i)
    # Lane by lane, the larger of a falling and a rising run are the larger half of both, and bitonic.
    for i in tl.static_range(1, LOG_N - LOG_KEEP + 1):
        x = tl.reshape(x, [1 << (LOG_N - LOG_KEEP - i), 2, 1 << LOG_KEEP])
        x = tl.reshape(tl.max(x, axis=1), [1 << (LOG_N - i)])
        if i < LOG_N - LOG_KEEP:
            x = _sort_runs(x, LOG_N - i, LOG_KEEP)
    return x


@triton.jit
def _threshold(logits_ptr, V, most, temperature, counts, passes, target, CHUNK: tl.constexpr):
    """Where the sum of the weights (of ones if counts), largest first, reaches target (if passes: is above it).

    Returns the image of the logit there, its place (from 1) among equal logits, and the sum with it.
    """
    lanes = tl.arange(0, CHUNK)
    image = tl.full([], 0, tl.uint32)  # the bits that are settled
    above = tl.full([], 0.0, tl.float64)  # sum over what is known to be above it
    shift = tl.full([], 32, tl.uint32)
    for _ in range(16):
        shift -= 2
        third = tl.zeros([CHUNK], tl.float64)
        second = tl.zeros([CHUNK], tl.float64)
        first = tl.zeros([CHUNK], tl.float64)
        for start in range(0, V, CHUNK):
            logits = _load(logits_ptr, start + lanes, V)
            # Past 3 where settled bits differ.
            digit = tl.where(start + lanes < V, (_image(logits) ^ image) >> shift, 4)
            if tl.min(digit, axis=0) < 4:  # exp in float64 is the cost of a pass
                weight = tl.where(counts, 1.0, _weight(logits, most, temperature))
                third += tl.where(digit == 3, weight, 0.0)
                second += tl.where(digit == 2, weight, 0.0)
                first += tl.where(digit == 1, weight, 0.0)
        sum_3 = above + tl.sum(third, axis=0)
        sum_2 = sum_3 + tl.sum(second, axis=0)
        sum_1 = sum_2 + tl.sum(first, axis=0)
        is_3 = (sum_3 > target) | ((sum_3 == target) & (not passes))
        is_2 = (sum_2 > target) | ((sum_2 == target) & (not passes))
        is_1 = (sum_1 > target) | ((sum_1 == target) & (not passes))
        digit = tl.where(is_3, 3, tl.where(is_2, 2, tl.where(is_1, 1, 0)))
        above = tl.where(is_3, above, tl.where(is_2, sum_3, tl.where(is_1, sum_2, sum_1)))
        image = image | (digit.to(tl.uint32) << shift)
    ties = tl.full([], 0, tl.int32)
    weight = tl.full([], 0.0, tl.float64)
    for again in range(2):
        counted = tl.zeros([CHUNK], tl.int32)
        least = tl.full([CHUNK], 0xFFFFFFFF, tl.uint32)
        for start in range(0, V, CHUNK):
            there = start + lanes < V
            images = _image(_load(logits_ptr, start + lanes, V))
            counted += (there & (images == image)).to(tl.int32)
            least = tl.minimum(least, tl.where(there & (images >= image), images, 0xFFFFFFFF))
        absent = (again == 1) & (ties == 0)
        ties, image = tl.sum(counted, axis=0), tl.min(least, axis=0)
        weight = tl.where(counts, 1.0, _weight(_logit_of(image), most, temperature))
        # Rounding can leave a target that no sum reaches, and an image below every logit: then it is the least that counts.
        above -= tl.where(absent, ties * weight, 0.0)
    rest = tl.where(weight > 0.0, (target - above) / tl.where(weight > 0.0, weight, 1.0), ties.to(tl.float64))
    rest = tl.minimum(tl.maximum(rest, 0.0), ties.to(tl.float64))
    whole = rest.to(tl.int32)
    place = tl.minimum(tl.maximum(whole + (passes | (whole < rest)).to(tl.int32), 1), ties)
    return image, place, above + place * weight


@triton.jit
def _sum_to(logits_ptr, V, most, temperature, image, place, CHUNK: tl.constexpr):
    """Sum of the weights above image, and of place of those at it."""
    lanes = tl.arange(0, CHUNK)
    total = tl.zeros([CHUNK], tl.float64)
    for start in range(0, V, CHUNK):
        logits = _load(logits_ptr, start + lanes, V)
        total += tl.where(_image(logits) > image, _weight(logits, most, temperature), 0.0)
    return tl.sum(total, axis=0) + place * _weight(_logit_of(image), most, temperature)


@triton.jit
def _id_at(logits_ptr, V, image, place, CHUNK: tl.constexpr):
    """The id of the place-th (from 1) logit with this image."""
    lanes = tl.arange(0, CHUNK)
    token = tl.full([], -1, tl.int32)
    seen = tl.full([], 0, tl.int32)
    for start in range(0, V, CHUNK):
        ids = start + lanes
        same = ((ids < V) & (_image(_load(logits_ptr, ids, V)) == image)).to(tl.int32)
        count = tl.sum(same, axis=0)
        if (seen < place) & (seen + count >= place):
            is_it = (same > 0) & (seen + tl.cumsum(same, axis=0) == place)
            token = tl.min(tl.where(is_it, ids, 2147483647), axis=0)
        seen += count
    return token


@triton.jit
def _search(logits_ptr, V, most, temperature, top_k, top_p, total, uniform, CHUNK: tl.constexpr):
    """The token by sums over the whole row; total is that of all weights, needed unless top_k cuts."""
    end = tl.full(
        [], 0, tl.uint32
    )  # of what is kept, and at last of the draw: an image, and a place among equal logits
    end_place = tl.full([], 0, tl.int32) + V
    kept = total
    for step in range(3):  # top_k, top_p, the draw; one loop, because the code of a step takes long to compile
        if (step == 2) | ((step == 0) & (top_k > 0) & (top_k < V)) | ((step == 1) & (top_p < 1.0)):
            target = tl.where(step == 0, top_k.to(tl.float64), tl.where(step == 1, top_p, uniform) * kept)
            image, place, reached = _threshold(logits_ptr, V, most, temperature, step == 0, step == 2, target, CHUNK)
            if (image > end) | ((image == end) & (place < end_place)):
                end, end_place, kept = image, place, reached
            if step == 0:
                kept = _sum_to(logits_ptr, V, most, temperature, end, end_place, CHUNK)
    return _id_at(logits_ptr, V, end, end_place, CHUNK)


@triton.jit
def _first_passed(reached, weight, target, lanes, N: tl.constexpr):
    """The first lane of weight whose sum is above target; the last of weight if rounding leaves none."""
    last = tl.max(tl.where(weight > 0.0, lanes, 0), axis=0)
    return tl.minimum(tl.min(tl.where((weight > 0.0) & (reached > target), lanes, N), axis=0), last)


@triton.jit
def _in_order_of_ids(
    logits_ptr, V, most, temperature, uniform, reached, weight, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):
    """The draw from everything: the block by the blocks' sums, and then the id."""
    blocks, lanes = tl.arange(0, BLOCKS), tl.arange(0, BLOCK)
    target = uniform * tl.sum(tl.where(blocks == BLOCKS - 1, reached, 0.0), axis=0)
    block = _first_passed(reached, weight, target, blocks, BLOCKS)
    before = tl.sum(tl.where(blocks == block - 1, reached, 0.0), axis=0)
    weight = _weight(_load(logits_ptr, block * BLOCK + lanes, V), most, temperature)
    return block * BLOCK + _first_passed(before + tl.cumsum(weight, axis=0), weight, target, lanes, BLOCK)


@triton.jit
def _maxima_kernel(
    logits_ptr,  # [K, V] float32
    logits_stride_k,
    temperature_ptr,  # [K] float32
    top_k_ptr,  # [K] int32
    narrow_max_ptr,  # [K, blocks BLOCK / FAN] float32
    wide_max_ptr,  # [K, blocks BLOCK / FAN^2] float32
    block_sum_ptr,  # [K, 2, blocks] float64: the largest logit, and the weights relative to it where they are needed
    V,
    BLOCK: tl.constexpr,
    FAN: tl.constexpr,
):
    NARROW: tl.constexpr = BLOCK // FAN
    WIDE: tl.constexpr = NARROW // FAN
    k, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    narrow = tl.arange(0, NARROW)
    logits = _load(
        logits_ptr + k * logits_stride_k, block * BLOCK + narrow[:, None] * FAN + tl.arange(0, FAN)[None, :], V
    )
    narrow_max = tl.max(logits, axis=1)
    wide_max = tl.max(tl.reshape(narrow_max, [WIDE, FAN]), axis=1)
    tl.store(narrow_max_ptr + (k * blocks + block) * NARROW + narrow, narrow_max)
    tl.store(wide_max_ptr + (k * blocks + block) * WIDE + tl.arange(0, WIDE), wide_max)
    temperature, top_k = tl.load(temperature_ptr + k), tl.load(top_k_ptr + k)
    if (temperature > 0.0) & ((top_k <= 0) | (top_k >= V)):
        most = tl.max(wide_max, axis=0)
        tl.store(block_sum_ptr + 2 * k * blocks + block, most.to(tl.float64))
        finite = tl.where(tl.abs(most) < float("inf"), most, 0.0).to(tl.float64)
        total = tl.sum(tl.sum(_weight(logits, finite, temperature.to(tl.float64)), axis=1), axis=0)
        tl.store(block_sum_ptr + (2 * k + 1) * blocks + block, total)


@triton.jit
def _draw_kernel(
    logits_ptr,  # [K, V] float32
    logits_stride_k,
    philox_key_ptr,  # [K] int64
    philox_counter_ptr,  # [K, 2] int64
    temperature_ptr,  # [K] float32
    top_k_ptr,  # [K] int32
    top_p_ptr,  # [K] float32
    narrow_max_ptr,  # [K, num_blocks BLOCK / FAN] float32
    wide_max_ptr,  # [K, num_blocks BLOCK / FAN^2] float32
    block_sum_ptr,  # [K, 2, num_blocks] float64
    token_ids_ptr,  # [K] int32
    V,
    num_blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,  # num_blocks up to a power of two
    LOG_FAN: tl.constexpr,
    LOG_WIDE: tl.constexpr,  # of the width of wide_max up to a power of two
    LOG_KEEP: tl.constexpr,  # at most LOG_WIDE
    CHUNK: tl.constexpr,
):
    FAN: tl.constexpr = 1 << LOG_FAN
    KEEP: tl.constexpr = 1 << LOG_KEEP
    k = tl.program_id(0).to(tl.int64)
    row = logits_ptr + k * logits_stride_k
    num_narrow = num_blocks * (BLOCK // FAN)
    num_wide = num_narrow // FAN
    wide = tl.arange(0, 1 << LOG_WIDE)
    wide_max = tl.load(wide_max_ptr + k * num_wide + wide, mask=wide < num_wide, other=float("-inf"))
    most = tl.max(wide_max, axis=0)
    temperature, top_k, top_p = tl.load(temperature_ptr + k), tl.load(top_k_ptr + k), tl.load(top_p_ptr + k)
    token = tl.full([], -1, tl.int32)
    if (temperature == 0.0) | (tl.abs(most) == float("inf")):
        if most > float("-inf"):
            first = tl.min(tl.where(wide_max == most, wide, 1 << LOG_WIDE), axis=0)
            ids = first * FAN * FAN + tl.arange(0, FAN * FAN)
            token = tl.min(tl.where(_load(row, ids, V) == most, ids, 2147483647), axis=0)
    else:
        peak, heat, share = most.to(tl.float64), temperature.to(tl.float64), top_p.to(tl.float64)
        counter = philox_counter_ptr + 2 * k
        bits = _random_bits(tl.load(philox_key_ptr + k), tl.load(counter), tl.load(counter + 1))
        uniform = bits.to(tl.float64) * 1.1102230246251565e-16  # 2^-53
        all_ids = (top_k <= 0) | (top_k >= V)
        is_drawn = tl.full([], 1, tl.int1)
        total = tl.full([], 0.0, tl.float64)
        blocks = tl.arange(0, BLOCKS)
        block_weight = tl.zeros([BLOCKS], tl.float64)
        block_reached = tl.zeros([BLOCKS], tl.float64)
        if all_ids:
            at, there = block_sum_ptr + 2 * k * num_blocks + blocks, blocks < num_blocks
            block_most = tl.load(at, mask=there, other=float("-inf"))
            sums = tl.load(at + num_blocks, mask=there, other=0.0)
            block_weight = sums * tl.exp((block_most - peak) / heat)
            block_reached = tl.cumsum(block_weight, axis=0)
            total = tl.sum(tl.where(blocks == BLOCKS - 1, block_reached, 0.0), axis=0)
        if all_ids & (share >= 1.0):
            token = _in_order_of_ids(row, V, peak, heat, uniform, block_reached, block_weight, BLOCK, BLOCKS)
        elif (top_k > KEEP) & (top_k < V):
            is_drawn = tl.full([], 0, tl.int1)
        else:
            lanes = tl.arange(0, KEEP)
            largest = _ordered(wide_max, wide, wide < num_wide)
            if LOG_WIDE > LOG_KEEP:
                largest = _largest(largest, LOG_WIDE, LOG_KEEP)
            for level in range(2):  # the narrow ranges in the wide ones, and then the logits in those
                ids = (2147483647 - (largest & 0xFFFFFFFF))[:, None] * FAN + tl.arange(0, FAN)[None, :]
                if level == 0:
                    there = ids < num_narrow
                    values = tl.load(narrow_max_ptr + k * num_narrow + ids, mask=there, other=float("-inf"))
                else:
                    there = ids < V
                    values = _load(row, ids, V)
                values = tl.reshape(_ordered(values, ids, there), [KEEP * FAN])
                largest = _largest(values, LOG_KEEP + LOG_FAN, LOG_KEEP)
            largest = _sort_runs(largest, LOG_KEEP, LOG_KEEP)
            is_kept = (largest > -9223372036854775808) & (all_ids | (lanes < top_k))
            logits = _logit_of(((largest >> 32) + 2147483648).to(tl.uint32))
            weight = tl.where(is_kept, _weight(tl.where(is_kept, logits, most), peak, heat), 0.0)
            reached = tl.cumsum(weight, axis=0)
            most_reached = tl.sum(tl.where(lanes == KEEP - 1, reached, 0.0), axis=0)
            cut = share * tl.where(all_ids, total, most_reached)
            is_drawn = (most_reached >= cut) | (V <= KEEP)
            last = tl.max(tl.where(weight > 0.0, lanes, 0), axis=0)
            last = tl.minimum(tl.min(tl.where(reached >= cut, lanes, KEEP), axis=0), last)
            kept = tl.sum(tl.where(lanes == last, reached, 0.0), axis=0)
            drawn = tl.minimum(_first_passed(reached, weight, uniform * kept, lanes, KEEP), last)
            token = tl.sum(tl.where(lanes == drawn, 2147483647 - (largest & 0xFFFFFFFF), 0), axis=0).to(tl.int32)
        if not is_drawn:
            token = _search(row, V, peak, heat, top_k, share, total, uniform, CHUNK)
    tl.store(token_ids_ptr + k, token)


def workspace_size(rows: int, vocabulary: int) -> int:
    """How many float64 the launcher sample needs as its workspace."""
    blocks, narrow, wide = _sizes(vocabulary)
    return 2 * rows * blocks + triton.cdiv(rows * (narrow + wide), 2)


def _sizes(vocabulary: int) -> tuple[int, int, int]:
    """Blocks, narrow ranges and wide ranges of a row."""
    blocks = triton.cdiv(vocabulary, BLOCK)
    return blocks, blocks * (BLOCK >> LOG_FAN), blocks * (BLOCK >> 2 * LOG_FAN)


def sample(
    logits: torch.Tensor,
    philox_key: torch.Tensor,
    philox_counter: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    token_ids: torch.Tensor,
    *,
    workspace: torch.Tensor | None = None,
) -> None:
    """Writes one token of every row into token_ids [K] int32; see the op sample.

    Launches depend on K and V alone, so that a CUDA graph may replay them after the rows' parameters changed.

    Args:
        workspace: [workspace_size(K, V) or more] float64, contiguous; its content is overwritten. None allocates it.
    """
    rows, vocabulary = logits.shape
    if rows == 0:
        return
    size, (blocks, narrow, wide) = workspace_size(rows, vocabulary), _sizes(vocabulary)
    workspace = torch.empty(size, dtype=torch.float64, device=logits.device) if workspace is None else workspace
    assert workspace.dtype == torch.float64 and workspace.numel() >= size and workspace.is_contiguous()
    maxima = workspace.view(torch.float32)[rows * blocks * 4 :]
    row, planes = (logits, logits.stride(0)), (maxima, maxima[rows * narrow :], workspace)
    _maxima_kernel[(rows, blocks)](*row, temperature, top_k, *planes, vocabulary, BLOCK, 1 << LOG_FAN, num_warps=4)
    tiles = {"BLOCK": BLOCK, "BLOCKS": triton.next_power_of_2(blocks), "CHUNK": CHUNK}
    logs = {"LOG_FAN": LOG_FAN, "LOG_WIDE": max((wide - 1).bit_length(), LOG_KEEP), "LOG_KEEP": LOG_KEEP}
    parameters = (philox_key, philox_counter, temperature, top_k, top_p)
    _draw_kernel[(rows,)](*row, *parameters, *planes, token_ids, vocabulary, blocks, **tiles, **logs, num_warps=8)


def log_probs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_logprobs: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the unscaled logits, by torch in float64: off the path of a step that reports none.

    Args:
        logits: [K, V] float32.
        token_ids: [K] int32, -1 where no logit is a number.
        num_logprobs: how many of the largest to report.

    Returns:
        logprob [K] float32 and rank [K] int32 (from 1) of the token, top_ids [K, num_logprobs] int32 and top_logprobs
        [K, num_logprobs] float32; equal ones in the order of ids.
    """
    logprobs = logits.double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).log_softmax(dim=1)
    drawn = logprobs.gather(1, token_ids.long().clamp(min=0).unsqueeze(1))
    rank = (logprobs > drawn).sum(dim=1) + 1
    top = logprobs.sort(dim=1, descending=True, stable=True)
    ids, values = top.indices[:, :num_logprobs], top.values[:, :num_logprobs]
    return drawn.squeeze(1).float(), rank.int(), ids.int().contiguous(), values.float().contiguous()
