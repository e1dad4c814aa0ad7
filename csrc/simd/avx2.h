// AVX2 with FMA.
#ifndef LORID_SIMD_AVX2_H_
#define LORID_SIMD_AVX2_H_

#include <immintrin.h>

#include <cstdint>

namespace lorid {
namespace LORID_ISA {
namespace {

using Vec = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 6, kTileVecs = 2;  // 12 accumulators, 2 weights, a broadcast: 15 of 16 registers
constexpr int kFewRows = 3, kFewVecs = 4;    // 12 accumulators, 3 broadcasts, a weight
constexpr int kDotRows = 2, kDotRanks = 4;

inline __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec Zero() { return _mm256_setzero_ps(); }
inline Vec Set1(float x) { return _mm256_set1_ps(x); }
inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec LoadN(const float* p, int n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
inline void Store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline void StoreN(float* p, Vec x, int n) { _mm256_maskstore_ps(p, FirstLanes(n), x); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
// The sum stays in its own register: given the choice, GCC moves sums about until some of them are spilled.
inline Vec Fma(Vec a, Vec b, Vec sum) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}
inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }  // b where either is NaN
inline Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec ZeroWhereLess(Vec x, Vec bound, Vec y) { return _mm256_and_ps(_mm256_cmp_ps(x, bound, _CMP_NLT_UQ), y); }
inline Vec Round(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec PowerOfTwo(Vec n) {  // n integral, from -126 to 127
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline float SumLanes(Vec x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
inline float MaxLanes(Vec x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

inline Vec Widen(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
inline Vec LoadBf16(const uint16_t* p) { return Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Vec LoadBf16N(const uint16_t* p, int n) {
  alignas(16) uint16_t lanes[8] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return Widen(_mm_load_si128(reinterpret_cast<const __m128i*>(lanes)));
}
inline __m128i Narrow(Vec x) {  // to nearest even; a NaN stays one
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
inline void StoreBf16(uint16_t* p, Vec x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), Narrow(x)); }
inline void StoreBf16N(uint16_t* p, Vec x, int n) {
  alignas(16) uint16_t lanes[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), Narrow(x));
  for (int i = 0; i < n; i++) p[i] = lanes[i];
}

inline Vec RoundBf16(Vec x) { return Widen(Narrow(x)); }

// The first, and the second, of each of 8 pairs of bf16.
inline Vec EvenOfPairs(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 16));
}
inline Vec OddOfPairs(const uint16_t* p) {  // two shifts: a mask would take a register from a tile
  const __m256i high = _mm256_srli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 16);
  return _mm256_castsi256_ps(_mm256_slli_epi32(high, 16));
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_SIMD_AVX2_H_
