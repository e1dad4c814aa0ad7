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
constexpr int kTileRows = 6, kTileVecs = 4;  // 24 accumulators, 4 weights, a broadcast and a mask: 30 of 32 registers
constexpr int kFewRows = 2, kFewVecs = 8;    // 16 accumulators, 8 weights
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
inline Vec Max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }  // b where either is NaN
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

inline Vec RoundBf16(Vec x) { return vreinterpretq_f32_u32(vshll_n_u16(Narrow(x), 16)); }

// The first, and the second, of each of 4 pairs of bf16.
inline uint32x4_t PairBits(const uint16_t* p) { return vreinterpretq_u32_u16(vld1q_u16(p)); }
inline Vec EvenOfPairs(const uint16_t* p) { return vreinterpretq_f32_u32(vshlq_n_u32(PairBits(p), 16)); }
inline Vec OddOfPairs(const uint16_t* p) {
  return vreinterpretq_f32_u32(vandq_u32(PairBits(p), vdupq_n_u32(0xffff0000u)));
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_SIMD_NEON_H_
