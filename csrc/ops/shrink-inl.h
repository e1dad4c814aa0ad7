// lora_shrink: shrunk[t] = A x[t]. Lanes run over the input features; each (row, rank) has its own accumulator, summed
// over its lanes at the end, so that no pair's bits depend on the tile it was computed in.
#ifndef LORID_OPS_SHRINK_INL_H_
#define LORID_OPS_SHRINK_INL_H_

#include "element-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

template <int kRows, int kRanks>
inline void StoreDots(const Vec (&sum)[kRows][kRanks], float* out, int64_t out_stride) {
#pragma GCC unroll 4
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 4
    for (int r = 0; r < kRanks; r++) out[m * out_stride + r] = SumLanes(sum[m][r]);
}

template <int kRows, int kRanks, typename T>
inline void DotTile(const float* x, int64_t x_stride, const T* a, int in_features, float* out, int64_t out_stride) {
  Vec sum[kRows][kRanks];
  for (int m = 0; m < kRows; m++)
    for (int r = 0; r < kRanks; r++) sum[m][r] = Zero();
  for (int i = 0; i < in_features; i += kLanes) {
    const int lanes = LanesLeft(in_features - i);
    Vec row[kRows];
    for (int m = 0; m < kRows; m++) row[m] = LoadAsN(x + m * x_stride + i, lanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRanks; r++) {
      const Vec rank = LoadAsN(a + static_cast<int64_t>(r) * in_features + i, lanes);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; m++) sum[m][r] = Fma(rank, row[m], sum[m][r]);
    }
  }
  StoreDots(sum, out, out_stride);
}

#ifdef LORID_BF16_DOT
template <int kRows, int kRanks>
inline void DotTile(const uint16_t* x, int64_t x_stride, const uint16_t* a, int in_features, float* out,
                    int64_t out_stride) {
  Vec sum[kRows][kRanks];
  for (int m = 0; m < kRows; m++)
    for (int r = 0; r < kRanks; r++) sum[m][r] = Zero();
  for (int i = 0; i < in_features; i += 2 * kLanes) {
    const int left = in_features - i;
    const bool whole = left >= 2 * kLanes;
    Pairs row[kRows];
    for (int m = 0; m < kRows; m++)
      row[m] = whole ? LoadPairs(x + m * x_stride + i) : LoadPairsN(x + m * x_stride + i, left);
#pragma GCC unroll 4
    for (int r = 0; r < kRanks; r++) {
      const uint16_t* at = a + static_cast<int64_t>(r) * in_features + i;
      const Pairs rank = whole ? LoadPairs(at) : LoadPairsN(at, left);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; m++) sum[m][r] = DotPairs(rank, row[m], sum[m][r]);
    }
  }
  StoreDots(sum, out, out_stride);
}
#endif

template <int kRows, int kRanks, typename X, typename T>
inline void DotRanks(const X* x, int64_t x_stride, const T* a, int ranks, int in_features, float* out,
                     int64_t out_stride) {
  for (; ranks >= kRanks; ranks -= kRanks, a += static_cast<int64_t>(kRanks) * in_features, out += kRanks)
    DotTile<kRows, kRanks>(x, x_stride, a, in_features, out, out_stride);
  if constexpr (kRanks > 1) {
    if (ranks > 0) DotRanks<kRows, kRanks / 2>(x, x_stride, a, ranks, in_features, out, out_stride);
  }
}

template <int kRows, typename X, typename T>
inline void DotRows(const X* x, int64_t x_stride, int rows, const T* a, int ranks, int in_features, float* out,
                    int64_t out_stride) {
  for (; rows >= kRows; rows -= kRows, x += kRows * x_stride, out += kRows * out_stride)
    DotRanks<kRows, kDotRanks>(x, x_stride, a, ranks, in_features, out, out_stride);
  if constexpr (kRows > 1) {
    if (rows > 0) DotRows<kRows / 2>(x, x_stride, rows, a, ranks, in_features, out, out_stride);
  }
}

void Shrink(const ShrinkTile& tile) {
  WithWeightType(tile.dtype, [&](auto* type) {
    using T = typename Pointee<decltype(type)>::Type;
    const T* a = static_cast<const T*>(tile.a) + static_cast<int64_t>(tile.rank_begin) * tile.in_features;
    DotRows<kDotRows>(static_cast<const Operand<T>*>(tile.x) + tile.row_begin * tile.x_stride, tile.x_stride,
                      tile.row_end - tile.row_begin, a, tile.rank_end - tile.rank_begin, tile.in_features,
                      tile.shrunk + tile.row_begin * tile.shrunk_stride + tile.rank_begin, tile.shrunk_stride);
  });
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_SHRINK_INL_H_
