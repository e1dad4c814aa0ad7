// What this machine can do at best with the instruction set in use: memory, arithmetic, the pool's hand-over between
// phases, and the linear layers of a decode step with nothing around them.
#ifndef LORID_LIMITS_H_
#define LORID_LIMITS_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace lorid {

struct MachineLimits {
  double read_bytes_per_s;
  double fp32_flop_per_s;
  double bf16_flop_per_s;  // 0 = no bf16 product
  double barrier_s;        // from the last item of a phase to the first of the next
};

// The best of a few runs on this many threads, which all run at once.
MachineLimits MeasureMachine(int threads);

struct ProbeResult {
  double seconds;        // of one step: the best of the runs
  double layer_seconds;  // the same without the last layer
};

// Multiplies `rows` rows by packed bf16 weights, layer by layer: columns are divided once among the threads, which spin
// until the last one is done. The products are those of lora_linear without adapters; there is no attention and no
// scheduler. What a step can come near to, not what other kernels might reach: compare its GB/s and GFLOP/s with the
// machine's.
class LinearProbe {
 public:
  // (in_features, out_features) of each layer.
  explicit LinearProbe(const std::vector<std::pair<int32_t, int32_t>>& layers);
  ~LinearProbe();
  LinearProbe(const LinearProbe&) = delete;
  LinearProbe& operator=(const LinearProbe&) = delete;

  ProbeResult Measure(int32_t rows, int threads, int runs) const;
  int64_t bytes() const { return bytes_; }

 private:
  double RunOnce(int32_t rows, int threads, std::size_t layers, const void* x, float* y) const;

  std::vector<std::pair<int32_t, int32_t>> layers_;
  std::vector<const void*> weights_;
  void* memory_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace lorid

#endif  // LORID_LIMITS_H_
