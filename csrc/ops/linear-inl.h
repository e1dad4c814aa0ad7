// lora_linear: y = W x + bias + scale B (A x). The base product and bias, then each adapter's expand into the same fp32
// sums, then one rounding. Rows of any mix of adapters share the loads of W; a run of rows with one slot shares those
// of its B.
#ifndef LORID_OPS_LINEAR_INL_H_
#define LORID_OPS_LINEAR_INL_H_

#include "tile-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

constexpr int kRowsAtOnce = 48;  // 48 x 32 sums are 6 KB: they stay in the first-level cache beside the weights

// sum[m][c] += scale * sum over r of shrunk[m][r] b_t[r][c], ranks in order, for rows of one slot; kVecs vectors of
// columns.
template <int kRows, int kVecs, typename T>
inline void ExpandTile(const float* shrunk, int64_t shrunk_stride, float scale, const T* b_t, int64_t b_stride,
                       int ranks, int last_lanes, float* sum) {
  Vec acc[kRows][kVecs];
  for (int m = 0; m < kRows; m++)
    for (int v = 0; v < kVecs; v++) acc[m][v] = Zero();
  for (int r = 0; r < ranks; r++, b_t += b_stride) {
    Vec weights[kVecs];
    for (int v = 0; v < kVecs; v++) weights[v] = LoadAsN(b_t + v * kLanes, v + 1 < kVecs ? kLanes : last_lanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; m++) {
      const Vec value = Set1(shrunk[m * shrunk_stride + r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) acc[m][v] = Fma(weights[v], value, acc[m][v]);
    }
  }
  for (int m = 0; m < kRows; m++)
    for (int v = 0; v < kVecs; v++) {
      float* at = sum + m * kBlockCols + v * kLanes;
      const int lanes = v + 1 < kVecs ? kLanes : last_lanes;
      StoreAsN(at, Fma(Set1(scale), acc[m][v], LoadAsN(at, lanes)), lanes);
    }
}

template <int kVecs, typename T>
inline void ExpandRows(const float* shrunk, int64_t shrunk_stride, int64_t rows, float scale, const T* b_t,
                       int64_t b_stride, int ranks, int last_lanes, float* sum) {
  for (; rows >= kTileRows; rows -= kTileRows, shrunk += kTileRows * shrunk_stride, sum += kTileRows * kBlockCols)
    ExpandTile<kTileRows, kVecs>(shrunk, shrunk_stride, scale, b_t, b_stride, ranks, last_lanes, sum);
  if (rows > 0)
    WithCount<kTileRows - 1>(rows, [&](auto count) {
      ExpandTile<decltype(count)::kValue, kVecs>(shrunk, shrunk_stride, scale, b_t, b_stride, ranks, last_lanes, sum);
    });
}

template <typename T>
inline void ExpandBlock(const float* shrunk, int64_t shrunk_stride, int64_t rows, float scale, const T* b_t,
                        int64_t b_stride, int ranks, int columns, float* sum) {
  for (int c = 0; c < columns;) {
    const int left = columns - c;
    if (left > (kTileVecs - 1) * kLanes) {
      const int lanes = LanesLeft(left - (kTileVecs - 1) * kLanes);
      ExpandRows<kTileVecs>(shrunk, shrunk_stride, rows, scale, b_t + c, b_stride, ranks, lanes, sum + c);
      c += kTileVecs * kLanes;
    } else {
      ExpandRows<1>(shrunk, shrunk_stride, rows, scale, b_t + c, b_stride, ranks, LanesLeft(left), sum + c);
      c += kLanes;
    }
  }
}

// Adds every adapter's share to the sums of rows [row_begin, row_end) and columns [col_begin, col_end).
template <typename T>
inline void ExpandAll(const LinearTile& tile, int row_begin, int row_end, int col_begin, int col_end, float* sum) {
  for (int t = 0; t < tile.num_targets; t++) {
    const LoraTarget& target = tile.targets[t];
    const int64_t begin = Most(col_begin, target.col_begin), end = Least(col_end, target.col_end);
    if (begin >= end) continue;
    const int64_t b_stride = target.col_end - target.col_begin;
    for (int s = 0; s < tile.num_segments; s++) {
      const int slot = tile.seg_slot[s];
      const int64_t first = Most(row_begin, tile.seg_offset[s]), last = Least(row_end, tile.seg_offset[s + 1]);
      if (slot < 0 || first >= last) continue;
      const int64_t rank_begin = target.rank_offset[slot];
      const int ranks = static_cast<int>(target.rank_offset[slot + 1] - rank_begin);
      if (ranks == 0) continue;
      const T* b_t = static_cast<const T*>(target.b_t) + rank_begin * b_stride + (begin - target.col_begin);
      ExpandBlock(target.shrunk + first * target.shrunk_stride, target.shrunk_stride, last - first, target.scale[slot],
                  b_t, b_stride, ranks, static_cast<int>(end - begin),
                  sum + (first - row_begin) * kBlockCols + (begin - col_begin));
    }
  }
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
inline void StoreSums(const float* sum, int64_t rows, int columns, Y* y, int64_t y_stride, bool add_to_y) {
  for (int64_t m = 0; m < rows; m++, sum += kBlockCols, y += y_stride)
    for (int c = 0; c < columns; c += kLanes) {
      const int lanes = LanesLeft(columns - c);
      const Vec value = Load(sum + c);
      StoreAsN(y + c, add_to_y ? Add(LoadAsN(y + c, lanes), value) : value, lanes);
    }
}

// Whether some target has ranks for a slot.
inline bool HasRanks(const LinearTile& tile, int slot) {
  for (int t = 0; slot >= 0 && t < tile.num_targets; t++)
    if (tile.targets[t].rank_offset[slot + 1] > tile.targets[t].rank_offset[slot]) return true;
  return false;
}

// y += the adapters' shares; rows without an adapter are not touched, so that they keep their bits.
template <typename T>
inline void ExpandColumns(const LinearTile& tile, int col_begin, int columns, float* sum) {
  for (int s = 0; s < tile.num_segments; s++) {
    if (!HasRanks(tile, tile.seg_slot[s])) continue;
    const int end = tile.seg_offset[s + 1];
    for (int row = tile.seg_offset[s]; row < end; row += kRowsAtOnce) {
      const int rows = static_cast<int>(Least(kRowsAtOnce, end - row));
      for (int i = 0; i < rows * kBlockCols; i += kLanes) Store(sum + i, Zero());
      ExpandAll<T>(tile, row, row + rows, col_begin, col_begin + columns, sum);
      WithType(tile.out_dtype, [&](auto* type) {
        using Y = decltype(type);
        StoreSums(sum, rows, columns, static_cast<Y>(tile.y) + row * tile.y_stride + col_begin, tile.y_stride, true);
      });
    }
  }
}

template <typename T>
inline void LinearColumns(const LinearTile& tile, int col_begin, int columns, float* sum) {
  const int in_features = tile.in_features;
  const T* x = static_cast<const T*>(tile.x);
  const int64_t w_stride = kBlockCols * (sizeof(T) == 2 ? 2 : 1);
  const int64_t block_size = kBlockCols * (sizeof(T) == 2 ? RoundUp(in_features, 2) : in_features);
  const T* w = static_cast<const T*>(tile.weight) + col_begin / kBlockCols * block_size;
  for (int row = 0; row < tile.rows; row += kRowsAtOnce) {
    const int rows = static_cast<int>(Least(kRowsAtOnce, tile.rows - row));
    TileBlock(x + row * tile.x_stride, tile.x_stride, rows, w, w_stride, in_features, kBlockCols, sum, kBlockCols,
              false);
    if (tile.bias != nullptr) AddBias(tile.bias + col_begin, rows, columns, sum);
    ExpandAll<T>(tile, row, row + rows, col_begin, col_begin + columns, sum);
    WithType(tile.out_dtype, [&](auto* type) {
      using Y = decltype(type);
      StoreSums(sum, rows, columns, static_cast<Y>(tile.y) + row * tile.y_stride + col_begin, tile.y_stride,
                tile.add_to_y);
    });
  }
}

void Linear(const LinearTile& tile) {
  alignas(64) float sum[kRowsAtOnce * kBlockCols];
  for (int c = tile.col_begin; c < tile.col_end; c += kBlockCols) {
    const int columns = static_cast<int>(Least(kBlockCols, tile.out_features - c));
    WithType(tile.dtype, [&](auto* type) {
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
