// One name for both element types, so that an algorithm is written once: float, and bf16 as uint16_t.
#ifndef LORID_OPS_ELEMENT_INL_H_
#define LORID_OPS_ELEMENT_INL_H_

#include "../ops/kernels.h"

namespace lorid {
namespace LORID_ISA {
namespace {

inline Vec LoadAs(const float* p) { return Load(p); }
inline Vec LoadAs(const uint16_t* p) { return LoadBf16(p); }
inline Vec LoadAsN(const float* p, int n) { return n == kLanes ? Load(p) : LoadN(p, n); }
inline Vec LoadAsN(const uint16_t* p, int n) { return n == kLanes ? LoadBf16(p) : LoadBf16N(p, n); }
inline void StoreAsN(float* p, const Vec& x, int n) { n == kLanes ? Store(p, x) : StoreN(p, x, n); }
inline void StoreAsN(uint16_t* p, const Vec& x, int n) { n == kLanes ? StoreBf16(p, x) : StoreBf16N(p, x, n); }

inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int LanesLeft(int64_t left) { return left < kLanes ? static_cast<int>(left) : kLanes; }

template <typename Pointer>
struct Pointee;
template <typename T>
struct Pointee<T*> {
  using Type = T;
};

template <int kCount>
struct Constant {
  static constexpr int kValue = kCount;
};

// Calls function with a typed null pointer for the dtype.
template <typename Function>
inline void WithType(DType dtype, Function function) {
  if (dtype == DType::kBf16) {
    function(static_cast<uint16_t*>(nullptr));
  } else {
    function(static_cast<float*>(nullptr));
  }
}

// e^x for x <= 0 and moderate x > 0, to about 2 units in the last place; exactly 0 below -87.3 (and so at -infinity).
// Range reduction by ln 2 in two parts, then the Taylor polynomial of degree 7 on [-ln 2 / 2, ln 2 / 2].
inline Vec Exp(Vec x) {
  const Vec least = Set1(-87.3f);
  const Vec clamped = Min(Set1(88.0f), Max(least, x));
  const Vec n = Round(Mul(clamped, Set1(1.44269504f)));
  const Vec r = Fma(n, Set1(2.12194440e-4f), Fma(n, Set1(-0.693359375f), clamped));
  Vec sum = Set1(1.0f / 5040);
  sum = Fma(sum, r, Set1(1.0f / 720));
  sum = Fma(sum, r, Set1(1.0f / 120));
  sum = Fma(sum, r, Set1(1.0f / 24));
  sum = Fma(sum, r, Set1(1.0f / 6));
  sum = Fma(sum, r, Set1(0.5f));
  sum = Fma(sum, r, Set1(1.0f));
  sum = Fma(sum, r, Set1(1.0f));
  return ZeroWhereLess(x, least, Mul(sum, PowerOfTwo(n)));
}

inline float ExpOne(float x) {
  float lanes[kLanes];
  Store(lanes, Exp(Set1(x)));
  return lanes[0];
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_ELEMENT_INL_H_
