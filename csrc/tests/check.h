// A test is a function that calls EXPECT; the executable counts.
#ifndef LORID_TESTS_CHECK_H_
#define LORID_TESTS_CHECK_H_

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../dispatch.h"
#include "../ops/phases.h"

namespace lorid_test {

struct Counts {
  int64_t passed = 0, failed = 0;
};
inline Counts& TheCounts() {
  static Counts counts;
  return counts;
}

inline void Expect(bool condition, const char* what, const char* file, int line) {
  if (condition) {
    TheCounts().passed++;
  } else if (TheCounts().failed++ < 20) {
    std::printf("%s:%d: %s\n", file, line, what);
  }
}
#define EXPECT(condition) ::lorid_test::Expect((condition), #condition, __FILE__, __LINE__)

// bf16 and fp32 under one name. Storage is exactly as large as asked for, so that the address sanitizer sees a read
// past it.
inline float Widen(float x) { return x; }
inline float Widen(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T>
T Narrow(float x);
template <>
inline float Narrow<float>(float x) {
  return x;
}
template <>
inline uint16_t Narrow<uint16_t>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>(std::isnan(x) ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <typename T>
std::vector<T> Random(int64_t count, uint32_t seed, double scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = Narrow<T>(static_cast<float>(normal(generator)));
  return values;
}

// Largest error allowed, as a share of the largest expected magnitude.
template <typename T>
constexpr double kTolerance = sizeof(T) == 2 ? 1.0 / 128 : 3e-6;

template <typename T>
bool Close(const std::vector<T>& actual, const std::vector<double>& expected, double tolerance = kTolerance<T>) {
  double most = 0, error = 0;
  for (const double value : expected) most = std::max(most, std::abs(value));
  if (actual.size() != expected.size()) return false;
  for (size_t i = 0; i < actual.size(); i++) {
    const double off = std::abs(Widen(actual[i]) - expected[i]);
    if (!(off <= std::numeric_limits<double>::max())) return false;
    error = std::max(error, off);
  }
  return error <= tolerance * most;
}

template <typename T>
bool SameBits(const T* a, const T* b, size_t count) {
  return count == 0 || std::memcmp(a, b, count * sizeof(T)) == 0;
}

// Activations as the kernels in use take them.
template <typename T>
class Operands {
 public:
  Operands(const std::vector<T>& x, int rows, int in) : x_(x) {
    if constexpr (sizeof(T) == 2) {
      if (lorid::ActiveKernels().activations == lorid::DType::kBf16) return;
      wide_.resize(x.size());
      lorid::WidenPhase widen;
      widen.x = x.data();
      widen.x_stride = in;
      widen.rows = rows;
      widen.features = in;
      widen.y = wide_.data();
      lorid::RunPhases({&widen}, 2);
    }
  }
  const void* data() const { return wide_.empty() ? static_cast<const void*>(x_.data()) : wide_.data(); }

 private:
  const std::vector<T>& x_;
  std::vector<float> wide_;
};

}  // namespace lorid_test

#endif  // LORID_TESTS_CHECK_H_
