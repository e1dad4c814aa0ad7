// AVX-512 (F, BW, DQ, VL), and with LORID_BF16_DOT the bf16 dot product of AVX-512-BF16.
#ifndef LORID_SIMD_AVX512_H_
#define LORID_SIMD_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace lorid {
namespace LORID_ISA {
namespace {

using Vec = __m512;
constexpr int kLanes = 16;
constexpr int kTileRows = 12, kTileVecs = 2;  // 24 accumulators, 2 weights, a broadcast and a mask: 28 of 32 registers
constexpr int kFewRows = 1, kFewVecs = 2;     // a whole block of columns: more would need a second stream of weights
constexpr int kDotRows = 4, kDotRanks = 4;

inline __mmask16 FirstLanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }
inline Vec Zero() { return _mm512_setzero_ps(); }
inline Vec Set1(float x) { return _mm512_set1_ps(x); }
inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec LoadN(const float* p, int n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline void StoreN(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, FirstLanes(n), x); }
inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // b where either is NaN
inline Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec ZeroWhereLess(Vec x, Vec bound, Vec y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), y);
}
inline Vec Round(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec PowerOfTwo(Vec n) {  // n integral, from -126 to 127
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
inline float SumLanes(Vec x) { return _mm512_reduce_add_ps(x); }
inline float MaxLanes(Vec x) { return _mm512_reduce_max_ps(x); }

inline Vec Widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline Vec LoadBf16(const uint16_t* p) { return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec LoadBf16N(const uint16_t* p, int n) { return Widen(_mm256_maskz_loadu_epi16(FirstLanes(n), p)); }
inline __m256i Narrow(Vec x) {  // to nearest even; a NaN stays one
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
}
inline void StoreBf16(uint16_t* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Narrow(x)); }
inline void StoreBf16N(uint16_t* p, Vec x, int n) { _mm256_mask_storeu_epi16(p, FirstLanes(n), Narrow(x)); }

inline Vec RoundBf16(Vec x) { return Widen(Narrow(x)); }

// The first, and the second, of each of 16 pairs of bf16.
inline Vec EvenOfPairs(const uint16_t* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
inline Vec OddOfPairs(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

#ifdef LORID_BF16_DOT
// 32 bf16 as 16 pairs, one pair to a lane of the accumulator.
using Pairs = __m512bh;
inline Vec DotPairs(Pairs a, Pairs b, Vec sum) { return _mm512_dpbf16_ps(sum, a, b); }
inline Pairs LoadPairs(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
inline Pairs LoadPairsN(const uint16_t* p, int n) {  // the first n elements, zeros after them
  return (__m512bh)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p);
}
inline Pairs LoadEvenPairs(const uint16_t* p) {  // zeros for the second of each pair
  return (__m512bh)_mm512_maskz_loadu_epi16(0x55555555u, p);
}
inline Pairs SetPair(uint32_t bits) {  // the first of the pair in the low half
  return (__m512bh)_mm512_set1_epi32(static_cast<int>(bits));
}
#endif

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_SIMD_AVX512_H_
