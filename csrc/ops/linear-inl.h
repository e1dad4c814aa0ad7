// lora_linear: y = W x + bias + scale B (A x). The base product and bias, then each adapter's expand into the same fp32
// sums, then one rounding. Rows of any mix of adapters share the loads of W; a run of rows with one slot shares those
// of its B.
#ifndef LORID_OPS_LINEAR_INL_H_
#define LORID_OPS_LINEAR_INL_H_

#include <sched.h>

#include "tile-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

constexpr int kRowsAtOnce = 48;  // 48 x 32 sums are 6 KB: they stay in the first-level cache beside the weights

// A tile as wide as a block of columns streams it at the memory's speed, with a little prefetching. A narrower one must
// pass over the weights several times, so it takes a panel of them at a time, which stays in the first-level cache, and
// fetches the next panel meanwhile.
constexpr bool kWholeBlocks = kTileVecs * kLanes >= kBlockCols;
constexpr int kStepBytes = 4 * kBlockCols;  // a pair of bf16 features of every column, or one of fp32
constexpr int kPanelSteps = 48;
constexpr int kStreamAhead = 8 * kStepBytes;

// sum [rows, 32] = x w over one block of columns.
template <typename T>
inline void MultiplyBlock(const Operand<T>* x, int64_t x_stride, int64_t rows, const T* w, int in_features,
                          float* sum) {
  constexpr int kFeatures = sizeof(T) == 2 ? 2 : 1;  // of a step
  constexpr int64_t kStride = kBlockCols * kFeatures;
  if (kWholeBlocks || rows <= kFewRows || in_features == 0) {
    TileBlock(x, x_stride, rows, w, kStride, in_features, kBlockCols, sum, kBlockCols, false,
              kWholeBlocks ? kStreamAhead : kNoPrefetch);
    return;
  }
  constexpr int kPanel = kPanelSteps * kFeatures;
  for (int i = 0; i < in_features; i += kPanel)
    TileBlock(x + i, x_stride, rows, w + i / kFeatures * kStride, kStride,
              static_cast<int>(Least(kPanel, in_features - i)), kBlockCols, sum, kBlockCols, i > 0,
              kPanelSteps * kStepBytes);
}

// The weights of a slot's rows for the block of columns at col_begin: W, or what an adapter was merged into.
template <typename T>
inline const T* BlockWeights(const LinearTile& tile, int slot, int col_begin) {
  const int64_t block_size =
      kBlockCols * (sizeof(T) == 2 ? RoundUp(tile.in_features, 2) : static_cast<int64_t>(tile.in_features));
  for (int t = 0; slot >= 0 && t < tile.num_targets; t++) {
    const LoraTarget& target = tile.targets[t];
    if (col_begin < target.col_begin || col_begin >= target.col_end) continue;
    const void* merged = target.shares[slot].merged;
    if (merged != nullptr)
      return static_cast<const T*>(merged) + (col_begin - target.col_begin) / kBlockCols * block_size;
  }
  return static_cast<const T*>(tile.weight) + col_begin / kBlockCols * block_size;
}

// sum [rows, 32] = x w; neighbouring rows with the same weights share their loads.
template <typename T>
inline void MultiplyRows(const LinearTile& tile, int row_begin, int row_end, int col_begin, float* sum) {
  const auto* x = static_cast<const Operand<T>*>(tile.x);
  int begin = row_begin;
  const T* weights = BlockWeights<T>(tile, -1, col_begin);
  const auto multiply = [&](int end) {
    if (begin < end)
      MultiplyBlock(x + begin * tile.x_stride, tile.x_stride, end - begin, weights, tile.in_features,
                    sum + static_cast<int64_t>(begin - row_begin) * kBlockCols);
    begin = end;
  };
  for (int s = 0; tile.num_targets > 0 && s < tile.num_segments && tile.seg_offset[s] < row_end; s++) {
    if (tile.seg_offset[s + 1] <= row_begin || tile.seg_offset[s] == tile.seg_offset[s + 1]) continue;
    const T* wanted = BlockWeights<T>(tile, tile.seg_slot[s], col_begin);
    if (wanted == weights) continue;
    multiply(static_cast<int>(Most(begin, tile.seg_offset[s])));
    weights = wanted;
  }
  multiply(row_end);
}

// sum[m][c] += scale * sum over r of shrunk[m][r] b[r][c], ranks in order, for rows of one slot; kVecs vectors of
// columns.
template <int kRows, int kVecs, typename T>
inline void ExpandTile(const float* shrunk, int64_t shrunk_stride, float scale, const T* b, int64_t b_stride, int ranks,
                       int last_lanes, float* sum) {
  Vec acc[kRows][kVecs];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; v++) acc[m][v] = Zero();
  for (int r = 0; r < ranks; r++, b += b_stride) {
    const auto weight = [&](int v) { return LoadAsN(b + v * kLanes, v + 1 < kVecs ? kLanes : last_lanes); };
    AddProducts(shrunk + r, shrunk_stride, weight, acc);
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; v++) {
      float* at = sum + m * kBlockCols + v * kLanes;
      const int lanes = v + 1 < kVecs ? kLanes : last_lanes;
      StoreAsN(at, Fma(Set1(scale), acc[m][v], LoadAsN(at, lanes)), lanes);
    }
}

template <int kMostRows, int kVecs, typename T>
inline void ExpandRows(const float* shrunk, int64_t shrunk_stride, int64_t rows, float scale, const T* b,
                       int64_t b_stride, int ranks, int last_lanes, float* sum) {
  for (int64_t tiles = (rows + kMostRows - 1) / kMostRows; tiles > 0; tiles--) {
    const int64_t taken = (rows + tiles - 1) / tiles;
    WithCount<kMostRows>(taken, [&](auto count) {
      ExpandTile<decltype(count)::kValue, kVecs>(shrunk, shrunk_stride, scale, b, b_stride, ranks, last_lanes, sum);
    });
    rows -= taken;
    shrunk += taken * shrunk_stride;
    sum += taken * kBlockCols;
  }
}

// At most 32 columns, which lie side by side in b.
template <typename T>
inline void ExpandBlock(const float* shrunk, int64_t shrunk_stride, int64_t rows, float scale, const T* b,
                        int64_t b_stride, int ranks, int columns, float* sum) {
  int c = 0;
  const auto take = [&](auto most_rows, auto vecs) {
    constexpr int kVecs = decltype(vecs)::kValue;
    const int lanes = LanesLeft(columns - c - (kVecs - 1) * kLanes);
    ExpandRows<decltype(most_rows)::kValue, kVecs>(shrunk, shrunk_stride, rows, scale, b + c, b_stride, ranks, lanes,
                                                   sum + c);
    c += kVecs * kLanes;
  };
  while (rows <= kFewRows && columns - c > (kFewVecs - 1) * kLanes) take(Constant<kFewRows>{}, Constant<kFewVecs>{});
  while (columns - c > (kTileVecs - 1) * kLanes) take(Constant<kTileRows>{}, Constant<kTileVecs>{});
  while (columns - c > 0) take(Constant<kTileRows>{}, Constant<1>{});
}

// Whoever has a shrink in hand may have lost its core: this one is offered to others now and then.
inline void WaitForShrinks(const int32_t* left) {
  for (int turn = 1; left != nullptr && __atomic_load_n(left, __ATOMIC_ACQUIRE) > 0; turn++) {
    Pause();
    if (turn % 1024 == 0) sched_yield();
  }
}

// Adds one module's shares to the sums of rows [row_begin, row_end) and columns [col_begin, col_end).
template <typename T>
inline void ExpandTarget(const LinearTile& tile, const LoraTarget& target, int row_begin, int row_end, int col_begin,
                         int col_end, float* sum) {
  const int begin = static_cast<int>(Most(col_begin, target.col_begin));
  const int end = static_cast<int>(Least(col_end, target.col_end));
  for (int s = 0; begin < end && s < tile.num_segments; s++) {
    const int slot = tile.seg_slot[s];
    const int64_t first = Most(row_begin, tile.seg_offset[s]), last = Least(row_end, tile.seg_offset[s + 1]);
    if (slot < 0 || first >= last || target.shares[slot].rank == 0) continue;
    WaitForShrinks(tile.shrinks_left);
    const LoraShare& share = target.shares[slot];
    for (int c = begin, next; c < end; c = next) {
      const int column = c - target.col_begin;  // in the module: its blocks need not be those of the fused product
      next = static_cast<int>(Least(end, c + kBlockCols - column % kBlockCols));
      const T* b = static_cast<const T*>(share.b) + column / kBlockCols * share.b_block_stride + column % kBlockCols;
      ExpandBlock(target.shrunk + first * target.shrunk_stride, target.shrunk_stride, last - first, share.scale, b,
                  share.b_rank_stride, share.rank, next - c, sum + (first - row_begin) * kBlockCols + (c - col_begin));
    }
  }
}

template <typename T>
inline void ExpandAll(const LinearTile& tile, int row_begin, int row_end, int col_begin, int col_end, float* sum) {
  for (int t = 0; t < tile.num_targets; t++)
    ExpandTarget<T>(tile, tile.targets[t], row_begin, row_end, col_begin, col_end, sum);
}

// sum[m][c] += bias[c]; columns past the last are left alone.
inline void AddBias(const float* bias, int64_t rows, int columns, float* sum) {
  for (int c = 0; c < columns; c += kLanes) {
    const Vec value = LoadAsN(bias + c, LanesLeft(columns - c));
    for (int64_t m = 0; m < rows; m++) {
      float* at = sum + m * kBlockCols + c;
      Store(at, Add(Load(at), value));
    }
  }
}

template <typename Y>
inline void WriteRows(const float* sum, int64_t rows, int columns, Y* y, int64_t y_stride, bool add_to_y) {
  for (int64_t m = 0; m < rows; m++, sum += kBlockCols, y += y_stride)
    for (int c = 0; c < columns; c += kLanes) {
      const int lanes = LanesLeft(columns - c);
      const Vec value = Load(sum + c);
      StoreAsN(y + c, add_to_y ? Add(LoadAsN(y + c, lanes), value) : value, lanes);
    }
}

inline void WriteSums(const LinearTile& tile, const float* sum, int row_begin, int row_end, int col_begin, int columns,
                      bool add_to_y) {
  WithType(tile.out_dtype, [&](auto* type) {
    auto* y = static_cast<decltype(type)>(tile.y) + row_begin * tile.y_stride + col_begin;
    WriteRows(sum, row_end - row_begin, columns, y, tile.y_stride, add_to_y);
  });
}

// y += the adapters' shares; rows and columns without one are not touched, so that they keep their bits.
template <typename T>
inline void ExpandColumns(const LinearTile& tile, int col_begin, int columns, float* sum) {
  for (int t = 0; t < tile.num_targets; t++) {
    const LoraTarget& target = tile.targets[t];
    const int begin = static_cast<int>(Most(col_begin, target.col_begin));
    const int column_end = static_cast<int>(Least(col_begin + columns, target.col_end));
    for (int s = 0; begin < column_end && s < tile.num_segments; s++) {
      if (tile.seg_slot[s] < 0 || target.shares[tile.seg_slot[s]].rank == 0) continue;
      const int end = static_cast<int>(Least(tile.row_end, tile.seg_offset[s + 1]));
      for (int row = static_cast<int>(Most(tile.row_begin, tile.seg_offset[s])); row < end; row += kRowsAtOnce) {
        const int next = static_cast<int>(Least(row + kRowsAtOnce, end));
        for (int i = 0; i < (next - row) * kBlockCols; i += kLanes) Store(sum + i, Zero());
        ExpandTarget<T>(tile, target, row, next, begin, column_end, sum);
        WriteSums(tile, sum, row, next, begin, column_end - begin, true);
      }
    }
  }
}

template <typename T>
inline void LinearColumns(const LinearTile& tile, int col_begin, int columns, float* sum) {
  for (int row = tile.row_begin; row < tile.row_end; row += kRowsAtOnce) {
    const int next = static_cast<int>(Least(row + kRowsAtOnce, tile.row_end));
    MultiplyRows<T>(tile, row, next, col_begin, sum);
    if (tile.bias != nullptr) AddBias(tile.bias + col_begin, next - row, columns, sum);
    ExpandAll<T>(tile, row, next, col_begin, col_begin + columns, sum);
    WriteSums(tile, sum, row, next, col_begin, columns, tile.add_to_y);
  }
}

void Linear(const LinearTile& tile) {
  alignas(64) float sum[kRowsAtOnce * kBlockCols];
  for (int c = tile.col_begin; c < tile.col_end; c += kBlockCols) {
    const int columns = static_cast<int>(Least(kBlockCols, tile.out_features - c));
    WithWeightType(tile.dtype, [&](auto* type) {
      using T = typename Pointee<decltype(type)>::Type;
      if (tile.weight != nullptr) {
        LinearColumns<T>(tile, c, columns, sum);
      } else {
        ExpandColumns<T>(tile, c, columns, sum);
      }
    });
  }
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_LINEAR_INL_H_
