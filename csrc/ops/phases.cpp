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
      const int32_t slot = segments->slot[s];
      const int32_t begin = segments->offset[s], end = segments->offset[s + 1];
      if (slot < 0 || begin == end) continue;
      const int32_t first = target.rank_offset[slot], ranks = target.rank_offset[slot + 1] - first;
      const size_t element = dtype == DType::kBf16 ? 2 : 4;
      const auto* a = static_cast<const char*>(target.a) + element * static_cast<size_t>(first) * in_features;
      const auto ranks_per_tile = static_cast<int32_t>(RoundUp(Grain(ranks, threads, kLeastRanks), 4));
      for (int32_t r = 0; r < ranks; r += ranks_per_tile)
        for (int32_t row = begin; row < end; row += kRowsPerTile)
          tiles_.push_back({dtype, x, x_stride, in_features, a, target.shrunk, target.shrunk_stride, row,
                            std::min(row + kRowsPerTile, end), r, std::min(r + ranks_per_tile, ranks)});
    }
  }
  return static_cast<int64_t>(tiles_.size());
}

void ShrinkPhase::Run(int64_t item, int) noexcept { ActiveKernels().shrink(tiles_[item]); }

int64_t LinearPhase::Prepare(int threads) {
  tile.rows = rows != nullptr ? *rows : segments->rows;
  if (tile.rows == 0) return 0;
  tile.targets = targets != nullptr ? targets->data() : nullptr;
  tile.num_targets = targets != nullptr ? static_cast<int32_t>(targets->size()) : 0;
  tile.seg_offset = segments->offset;
  tile.seg_slot = segments->slot;
  tile.num_segments = segments->count;
  const int64_t blocks = DivideUp(tile.out_features, kBlockCols);
  columns_per_item_ = static_cast<int32_t>(kBlockCols * Grain(blocks, threads, 1));
  return DivideUp(tile.out_features, columns_per_item_);
}

void LinearPhase::Run(int64_t item, int) noexcept {
  LinearTile mine = tile;
  mine.col_begin = static_cast<int32_t>(item * columns_per_item_);
  mine.col_end = std::min(mine.col_begin + columns_per_item_, mine.out_features);
  ActiveKernels().linear(mine);
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
  columns_per_item_ = static_cast<int32_t>(RoundUp(Grain(tile.features, threads, 256), 64));
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

int64_t RopePhase::Prepare(int) {
  tile.positions = *positions;
  tile.cache_slot = *cache_slot;
  return *rows;
}

void RopePhase::Run(int64_t item, int) noexcept {
  RopeTile mine = tile;
  mine.row_begin = static_cast<int32_t>(item);
  mine.row_end = mine.row_begin + 1;
  ActiveKernels().rope(mine);
}

int64_t AttentionPhase::Prepare(int threads) {
  items_.clear();
  const int heads = tile.num_heads / tile.num_kv_heads;
  const int32_t rows_per_item = std::max(1, kMaxTileVectors / heads);
  for (int32_t b = 0; b < sequences->count; b++) {
    const int32_t end = sequences->query_offset[b + 1];
    for (int32_t row = sequences->query_offset[b]; row < end; row += rows_per_item)
      items_.push_back({b, row, std::min(row + rows_per_item, end)});
  }
  scratch_bytes_ = RoundUp(
      AttentionScratchBytes(AttentionVectors(tile.num_heads, tile.num_kv_heads, rows_per_item), tile.head_dim), 64);
  scratch_.resize(static_cast<size_t>(scratch_bytes_) * threads);
  return static_cast<int64_t>(items_.size()) * tile.num_kv_heads;
}

void AttentionPhase::Run(int64_t item, int thread) noexcept {
  // The longest sequences' last rows, the most work, come first: the end of the list is where items are handed out from
  // last.
  const Item& rows = items_[items_.size() - 1 - static_cast<size_t>(item / tile.num_kv_heads)];
  AttentionTile mine = tile;
  mine.block_table = sequences->block_table + rows.sequence * sequences->block_table_stride;
  mine.row_begin = rows.row_begin;
  mine.row_end = rows.row_end;
  mine.first_position = sequences->positions[rows.row_begin];
  mine.kv_head = static_cast<int32_t>(item % tile.num_kv_heads);
  mine.scratch = scratch_.data() + scratch_bytes_ * thread;
  ActiveKernels().attention(mine);
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
