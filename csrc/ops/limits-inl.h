// What the machine's units do at best, for comparison: reading memory, and multiplying and adding in registers.
#ifndef LORID_OPS_LIMITS_INL_H_
#define LORID_OPS_LIMITS_INL_H_

#include "tile-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

// Reads n floats, a multiple of 4 vectors; the sum is returned so that the reads are not left out.
float ReadAll(const float* x, int64_t n) {
  Vec sum[4] = {Zero(), Zero(), Zero(), Zero()};
  for (int64_t i = 0; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int v = 0; v < 4; v++) sum[v] = Add(Load(x + i + v * kLanes), sum[v]);
  return SumLanes(Add(Add(sum[0], sum[1]), Add(sum[2], sum[3])));
}

// As many independent sums as hide the latency of adding to one.
constexpr int kSums = kTileRows * kTileVecs < 16 ? 12 : 16;

// Takes `times` steps of every sum, each a product that is added; what they come to is written to result[0]. The sums
// begin apart, so that the compiler cannot see one in all of them.
template <typename Step>
inline void MultiplySums(int64_t times, float* result, Step step) {
  Vec sum[kSums];
  for (int s = 0; s < kSums; s++) sum[s] = Set1(static_cast<float>(s));
  for (int64_t i = 0; i < times; i++)
#pragma GCC unroll 16
    for (int s = 0; s < kSums; s++) sum[s] = step(sum[s]);
  for (int s = 1; s < kSums; s++) sum[0] = Add(sum[0], sum[s]);
  result[0] = SumLanes(sum[0]);
}

// Multiplies and adds float32 `times` times in every sum; returns the floating-point operations that it took.
double MultiplyFloats(int64_t times, float* result) {
  const Vec x = Set1(result[0]), y = Set1(result[1]);
  MultiplySums(times, result, [&](const Vec& sum) { return Fma(sum, x, y); });
  return 2.0 * kLanes * kSums * static_cast<double>(times);
}

#ifdef LORID_BF16_DOT
double MultiplyBf16(int64_t times, float* result) {
  const Pairs ones = SetPair(0x3f803f80u);
  MultiplySums(times, result, [&](const Vec& sum) { return DotPairs(ones, ones, sum); });
  return 4.0 * kLanes * kSums * static_cast<double>(times);
}
#else
constexpr double (*MultiplyBf16)(int64_t, float*) = nullptr;
#endif

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_LIMITS_INL_H_
