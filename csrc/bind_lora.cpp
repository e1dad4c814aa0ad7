// Bindings of the linear layer and of LoRA, over plain addresses; lorid_engine.ops checks shapes and dtypes first.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bindings.h"
#include "dispatch.h"
#include "ops/phases.h"
#include "thread_pool.h"

namespace lorid {
namespace {

void PackLinear(DType dtype, Address weight, int64_t weight_stride, int32_t out_features, int32_t in_features,
                Address packed, int threads) {
  PackPhase phase;
  phase.dtype = dtype;
  phase.weight = At<void>(weight);
  phase.weight_stride = weight_stride;
  phase.out_features = out_features;
  phase.in_features = in_features;
  phase.packed = At<void>(packed);
  RunOne(phase, threads);
}

struct SegmentAddresses {
  int32_t rows, count;
  Address offset, slot;
  Segments Get() const { return {rows, count, At<const int32_t>(offset), At<const int32_t>(slot)}; }
};

// bf16 activations as the kernels in use take them.
class Activations {
 public:
  Activations(DType dtype, Address x, int64_t x_stride, int32_t rows, int32_t features)
      : data_(At<void>(x)), stride_(x_stride) {
    if (dtype != DType::kBf16 || ActiveKernels().activations == DType::kBf16) return;
    wide_.reset(new float[static_cast<size_t>(rows) * features]);
    widen_.x = At<const uint16_t>(x);
    widen_.x_stride = x_stride;
    widen_.rows = rows;
    widen_.features = features;
    widen_.y = wide_.get();
    data_ = wide_.get();
    stride_ = features;
  }
  const void* data() const { return data_; }
  int64_t stride() const { return stride_; }

  // Makes them, then runs what reads them.
  void RunBefore(Phase& phase, int threads) {
    if (wide_ == nullptr) return RunOne(phase, threads);
    const py::gil_scoped_release release;
    RunPhasesOnHost({&widen_, &phase}, threads);
  }

 private:
  std::unique_ptr<float[]> wide_;
  WidenPhase widen_;
  const void* data_;
  int64_t stride_;
};

// The shares of a bank whose adapters lie end to end: a [sum R, I], b_t [sum R, O].
std::vector<LoraShare> BankShares(DType dtype, Address a, Address b_t, Address rank_offset, Address scale,
                                  int32_t num_slots, int32_t in_features, int32_t out_features) {
  const auto* offset = At<const int32_t>(rank_offset);
  const Address element = dtype == DType::kBf16 ? 2 : 4;
  std::vector<LoraShare> shares(num_slots);
  for (int32_t n = 0; n < num_slots; n++) {
    LoraShare& share = shares[n];
    share.a = At<void>(a + element * offset[n] * in_features);
    share.b = At<void>(b_t + element * offset[n] * out_features);
    share.b_block_stride = kBlockCols;
    share.b_rank_stride = out_features;
    share.rank = offset[n + 1] - offset[n];
    share.scale = scale == 0 ? 1 : At<const float>(scale)[n];
  }
  return shares;
}

void LoraShrink(DType dtype, Address x, int64_t x_stride, int32_t in_features, Address a, Address rank_offset,
                int32_t num_slots, const SegmentAddresses& plan, Address shrunk, int64_t shrunk_stride, int threads) {
  Activations activations(dtype, x, x_stride, plan.rows, in_features);
  const std::vector<LoraShare> shares = BankShares(dtype, a, 0, rank_offset, 0, num_slots, in_features, 0);
  const std::vector<LoraTarget> targets = {{shares.data(), At<float>(shrunk), shrunk_stride, 0, 0}};
  const Segments segments = plan.Get();
  ShrinkPhase phase;
  phase.dtype = dtype;
  phase.x = activations.data();
  phase.x_stride = activations.stride();
  phase.in_features = in_features;
  phase.targets = &targets;
  phase.segments = &segments;
  activations.RunBefore(phase, threads);
}

// y += scale B shrunk.
void LoraExpand(DType dtype, Address b_t, Address rank_offset, Address scale, int32_t num_slots, Address shrunk,
                int64_t shrunk_stride, const SegmentAddresses& plan, Address y, int64_t y_stride, int32_t out_features,
                int threads) {
  const std::vector<LoraShare> shares = BankShares(dtype, 0, b_t, rank_offset, scale, num_slots, 0, out_features);
  const std::vector<LoraTarget> targets = {{shares.data(), At<float>(shrunk), shrunk_stride, 0, out_features}};
  const Segments segments = plan.Get();
  LinearPhase phase;
  phase.tile.dtype = phase.tile.out_dtype = dtype;
  phase.tile.out_features = out_features;
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
  phase.targets = &targets;
  phase.shrunk = true;
  phase.segments = &segments;
  RunOne(phase, threads);
}

// One module's bank, and the first of its columns in y.
struct ModuleAddresses {
  Address a, b_t, rank_offset, scale;
  int32_t num_slots, max_rank, col_begin, columns;
};

// Threads that so many multiplications keep busy for longer than waking them takes; threads: as PreparedLora::Run has.
int ThreadsFor(int64_t products, int threads) {
  constexpr int64_t kLeastProducts = 1 << 15;
  const auto useful = static_cast<int>(std::clamp<int64_t>(products / kLeastProducts, 1, INT32_MAX));
  if (useful > 1 && threads == 0) threads = MaxHostThreads() > 0 ? MaxHostThreads() : AvailableCores();
  return std::min(useful, std::max(threads, 1));
}

// y += scale B (A x) for modules that read the same x, or y = W x + bias + scale B (A x) where there is a weight: what
// stays from call to call, and a call.
class PreparedLora {
 public:
  PreparedLora(DType dtype, int32_t in_features, std::vector<ModuleAddresses> modules, Address weight, Address bias)
      : dtype_(dtype), in_features_(in_features), modules_(std::move(modules)), weight_(weight), bias_(bias) {
    for (const ModuleAddresses& module : modules_)
      num_ranks_.push_back(At<const int32_t>(module.rank_offset)[module.num_slots]);
  }

  // threads: 0 = the host's, or one for each core.
  void Run(Address x, int64_t x_stride, Address y, int64_t y_stride, int32_t out_features, const SegmentAddresses& plan,
           int threads) const {
    const Segments segments = plan.Get();
    CheckPlan(segments);
    CheckRanks();
    std::vector<std::vector<LoraShare>> shares;
    std::vector<std::unique_ptr<float[]>> shrunk;
    std::vector<LoraTarget> targets;
    int64_t products = weight_ == 0 ? 0 : static_cast<int64_t>(plan.rows) * in_features_ * out_features;
    for (const ModuleAddresses& module : modules_) {
      shares.push_back(BankShares(dtype_, module.a, module.b_t, module.rank_offset, module.scale, module.num_slots,
                                  in_features_, module.columns));
      shrunk.emplace_back(new float[static_cast<size_t>(plan.rows) * module.max_rank]);
      targets.push_back({shares.back().data(), shrunk.back().get(), module.max_rank, module.col_begin,
                         module.col_begin + module.columns});
      for (int32_t s = 0; s < segments.count; s++)
        if (segments.slot[s] >= 0)
          products += static_cast<int64_t>(segments.offset[s + 1] - segments.offset[s]) *
                      shares.back()[segments.slot[s]].rank * (in_features_ + module.columns);
    }
    if (products == 0) return;
    Activations activations(dtype_, x, x_stride, plan.rows, in_features_);
    LinearPhase phase;
    phase.tile.dtype = phase.tile.out_dtype = dtype_;
    phase.tile.x = activations.data();
    phase.tile.x_stride = activations.stride();
    phase.tile.in_features = in_features_;
    phase.tile.out_features = out_features;
    phase.tile.weight = At<void>(weight_);
    phase.tile.bias = At<const float>(bias_);
    phase.tile.y = At<void>(y);
    phase.tile.y_stride = y_stride;
    phase.targets = &targets;
    phase.segments = &segments;
    activations.RunBefore(phase, ThreadsFor(products, threads));
  }

 private:
  // Whoever changes the offsets later must not have A and B read, or A x written, past their ends.
  void CheckRanks() const {
    for (size_t m = 0; m < modules_.size(); m++) {
      const ModuleAddresses& module = modules_[m];
      const auto* offset = At<const int32_t>(module.rank_offset);
      bool right = offset[0] == 0 && offset[module.num_slots] == num_ranks_[m];
      for (int32_t n = 0; n < module.num_slots; n++) {
        const int64_t rank = static_cast<int64_t>(offset[n + 1]) - offset[n];
        right = right && rank >= 0 && rank <= module.max_rank;
      }
      LORID_CHECK(right, "rank_offset must go from 0 to ", num_ranks_[m], " by ranks of at most ", module.max_rank);
    }
  }

  void CheckPlan(const Segments& segments) const {
    int32_t num_slots = INT32_MAX;
    for (const ModuleAddresses& module : modules_) num_slots = std::min(num_slots, module.num_slots);
    bool covers = segments.offset[0] == 0 && segments.offset[segments.count] == segments.rows;
    for (int32_t s = 0; s < segments.count; s++) {
      covers = covers && segments.offset[s] <= segments.offset[s + 1];
      LORID_CHECK(segments.slot[s] >= -1 && segments.slot[s] < num_slots, "seg_slot must be -1 or a slot below ",
                  num_slots, "; got ", segments.slot[s]);
    }
    LORID_CHECK(covers, "seg_offset must rise from 0 to T = ", segments.rows);
  }

  DType dtype_;
  int32_t in_features_;
  std::vector<ModuleAddresses> modules_;
  Address weight_, bias_;           // packed, of all columns; 0 where there is none
  std::vector<int32_t> num_ranks_;  // of each module's slots together
};

}  // namespace

void BindLora(py::module_& m) {
  py::class_<SegmentAddresses>(m, "Segments")
      .def(py::init([](int32_t rows, int32_t count, Address offset, Address slot) {
             return SegmentAddresses{rows, count, offset, slot};
           }),
           py::kw_only(), "rows"_a, "count"_a, "offset"_a, "slot"_a);
  m.def("pack_linear", &PackLinear, py::kw_only(), "dtype"_a, "weight"_a, "weight_stride"_a, "out_features"_a,
        "in_features"_a, "packed"_a, "threads"_a);
  m.def("lora_shrink", &LoraShrink, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "in_features"_a, "a"_a,
        "rank_offset"_a, "num_slots"_a, "plan"_a, "shrunk"_a, "shrunk_stride"_a, "threads"_a);
  m.def("lora_expand", &LoraExpand, py::kw_only(), "dtype"_a, "b_t"_a, "rank_offset"_a, "scale"_a, "num_slots"_a,
        "shrunk"_a, "shrunk_stride"_a, "plan"_a, "y"_a, "y_stride"_a, "out_features"_a, "threads"_a);
  py::class_<ModuleAddresses>(m, "LoraModule")
      .def(py::init([](Address a, Address b_t, Address rank_offset, Address scale, int32_t num_slots, int32_t max_rank,
                       int32_t col_begin, int32_t columns) {
             return ModuleAddresses{a, b_t, rank_offset, scale, num_slots, max_rank, col_begin, columns};
           }),
           py::kw_only(), "a"_a, "b_t"_a, "rank_offset"_a, "scale"_a, "num_slots"_a, "max_rank"_a, "col_begin"_a,
           "columns"_a);
  py::class_<PreparedLora>(m, "PreparedLora")
      .def(py::init<DType, int32_t, std::vector<ModuleAddresses>, Address, Address>(), py::kw_only(), "dtype"_a,
           "in_features"_a, "modules"_a, "weight"_a, "bias"_a)
      .def("run", &PreparedLora::Run, "x"_a, "x_stride"_a, "y"_a, "y_stride"_a, "out_features"_a, "plan"_a,
           "threads"_a);
}

}  // namespace lorid
