// The register tile under every matrix product: sum[m][c] (+)= sum over k of x[m][k] w[k][c], in the order of k, one
// accumulator per (row, column). The order depends on nothing else, so a row's bits do not depend on the rows that
// share its tile, and a sum that is stored and loaded again goes on exactly as if it had stayed in its register.
#ifndef LORID_OPS_TILE_INL_H_
#define LORID_OPS_TILE_INL_H_

#include "element-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

inline uint32_t PairBits(const uint16_t* p) {
  uint32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return bits;
}

// Weights of one vector of columns: bf16 as [k / 2][columns][2], fp32 as [k][columns].
template <int kRows, int kVecs>
inline void Tile(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t w_stride, int k, float* sum,
                 int64_t sum_stride, bool go_on) {
  Vec acc[kRows][kVecs];
  for (int m = 0; m < kRows; m++)
    for (int v = 0; v < kVecs; v++) acc[m][v] = go_on ? Load(sum + m * sum_stride + v * kLanes) : Zero();
  int i = 0;
  for (; i + 1 < k; i += 2, w += w_stride) {
    Pairs weights[kVecs];
    for (int v = 0; v < kVecs; v++) {
      weights[v] = LoadPairs(w + v * 2 * kLanes);
      __builtin_prefetch(w + 8 * w_stride + v * 2 * kLanes);
    }
#pragma GCC unroll 16
    for (int m = 0; m < kRows; m++) {
      const Pairs pair = SetPair(PairBits(x + m * x_stride + i));
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) acc[m][v] = DotPairs(weights[v], pair, acc[m][v]);
    }
  }
  if (i < k) {
    for (int m = 0; m < kRows; m++) {
      const Pairs pair = SetPair(x[m * x_stride + i]);
      for (int v = 0; v < kVecs; v++) {
        // The last weight pair may hold a key that is not written yet: take its even half only.
        uint16_t even[2 * kLanes];
        for (int c = 0; c < kLanes; c++) even[2 * c] = w[v * 2 * kLanes + 2 * c], even[2 * c + 1] = 0;
        acc[m][v] = DotPairs(LoadPairs(even), pair, acc[m][v]);
      }
    }
  }
  for (int m = 0; m < kRows; m++)
    for (int v = 0; v < kVecs; v++) Store(sum + m * sum_stride + v * kLanes, acc[m][v]);
}

template <int kRows, int kVecs>
inline void Tile(const float* x, int64_t x_stride, const float* w, int64_t w_stride, int k, float* sum,
                 int64_t sum_stride, bool go_on) {
  Vec acc[kRows][kVecs];
  for (int m = 0; m < kRows; m++)
    for (int v = 0; v < kVecs; v++) acc[m][v] = go_on ? Load(sum + m * sum_stride + v * kLanes) : Zero();
  for (int i = 0; i < k; i++, w += w_stride) {
    Vec weights[kVecs];
    for (int v = 0; v < kVecs; v++) {
      weights[v] = Load(w + v * kLanes);
      __builtin_prefetch(w + 16 * w_stride + v * kLanes);
    }
#pragma GCC unroll 16
    for (int m = 0; m < kRows; m++) {
      const Vec value = Set1(x[m * x_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) acc[m][v] = Fma(weights[v], value, acc[m][v]);
    }
  }
  for (int m = 0; m < kRows; m++)
    for (int v = 0; v < kVecs; v++) Store(sum + m * sum_stride + v * kLanes, acc[m][v]);
}

// Calls function with an integral constant equal to n, for n from 1 to kMost.
template <int kMost, typename Function>
inline void WithCount(int64_t n, Function function) {
  if constexpr (kMost > 1) {
    if (n < kMost) return WithCount<kMost - 1>(n, function);
  }
  function(Constant<kMost>{});
}

// Rows in any number: the widest tile first, then one that is just as wide as what is left.
template <int kVecs, typename T>
inline void TileRows(const T* x, int64_t x_stride, int64_t rows, const T* w, int64_t w_stride, int k, float* sum,
                     int64_t sum_stride, bool go_on) {
  for (; rows >= kTileRows; rows -= kTileRows, x += kTileRows * x_stride, sum += kTileRows * sum_stride)
    Tile<kTileRows, kVecs>(x, x_stride, w, w_stride, k, sum, sum_stride, go_on);
  if (rows > 0)
    WithCount<kTileRows - 1>(rows, [&](auto count) {
      Tile<decltype(count)::kValue, kVecs>(x, x_stride, w, w_stride, k, sum, sum_stride, go_on);
    });
}

// sum [rows, columns]; columns is a multiple of 16. lane_width is the distance between neighbouring columns in w: 2 in
// bf16.
template <typename T>
inline void TileBlock(const T* x, int64_t x_stride, int64_t rows, const T* w, int64_t w_stride, int k, int columns,
                      float* sum, int64_t sum_stride, bool go_on) {
  constexpr int kLaneWidth = sizeof(T) == 2 ? 2 : 1;
  int c = 0;
  for (; c + kTileVecs * kLanes <= columns; c += kTileVecs * kLanes)
    TileRows<kTileVecs>(x, x_stride, rows, w + c * kLaneWidth, w_stride, k, sum + c, sum_stride, go_on);
  for (; c < columns; c += kLanes)
    TileRows<1>(x, x_stride, rows, w + c * kLaneWidth, w_stride, k, sum + c, sum_stride, go_on);
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_TILE_INL_H_
