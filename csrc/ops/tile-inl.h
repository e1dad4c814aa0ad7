// The register tile under every matrix product: sum[m][c] (+)= sum over k of x[m][k] w[k][c], in the order of k, one
// accumulator per (row, column). The order depends on nothing else, so a row's bits do not depend on the rows that
// share its tile, and a sum that is stored and loaded again goes on exactly as if it had stayed in its register.
#ifndef LORID_OPS_TILE_INL_H_
#define LORID_OPS_TILE_INL_H_

#include "element-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

// Where a tile asks for weights ahead of their use: bytes from where it reads, or kNoPrefetch.
constexpr int64_t kNoPrefetch = 0;

inline void Prefetch(const void* p, int64_t bytes_ahead) {
  if (bytes_ahead != kNoPrefetch) __builtin_prefetch(static_cast<const char*>(p) + bytes_ahead);
}

// Every loop over accumulators is unrolled: one that is not would keep all of them in memory.
template <int kRows, int kVecs>
inline void LoadSums(const float* sum, int64_t sum_stride, bool go_on, Vec (&acc)[kRows][kVecs]) {
#pragma GCC unroll 16
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; v++) acc[m][v] = go_on ? Load(sum + m * sum_stride + v * kLanes) : Zero();
}

template <int kRows, int kVecs>
inline void StoreSums(const Vec (&acc)[kRows][kVecs], float* sum, int64_t sum_stride) {
#pragma GCC unroll 16
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; v++) Store(sum + m * sum_stride + v * kLanes, acc[m][v]);
}

// acc += x w for one feature; weight(v) loads the weights of vector v. What there is more of passes through one
// register while the other stays: the accumulators need nearly all of them.
template <int kRows, int kVecs, typename Weight>
inline void AddProducts(const float* x, int64_t x_stride, Weight weight, Vec (&acc)[kRows][kVecs]) {
  if constexpr (kRows < kVecs) {
    Vec value[kRows];
#pragma GCC unroll 16
    for (int m = 0; m < kRows; m++) value[m] = Set1(x[m * x_stride]);
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; v++) {
      const Vec weights = weight(v);
#pragma GCC unroll 16
      for (int m = 0; m < kRows; m++) acc[m][v] = Fma(weights, value[m], acc[m][v]);
    }
  } else {
    Vec weights[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; v++) weights[v] = weight(v);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; m++) {
      const Vec value = Set1(x[m * x_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; v++) acc[m][v] = Fma(weights[v], value, acc[m][v]);
    }
  }
}

template <int kVecs>
inline void PrefetchStep(const void* w, int64_t bytes_ahead) {
#pragma GCC unroll 8
  for (int line = 0; line < kVecs * kLanes * 4; line += 64) Prefetch(static_cast<const char*>(w) + line, bytes_ahead);
}

// Activations as float32, weights as pairs [k / 2][columns][2] of bf16: those of the even k, then those of the odd.
template <int kRows, int kVecs>
inline void Tile(const float* x, int64_t x_stride, const uint16_t* w, int64_t w_stride, int k, float* sum,
                 int64_t sum_stride, bool go_on, int64_t prefetch) {
  Vec acc[kRows][kVecs];
  LoadSums(sum, sum_stride, go_on, acc);
  int i = 0;
  for (; i + 1 < k; i += 2, w += w_stride) {
    PrefetchStep<kVecs>(w, prefetch);
    AddProducts(x + i, x_stride, [&](int v) { return EvenOfPairs(w + v * 2 * kLanes); }, acc);
    const uint16_t* w_again = w;
    const float* x_odd = x + i + 1;
    asm("" : "+r"(w_again), "+r"(x_odd));  // loaded anew, and not before: both halves at once would spill accumulators
    AddProducts(x_odd, x_stride, [&](int v) { return OddOfPairs(w_again + v * 2 * kLanes); }, acc);
  }
  if (i < k)  // the other half of the last pair may be a key that is not written yet
    AddProducts(x + i, x_stride, [&](int v) { return EvenOfPairs(w + v * 2 * kLanes); }, acc);
  StoreSums(acc, sum, sum_stride);
}

// Both as float32; x_step from one k to the next, so that x may lie turned.
template <int kRows, int kVecs>
inline void Tile(const float* x, int64_t x_stride, int64_t x_step, const float* w, int64_t w_stride, int k, float* sum,
                 int64_t sum_stride, bool go_on, int64_t prefetch) {
  Vec acc[kRows][kVecs];
  LoadSums(sum, sum_stride, go_on, acc);
  for (int i = 0; i < k; i++, x += x_step, w += w_stride) {
    PrefetchStep<kVecs>(w, prefetch);
    AddProducts(x, x_stride, [&](int v) { return Load(w + v * kLanes); }, acc);
  }
  StoreSums(acc, sum, sum_stride);
}

template <int kRows, int kVecs>
inline void Tile(const float* x, int64_t x_stride, const float* w, int64_t w_stride, int k, float* sum,
                 int64_t sum_stride, bool go_on, int64_t prefetch) {
  Tile<kRows, kVecs>(x, x_stride, 1, w, w_stride, k, sum, sum_stride, go_on, prefetch);
}

#ifdef LORID_BF16_DOT
inline uint32_t PairBits(const uint16_t* p) {
  uint32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return bits;
}

// Activations and weights as pairs of bf16, for an instruction set that multiplies those.
template <int kRows, int kVecs>
inline void Tile(const uint16_t* x, int64_t x_stride, const uint16_t* w, int64_t w_stride, int k, float* sum,
                 int64_t sum_stride, bool go_on, int64_t prefetch) {
  Vec acc[kRows][kVecs];
  LoadSums(sum, sum_stride, go_on, acc);
  int i = 0;
  for (; i + 1 < k; i += 2, w += w_stride) {
    PrefetchStep<kVecs>(w, prefetch);
    Pairs weights[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; v++) weights[v] = LoadPairs(w + v * 2 * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; m++) {
      const Pairs pair = SetPair(PairBits(x + m * x_stride + i));
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; v++) acc[m][v] = DotPairs(weights[v], pair, acc[m][v]);
    }
  }
  if (i < k) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; m++) {
      const Pairs pair = SetPair(x[m * x_stride + i]);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; v++) acc[m][v] = DotPairs(LoadEvenPairs(w + v * 2 * kLanes), pair, acc[m][v]);
    }
  }
  StoreSums(acc, sum, sum_stride);
}
#endif

// Calls function with an integral constant equal to n, for n from 1 to kMost.
template <int kMost, typename Function>
inline void WithCount(int64_t n, Function function) {
  if constexpr (kMost > 1) {
    if (n < kMost) return WithCount<kMost - 1>(n, function);
  }
  function(Constant<kMost>{});
}

// sum [rows, columns] for any number of rows, in tiles of much the same height: a low one has too few accumulators.
// Only the first tile prefetches, since the others read the same weights.
template <int kMostRows, int kVecs, typename X, typename W>
inline void TileRows(const X* x, int64_t x_stride, int64_t rows, const W* w, int64_t w_stride, int k, float* sum,
                     int64_t sum_stride, bool go_on, int64_t prefetch) {
  for (int64_t tiles = (rows + kMostRows - 1) / kMostRows; tiles > 0; tiles--) {
    const int64_t taken = (rows + tiles - 1) / tiles;
    WithCount<kMostRows>(taken, [&](auto count) {
      Tile<decltype(count)::kValue, kVecs>(x, x_stride, w, w_stride, k, sum, sum_stride, go_on, prefetch);
    });
    rows -= taken;
    x += taken * x_stride;
    sum += taken * sum_stride;
    prefetch = kNoPrefetch;
  }
}

// sum [rows, columns]; columns is a multiple of 16. Few rows take more columns at once, so that there are enough
// accumulators to hide the latency of an addition.
template <typename X, typename W>
inline void TileBlock(const X* x, int64_t x_stride, int64_t rows, const W* w, int64_t w_stride, int k, int columns,
                      float* sum, int64_t sum_stride, bool go_on, int64_t prefetch) {
  constexpr int kColumnWidth = sizeof(W) == 2 ? 2 : 1;  // elements of w from one column to the next
  int c = 0;
  for (; rows <= kFewRows && c + kFewVecs * kLanes <= columns; c += kFewVecs * kLanes)
    TileRows<kFewRows, kFewVecs>(x, x_stride, rows, w + c * kColumnWidth, w_stride, k, sum + c, sum_stride, go_on,
                                 prefetch);
  for (; c + kTileVecs * kLanes <= columns; c += kTileVecs * kLanes)
    TileRows<kTileRows, kTileVecs>(x, x_stride, rows, w + c * kColumnWidth, w_stride, k, sum + c, sum_stride, go_on,
                                   prefetch);
  for (; c < columns; c += kLanes)
    TileRows<kTileRows, 1>(x, x_stride, rows, w + c * kColumnWidth, w_stride, k, sum + c, sum_stride, go_on, prefetch);
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_TILE_INL_H_
