// One name for all element types, so that an algorithm is written once: float, bf16 as uint16_t, and bf16 values that
// are held as float32.
#ifndef LORID_OPS_ELEMENT_INL_H_
#define LORID_OPS_ELEMENT_INL_H_

#include "../ops/kernels.h"

namespace lorid {
namespace LORID_ISA {
namespace {

struct WideBf16 {
  float value;
};

// What a product with bf16 weights takes for its activations.
#ifdef LORID_BF16_DOT
using Bf16Operand = uint16_t;
constexpr DType kActivations = DType::kBf16;
#else
using Bf16Operand = float;
constexpr DType kActivations = DType::kBf16AsF32;
#endif
template <typename T>
struct OperandOf;
template <>
struct OperandOf<float> {
  using Type = float;
};
template <>
struct OperandOf<uint16_t> {
  using Type = Bf16Operand;
};
template <typename T>
using Operand = typename OperandOf<T>::Type;  // of weights of type T

inline Vec LoadAsN(const float* p, int n) { return n == kLanes ? Load(p) : LoadN(p, n); }
inline Vec LoadAsN(const uint16_t* p, int n) { return n == kLanes ? LoadBf16(p) : LoadBf16N(p, n); }
inline Vec LoadAsN(const WideBf16* p, int n) { return LoadAsN(&p->value, n); }
inline void StoreAsN(float* p, const Vec& x, int n) { n == kLanes ? Store(p, x) : StoreN(p, x, n); }
inline void StoreAsN(uint16_t* p, const Vec& x, int n) { n == kLanes ? StoreBf16(p, x) : StoreBf16N(p, x, n); }
inline void StoreAsN(WideBf16* p, const Vec& x, int n) { StoreAsN(&p->value, RoundBf16(x), n); }

// Stores what rounds to T in the form that a product with weights of type T takes.
template <typename T, typename To>
inline void StoreOperandN(To* p, const Vec& x, int n) {
  StoreAsN(p, sizeof(T) < sizeof(To) ? RoundBf16(x) : x, n);
}

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

// Calls function with a typed null pointer for the dtype of weights or pages.
template <typename Function>
inline void WithWeightType(DType dtype, Function function) {
  if (dtype == DType::kBf16) {
    function(static_cast<uint16_t*>(nullptr));
  } else {
    function(static_cast<float*>(nullptr));
  }
}

// The same for activations too.
template <typename Function>
inline void WithType(DType dtype, Function function) {
  if (dtype == DType::kBf16AsF32) return function(static_cast<WideBf16*>(nullptr));
  WithWeightType(dtype, function);
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

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
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
