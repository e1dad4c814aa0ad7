#include "limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <thread>

#include "check.h"
#include "dispatch.h"
#include "ops/phases.h"
#include "thread_pool.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lorid {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kRuns = 5;
constexpr size_t kLargePage = size_t{2} << 20;

double Since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

void* LargePages(size_t bytes) {
  void* memory = std::aligned_alloc(kLargePage, (bytes + kLargePage - 1) / kLargePage * kLargePage);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

// Runs `work` on all threads at once; seconds from when the last one was ready until the last one was done.
double OnAllThreads(int threads, const std::function<void(int)>& work) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false}, abandoned{false};
  std::vector<std::thread> others;
  LORID_CHECK(threads > 0, "threads must be positive; got ", threads);
  const auto take_part = [&](int thread) {
    ready.fetch_add(1);
    while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
    if (!abandoned.load()) work(thread);
  };
  try {
    for (int t = 1; t < threads; t++) others.emplace_back(take_part, t);
  } catch (...) {  // the system allows no more threads: those that there are must end first
    abandoned.store(true);
    go.store(true);
    for (std::thread& other : others) other.join();
    throw;
  }
  while (ready.load() < threads - 1) std::this_thread::yield();
  const auto start = Clock::now();
  go.store(true, std::memory_order_release);
  work(0);
  for (std::thread& other : others) other.join();
  return Since(start);
}

double ReadSpeed(int threads) {
  constexpr int64_t kFloats = int64_t{64} << 20;  // 256 MiB a run: more than any cache
  const std::unique_ptr<void, FreeDeleter> memory(LargePages(kFloats * sizeof(float)));
  auto* x = static_cast<float*>(memory.get());
  std::fill(x, x + kFloats, 1.0f);
  double best = 0;
  for (int run = 0; run < kRuns; run++) {
    std::vector<float> sums(threads * 16);
    const double seconds = OnAllThreads(threads, [&](int thread) {
      const int64_t begin = kFloats / 256 * thread / threads * 256, end = kFloats / 256 * (thread + 1) / threads * 256;
      sums[thread * 16] = ActiveKernels().read_all(x + begin, end - begin);
    });
    LORID_CHECK(sums[0] > 0, "nothing was read");
    best = std::max(best, kFloats * sizeof(float) / seconds);
  }
  return best;
}

double ArithmeticSpeed(int threads, double (*multiply)(int64_t, float*)) {
  if (multiply == nullptr) return 0;
  constexpr int64_t kTimes = 4'000'000;
  double best = 0;
  for (int run = 0; run < kRuns; run++) {
    std::vector<double> operations(threads);
    const double seconds = OnAllThreads(threads, [&](int thread) {
      float result[2] = {1.0f, 1.0f};
      operations[thread] = multiply(kTimes, result);
      if (result[0] < 0) operations[thread] = 0;  // never: the result is used so that it must be computed
    });
    double total = 0;
    for (const double each : operations) total += each;
    best = std::max(best, total / seconds);
  }
  return best;
}

// An item for each thread, long enough that every thread takes one.
class ShortPhase : public Phase {
 public:
  static constexpr double kSeconds = 5e-6;
  int64_t Prepare(int threads) override { return threads; }
  void Run(int64_t, int) noexcept override {
    for (const auto start = Clock::now(); Since(start) < kSeconds;) SpinPause();
  }
};

double BarrierCost(int threads) {
  constexpr int kPhases = 1000;
  std::vector<ShortPhase> phases(kPhases);
  std::vector<Phase*> order;
  for (ShortPhase& phase : phases) order.push_back(&phase);
  double best = 1;
  for (int run = 0; run < kRuns; run++) {
    const auto start = Clock::now();
    RunPhases(order, threads);
    best = std::min(best, Since(start) / kPhases - ShortPhase::kSeconds);
  }
  return best;
}

}  // namespace

MachineLimits MeasureMachine(int threads) {
  const Kernels& kernels = ActiveKernels();
  return {ReadSpeed(threads), ArithmeticSpeed(threads, kernels.multiply_floats),
          ArithmeticSpeed(threads, kernels.multiply_bf16), BarrierCost(threads)};
}

LinearProbe::LinearProbe(const std::vector<std::pair<int32_t, int32_t>>& layers) : layers_(layers) {
  LORID_CHECK(!layers.empty(), "a probe needs a layer");
  for (const auto& [in, out] : layers) {
    LORID_CHECK(in > 0 && out > 0, "a layer's sizes must be positive; got ", in, " and ", out);
    bytes_ += 2 * PackedElements(DType::kBf16, out, in);
  }
  memory_ = LargePages(static_cast<size_t>(bytes_));
  auto* at = static_cast<uint16_t*>(memory_);
  uint32_t random = 1;
  for (int64_t i = 0; i < bytes_ / 2; i++) {
    random = random * 1664525u + 1013904223u;
    at[i] = static_cast<uint16_t>(0x3c00u + (random >> 28));  // small positive numbers
  }
  for (const auto& [in, out] : layers) {
    weights_.push_back(at);
    at += PackedElements(DType::kBf16, out, in);
  }
}

LinearProbe::~LinearProbe() { std::free(memory_); }

double LinearProbe::RunOnce(int32_t rows, int threads, size_t layers, const void* x, float* y) const {
  const Kernels& kernels = ActiveKernels();
  std::atomic<int64_t> arrived{0};
  return OnAllThreads(threads, [&](int thread) {
    for (size_t i = 0; i < layers; i++) {
      const auto& [in, out] = layers_[i];
      const int64_t blocks = (out + kBlockCols - 1) / kBlockCols;
      LinearTile tile = {};
      tile.dtype = DType::kBf16;
      tile.out_dtype = DType::kF32;
      tile.x = x;
      tile.x_stride = tile.in_features = in;
      tile.out_features = out;
      tile.weight = weights_[i];
      tile.y = y;
      tile.y_stride = out;
      tile.row_end = rows;
      tile.col_begin = static_cast<int32_t>(blocks * thread / threads * kBlockCols);
      tile.col_end = std::min(static_cast<int32_t>(blocks * (thread + 1) / threads * kBlockCols), out);
      kernels.linear(tile);
      arrived.fetch_add(1, std::memory_order_acq_rel);
      for (int turn = 1; arrived.load(std::memory_order_acquire) < threads * static_cast<int64_t>(i + 1); turn++) {
        SpinPause();
        if (turn % 4096 == 0) std::this_thread::yield();  // there may be more threads than cores
      }
    }
  });
}

ProbeResult LinearProbe::Measure(int32_t rows, int threads, int runs) const {
  LORID_CHECK(rows > 0 && runs > 0, "rows and runs must be positive; got ", rows, " and ", runs);
  int64_t widest_in = 0, widest_out = 0;
  for (const auto& [in, out] : layers_) {
    widest_in = std::max<int64_t>(widest_in, in);
    widest_out = std::max<int64_t>(widest_out, out);
  }
  const bool wide = ActiveKernels().activations == DType::kBf16AsF32;
  std::vector<float> floats(wide ? rows * widest_in : 0, 1.0f);
  std::vector<uint16_t> halves(wide ? 0 : rows * widest_in, 0x3f80);
  const void* x = wide ? static_cast<const void*>(floats.data()) : halves.data();
  std::vector<float> y(static_cast<size_t>(rows * widest_out));
  ProbeResult best = {1e9, 1e9};
  for (int run = 0; run < runs; run++) {
    best.seconds = std::min(best.seconds, RunOnce(rows, threads, layers_.size(), x, y.data()));
    best.layer_seconds = std::min(best.layer_seconds, RunOnce(rows, threads, layers_.size() - 1, x, y.data()));
  }
  return best;
}

}  // namespace lorid
