// Any machine: four lanes in plain C++. No fused multiply-add, which without hardware would be a slow library call.
#ifndef LORID_SIMD_SCALAR_H_
#define LORID_SIMD_SCALAR_H_

#include <math.h>
#include <string.h>

#include <cstdint>

namespace lorid {
namespace LORID_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int kTileRows = 2, kTileVecs = 2;
constexpr int kFewRows = 1, kFewVecs = 2;
constexpr int kDotRows = 2, kDotRanks = 2;

struct Vec {
  float lane[kLanes];
};
template <typename Function>
inline Vec Map(Function function) {
  Vec result;
  for (int i = 0; i < kLanes; i++) result.lane[i] = function(i);
  return result;
}
inline float FromBits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t ToBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline Vec Set1(float x) {
  return Map([&](int) { return x; });
}
inline Vec Zero() { return Set1(0); }
inline Vec Load(const float* p) {
  return Map([&](int i) { return p[i]; });
}
inline Vec LoadN(const float* p, int n) {
  return Map([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void StoreN(float* p, const Vec& x, int n) {
  for (int i = 0; i < n; i++) p[i] = x.lane[i];
}
inline void Store(float* p, const Vec& x) { StoreN(p, x, kLanes); }
inline Vec Add(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vec Sub(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Vec Mul(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Vec Div(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline Vec Fma(const Vec& a, const Vec& b, const Vec& c) {
  return Map([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
inline Vec Max(const Vec& a, const Vec& b) {  // b where either is NaN
  return Map([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec Min(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec ZeroWhereLess(const Vec& x, const Vec& bound, const Vec& y) {
  return Map([&](int i) { return x.lane[i] < bound.lane[i] ? 0.0f : y.lane[i]; });
}
inline Vec Round(const Vec& x) {
  return Map([&](int i) { return nearbyintf(x.lane[i]); });
}
inline Vec PowerOfTwo(const Vec& n) {  // n integral, from -126 to 127; a NaN gives some power
  return Map([&](int i) {
    return FromBits(static_cast<uint32_t>((n.lane[i] == n.lane[i] ? static_cast<int>(n.lane[i]) : 0) + 127) << 23);
  });
}
inline float SumLanes(const Vec& x) { return (x.lane[0] + x.lane[2]) + (x.lane[1] + x.lane[3]); }
inline float MaxLanes(const Vec& x) {
  float most = x.lane[0];
  for (int i = 1; i < kLanes; i++) most = x.lane[i] > most ? x.lane[i] : most;
  return most;
}

inline float Widen(uint16_t x) { return FromBits(static_cast<uint32_t>(x) << 16); }
inline uint16_t Narrow(float x) {  // to nearest even; a NaN stays one
  const uint32_t bits = ToBits(x);
  return static_cast<uint16_t>((x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000) >> 16);
}
inline Vec LoadBf16N(const uint16_t* p, int n) {
  return Map([&](int i) { return i < n ? Widen(p[i]) : 0.0f; });
}
inline Vec LoadBf16(const uint16_t* p) { return LoadBf16N(p, kLanes); }
inline void StoreBf16N(uint16_t* p, const Vec& x, int n) {
  for (int i = 0; i < n; i++) p[i] = Narrow(x.lane[i]);
}
inline void StoreBf16(uint16_t* p, const Vec& x) { StoreBf16N(p, x, kLanes); }

inline Vec RoundBf16(const Vec& x) {
  return Map([&](int i) { return Widen(Narrow(x.lane[i])); });
}

// The first, and the second, of each of 4 pairs of bf16.
inline Vec EvenOfPairs(const uint16_t* p) {
  return Map([&](int i) { return Widen(p[2 * i]); });
}
inline Vec OddOfPairs(const uint16_t* p) {
  return Map([&](int i) { return Widen(p[2 * i + 1]); });
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_SIMD_SCALAR_H_
