#include "phases.h"

#include <algorithm>
#include <cstring>

#include "../dispatch.h"

namespace lorid {
namespace {

// Several items a thread, so that one who is held up leaves the rest to the others; not so many that taking them costs.
constexpr int64_t kItemsPerThread = 6;

int64_t Grain(int64_t units, int threads, int64_t least) {
  return std::max(least, units / (kItemsPerThread * threads));
}

int64_t DivideUp(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace

int64_t ShrinkPhase::Prepare(int threads) {
  tiles_.clear();
  constexpr int32_t kRowsPerTile = 32, kLeastRanks = 8;
  for (const LoraTarget& target : *targets) {
    for (int32_t s = 0; s < segments->count; s++) {
      const int32_t slot = segments->slot[s], begin = segments->offset[s], end = segments->offset[s + 1];
      if (slot < 0 || begin == end) continue;
      const LoraShare& share = target.shares[slot];
      const auto ranks_per_tile = static_cast<int32_t>(RoundUp(Grain(share.rank, threads, kLeastRanks), 4));
      for (int32_t r = 0; r < share.rank; r += ranks_per_tile)
        for (int32_t row = begin; row < end; row += kRowsPerTile)
          tiles_.push_back({dtype, x, x_stride, in_features, share.a, target.shrunk, target.shrunk_stride, row,
                            std::min(row + kRowsPerTile, end), r, std::min(r + ranks_per_tile, share.rank)});
    }
  }
  return static_cast<int64_t>(tiles_.size());
}

void ShrinkPhase::Run(int64_t item, int) noexcept { ActiveKernels().shrink(tiles_[item]); }

int64_t LinearPhase::PrepareShrinks(int threads) {
  if (shrunk || tile.num_targets == 0) return 0;
  shrink_.dtype = tile.dtype;
  shrink_.x = tile.x;
  shrink_.x_stride = tile.x_stride;
  shrink_.in_features = tile.in_features;
  shrink_.targets = targets;
  shrink_.segments = segments;
  return shrink_.Prepare(threads);
}

int64_t LinearPhase::Prepare(int threads) {
  const int32_t num_rows = rows != nullptr ? *rows : segments->rows;
  if (num_rows == 0) return 0;
  tile.targets = targets != nullptr ? targets->data() : nullptr;
  tile.num_targets = targets != nullptr ? static_cast<int32_t>(targets->size()) : 0;
  tile.seg_offset = segments->offset;
  tile.seg_slot = segments->slot;
  tile.num_segments = segments->count;
  shrinks_ = shrinks_left_ = static_cast<int32_t>(PrepareShrinks(threads));
  tile.shrinks_left = shrinks_ > 0 ? &shrinks_left_ : nullptr;
  if (then == Then::kRope) {
    rope.positions = *positions;
    rope.cache_slot = *cache_slot;
  }
  const int32_t unit = then == Then::kRope ? rope.head_dim : kBlockCols;
  columns_ = then == Then::kSiluMul ? silu_mul.features : tile.out_features;
  const int64_t units = DivideUp(columns_, unit);
  columns_per_item_ = static_cast<int32_t>(unit * Grain(units, threads, 1));
  const int64_t items = DivideUp(columns_, columns_per_item_);
  // Where the columns give every thread too little to choose from, many rows are divided, too.
  constexpr int32_t kLeastRows = 48;
  const int64_t wanted = std::min<int64_t>(DivideUp(kItemsPerThread * threads, items), num_rows / kLeastRows);
  rows_per_group_ = static_cast<int32_t>(DivideUp(num_rows, std::max<int64_t>(wanted, 1)));
  row_groups_ = static_cast<int32_t>(DivideUp(num_rows, rows_per_group_));
  tile.row_end = num_rows;
  return shrinks_ + items * row_groups_;
}

void LinearPhase::Run(int64_t item, int thread) noexcept {
  if (item < shrinks_) {  // all of them are in hand before the first product is
    shrink_.Run(item, thread);
    __atomic_fetch_sub(&shrinks_left_, 1, __ATOMIC_ACQ_REL);
    return;
  }
  item -= shrinks_;
  const auto row = static_cast<int32_t>(item % row_groups_ * rows_per_group_);
  const auto column = static_cast<int32_t>(item / row_groups_ * columns_per_item_);
  RunColumns(row, std::min(row + rows_per_group_, tile.row_end), column,
             std::min(column + columns_per_item_, columns_));
}

void LinearPhase::RunColumns(int32_t row_begin, int32_t row_end, int32_t col_begin, int32_t col_end) const {
  const Kernels& kernels = ActiveKernels();
  const auto multiply = [&](int32_t begin, int32_t end) {
    LinearTile mine = tile;
    mine.row_begin = row_begin;
    mine.row_end = row_end;
    mine.col_begin = begin;
    mine.col_end = end;
    kernels.linear(mine);
  };
  if (then == Then::kSiluMul) {
    SiluMulTile gated = silu_mul;
    gated.row_begin = row_begin;
    gated.row_end = row_end;
    // As many columns at once as the first-level cache holds of both halves: each half is a stream of weights.
    constexpr int32_t kSumBytes = 16 << 10;
    const int32_t fitting = kSumBytes / (2 * static_cast<int32_t>(sizeof(float)) * (row_end - row_begin));
    const int32_t columns = std::max(fitting / kBlockCols, 1) * kBlockCols;
    for (gated.col_begin = col_begin; gated.col_begin < col_end; gated.col_begin = gated.col_end) {
      gated.col_end = std::min(gated.col_begin + columns, col_end);
      multiply(gated.col_begin, gated.col_end);
      multiply(columns_ + gated.col_begin, columns_ + gated.col_end);
      kernels.silu_mul(gated);
    }
    return;
  }
  multiply(col_begin, col_end);
  if (then == Then::kRope) {
    RopeTile heads = rope;
    heads.row_begin = row_begin;
    heads.row_end = row_end;
    heads.head_begin = col_begin / rope.head_dim;
    heads.head_end = col_end / rope.head_dim;
    kernels.rope(heads);
  }
}

int64_t WidenPhase::Prepare(int) { return rows; }

void WidenPhase::Run(int64_t item, int) noexcept {
  const uint16_t* from = x + item * x_stride;
  float* to = y + item * features;
  for (int32_t i = 0; i < features; i++) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

int64_t RmsNormPhase::Prepare(int threads) {
  rows_per_item_ = static_cast<int32_t>(Grain(*rows, threads, 1));
  tile.row_index = row_index != nullptr ? *row_index : nullptr;
  return DivideUp(*rows, rows_per_item_);
}

void RmsNormPhase::Run(int64_t item, int) noexcept {
  RmsNormTile mine = tile;
  mine.row_begin = static_cast<int32_t>(item * rows_per_item_);
  mine.row_end = std::min(mine.row_begin + rows_per_item_, *rows);
  ActiveKernels().rms_norm(mine);
}

int64_t SiluMulPhase::Prepare(int threads) {
  rows_per_item_ = static_cast<int32_t>(Grain(*rows, threads, 1));
  // Columns are divided where the rows are too few for all threads: whole rows are read at the memory's speed.
  const bool enough = *rows >= kItemsPerThread * threads;
  columns_per_item_ =
      enough ? std::max(tile.features, 1) : static_cast<int32_t>(RoundUp(Grain(tile.features, threads, 256), 64));
  column_items_ = static_cast<int32_t>(DivideUp(tile.features, columns_per_item_));
  return DivideUp(*rows, rows_per_item_) * column_items_;
}

void SiluMulPhase::Run(int64_t item, int) noexcept {
  SiluMulTile mine = tile;
  mine.row_begin = static_cast<int32_t>(item / column_items_ * rows_per_item_);
  mine.row_end = std::min(mine.row_begin + rows_per_item_, *rows);
  mine.col_begin = static_cast<int32_t>(item % column_items_ * columns_per_item_);
  mine.col_end = std::min(mine.col_begin + columns_per_item_, mine.features);
  ActiveKernels().silu_mul(mine);
}

template <typename Tile>
int64_t RowsPhase<Tile>::Prepare(int threads) {
  rows_per_item_ = static_cast<int32_t>(Grain(rows, threads, 1));
  return DivideUp(rows, rows_per_item_);
}

template <typename Tile>
void RowsPhase<Tile>::Run(int64_t item, int) noexcept {
  Tile mine = tile;
  mine.row_begin = static_cast<int32_t>(item * rows_per_item_);
  mine.row_end = std::min(mine.row_begin + rows_per_item_, rows);
  (ActiveKernels().*kernel)(mine);
}

template class RowsPhase<DropoutTile>;
template class RowsPhase<SiluMulBackwardTile>;
template class RowsPhase<RmsNormBackwardTile>;

int64_t RopePhase::Prepare(int) {
  tile.positions = *positions;
  tile.cache_slot = *cache_slot;
  return *rows;
}

void RopePhase::Run(int64_t item, int) noexcept {
  RopeTile mine = tile;
  mine.row_begin = static_cast<int32_t>(item);
  mine.row_end = mine.row_begin + 1;
  mine.head_begin = 0;
  mine.head_end = mine.num_heads + 2 * mine.num_kv_heads;
  ActiveKernels().rope(mine);
}

void AttentionPlan::AddGroups(int32_t begin, int32_t rows_per_group) {
  const auto end = static_cast<int32_t>(rows_.size());
  for (int32_t row = begin; row < end; row += rows_per_group)
    groups_.push_back({row, std::min(row + rows_per_group, end), 0});
}

void AttentionPlan::Build(const Sequences& sequences, int num_heads, int num_kv_heads, int threads) {
  rows_.clear();
  groups_.clear();
  const auto add_row = [&](int32_t sequence, int32_t row) {
    rows_.push_back({row, sequences.positions[row],
                     sequences.block_table + static_cast<int64_t>(sequence) * sequences.block_table_stride});
  };
  for (int32_t b = 0; b < sequences.count; b++)
    if (sequences.query_offset[b + 1] - sequences.query_offset[b] == 1) add_row(b, sequences.query_offset[b]);
  // Those that begin with the same pages come to lie side by side.
  std::sort(rows_.begin(), rows_.end(), [](const AttentionRow& a, const AttentionRow& b) {
    const int32_t pages = std::min(a.position, b.position) / kPageTokens + 1;
    const auto [first, second] = std::mismatch(a.pages, a.pages + pages, b.pages);
    if (first != a.pages + pages) return *first < *second;
    return a.position != b.position ? a.position < b.position : a.row < b.row;
  });
  const auto singles = static_cast<int64_t>(rows_.size());
  const int32_t most = std::max(1, kMaxTileVectors * num_kv_heads / num_heads);
  constexpr int kItems = 3;  // of a thread, at least: one group's rows share loads, but groups share the work
  const int64_t groups =
      std::max<int64_t>(DivideUp(singles, most), std::min<int64_t>(DivideUp(kItems * threads, num_kv_heads), singles));
  if (singles > 0) AddGroups(0, static_cast<int32_t>(DivideUp(singles, groups)));
  for (int32_t b = 0; b < sequences.count; b++) {
    const int32_t begin = sequences.query_offset[b], end = sequences.query_offset[b + 1];
    if (end - begin < 2) continue;
    const auto first = static_cast<int32_t>(rows_.size());
    for (int32_t row = begin; row < end; row++) add_row(b, row);
    AddGroups(first, most);
  }
  most_rows_ = 0;
  for (const Group& group : groups_) most_rows_ = std::max(most_rows_, group.end - group.begin);
  const auto keys = [&](const Group& group) {
    int64_t sum = 0;
    for (int32_t i = group.begin; i < group.end; i++) sum += rows_[static_cast<size_t>(i)].position + 1;
    return sum;
  };
  for (Group& group : groups_) group.keys = keys(group);
  std::stable_sort(groups_.begin(), groups_.end(),
                   [](const Group& a, const Group& b) { return a.keys > b.keys; });  // the most work first
}

int64_t AttentionPhase::Prepare(int threads) {
  const int64_t vectors = AttentionVectors(tile.num_heads, tile.num_kv_heads, plan->most_rows());
  scratch_bytes_ = RoundUp(AttentionScratchBytes(vectors, tile.head_dim), 64);
  const auto needed = static_cast<size_t>(scratch_bytes_) * static_cast<size_t>(threads);
  if (scratch->size() < needed) scratch->resize(needed);
  return plan->count() * tile.num_kv_heads;
}

void AttentionPhase::Run(int64_t item, int thread) noexcept {
  const AttentionPlan::Group& group = plan->group(item / tile.num_kv_heads);
  AttentionTile mine = tile;
  mine.rows = plan->rows() + group.begin;
  mine.num_rows = group.end - group.begin;
  mine.kv_head = static_cast<int32_t>(item % tile.num_kv_heads);
  mine.scratch = scratch->data() + scratch_bytes_ * thread;
  ActiveKernels().attention(mine);
}

int64_t TrainingAttentionPhase::Prepare(int threads) {
  order_.resize(static_cast<size_t>(count));
  for (int32_t b = 0; b < count; b++) order_[static_cast<size_t>(b)] = b;
  const auto length = [&](int32_t b) { return offset[b + 1] - offset[b]; };
  std::stable_sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) { return length(a) > length(b); });
  const int64_t longest = count > 0 ? length(order_[0]) : 0;
  scratch_bytes_ = RoundUp(TrainingScratchBytes(longest, tile.num_heads / tile.num_kv_heads, tile.head_dim), 64);
  scratch_.reset(new char[static_cast<size_t>(scratch_bytes_) * static_cast<size_t>(threads)]);  // not zeroed
  return static_cast<int64_t>(count) * tile.num_kv_heads;
}

void TrainingAttentionPhase::Run(int64_t item, int thread) noexcept {
  const int32_t b = order_[static_cast<size_t>(item / tile.num_kv_heads)];
  TrainingAttentionTile mine = tile;
  mine.row_begin = offset[b];
  mine.row_end = offset[b + 1];
  mine.kv_head = static_cast<int32_t>(item % tile.num_kv_heads);
  mine.scratch = scratch_.get() + scratch_bytes_ * thread;
  if (mine.row_begin < mine.row_end) ActiveKernels().training_attention(mine);
}

int64_t EmbedPhase::Prepare(int) { return *rows; }

void EmbedPhase::Run(int64_t item, int) noexcept {
  const int64_t token = (*token_ids)[item], block = token / kBlockCols, column = token % kBlockCols;
  if (dtype == DType::kF32) {
    const float* from = static_cast<const float*>(weight) + block * kBlockCols * features + column;
    float* to = static_cast<float*>(y) + item * y_stride;
    for (int32_t i = 0; i < features; i++) to[i] = from[static_cast<int64_t>(i) * kBlockCols];
    return;
  }
  const auto* from = static_cast<const uint16_t*>(weight) + block * kBlockCols * RoundUp(features, 2) + column * 2;
  for (int32_t i = 0; i < features; i++) {
    const uint16_t value = from[static_cast<int64_t>(i / 2) * 2 * kBlockCols + i % 2];
    if (out_dtype == DType::kBf16) {
      (static_cast<uint16_t*>(y) + item * y_stride)[i] = value;
    } else {
      const uint32_t bits = static_cast<uint32_t>(value) << 16;
      std::memcpy(static_cast<float*>(y) + item * y_stride + i, &bits, sizeof bits);
    }
  }
}

int64_t PackPhase::Prepare(int) { return DivideUp(out_features, kBlockCols); }

void PackPhase::Run(int64_t item, int) noexcept {
  const int64_t first = item * kBlockCols;
  const int64_t columns = std::min<int64_t>(kBlockCols, out_features - first);
  if (dtype == DType::kF32) {
    float* to = static_cast<float*>(packed) + first * in_features;
    for (int64_t i = 0; i < in_features; i++)
      for (int64_t c = 0; c < kBlockCols; c++)
        to[i * kBlockCols + c] =
            c < columns ? static_cast<const float*>(weight)[(first + c) * weight_stride + i] : 0.0f;
    return;
  }
  uint16_t* to = static_cast<uint16_t*>(packed) + first * RoundUp(in_features, 2);
  for (int64_t i = 0; i < RoundUp(in_features, 2); i++)
    for (int64_t c = 0; c < kBlockCols; c++)
      to[(i / 2) * 2 * kBlockCols + c * 2 + i % 2] =
          c < columns && i < in_features ? static_cast<const uint16_t*>(weight)[(first + c) * weight_stride + i] : 0;
}

}  // namespace lorid
