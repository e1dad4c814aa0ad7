// NEON (Advanced SIMD) of AArch64.
#ifndef LORID_SIMD_NEON_H_
#define LORID_SIMD_NEON_H_

#include <arm_neon.h>

#include <cstdint>

namespace lorid {
namespace LORID_ISA {
namespace {

using Vec = float32x4_t;
constexpr int kLanes = 4;
constexpr int kTileVecs = 4;
constexpr int kTileRows = 4;  // 16 accumulators, 8 weights, 2 broadcasts: 26 of 32 registers
constexpr int kDotRows = 2, kDotRanks = 4;

inline Vec Zero() { return vdupq_n_f32(0); }
inline Vec Set1(float x) { return vdupq_n_f32(x); }
inline Vec Load(const float* p) { return vld1q_f32(p); }
inline Vec LoadN(const float* p, int n) {
  float lanes[4] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return vld1q_f32(lanes);
}
inline void Store(float* p, Vec x) { vst1q_f32(p, x); }
inline void StoreN(float* p, Vec x, int n) {
  float lanes[4];
  vst1q_f32(lanes, x);
  for (int i = 0; i < n; i++) p[i] = lanes[i];
}
inline Vec Add(Vec a, Vec b) { return vaddq_f32(a, b); }
inline Vec Sub(Vec a, Vec b) { return vsubq_f32(a, b); }
inline Vec Mul(Vec a, Vec b) { return vmulq_f32(a, b); }
inline Vec Div(Vec a, Vec b) { return vdivq_f32(a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline Vec Max(Vec a, Vec b) { return vmaxq_f32(a, b); }  // NaN where either is NaN
inline Vec Min(Vec a, Vec b) { return vminq_f32(a, b); }
inline Vec ZeroWhereLess(Vec x, Vec bound, Vec y) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, bound)));
}
inline Vec Round(Vec x) { return vrndnq_f32(x); }
inline Vec PowerOfTwo(Vec n) {  // n integral, from -126 to 127
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}
inline float SumLanes(Vec x) { return vaddvq_f32(x); }
inline float MaxLanes(Vec x) { return vmaxvq_f32(x); }

inline Vec LoadBf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline Vec LoadBf16N(const uint16_t* p, int n) {
  uint16_t lanes[4] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return LoadBf16(lanes);
}
inline uint16x4_t Narrow(Vec x) {  // to nearest even; a NaN stays one
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}
inline void StoreBf16(uint16_t* p, Vec x) { vst1_u16(p, Narrow(x)); }
inline void StoreBf16N(uint16_t* p, Vec x, int n) {
  uint16_t lanes[4];
  vst1_u16(lanes, Narrow(x));
  for (int i = 0; i < n; i++) p[i] = lanes[i];
}

// Pairs: 8 bf16 as 4 pairs, one pair to a lane of the accumulator.
struct Pairs {
  Vec even, odd;
};
inline Pairs AsPairs(uint32x4_t bits) {
  return {vreinterpretq_f32_u32(vshlq_n_u32(bits, 16)),
          vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff0000u)))};
}
inline Vec DotPairs(const Pairs& a, const Pairs& b, Vec sum) { return Fma(a.odd, b.odd, Fma(a.even, b.even, sum)); }
inline Pairs LoadPairs(const uint16_t* p) { return AsPairs(vreinterpretq_u32_u16(vld1q_u16(p))); }
inline Pairs LoadPairsN(const uint16_t* p, int n) {  // the first n elements, zeros after them
  uint16_t lanes[8] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return LoadPairs(lanes);
}
inline Pairs SetPair(uint32_t bits) { return AsPairs(vdupq_n_u32(bits)); }  // the first of the pair in the low half

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_SIMD_NEON_H_
