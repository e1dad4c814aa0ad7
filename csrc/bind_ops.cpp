// Bindings of single ops, over plain addresses; lorid_engine.ops checks shapes and dtypes before it calls them.
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

void RunOne(Phase& phase, int threads) {
  const py::gil_scoped_release release;
  RunPhasesOnHost({&phase}, threads);
}

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

// y = W x + bias + scale B (A x).
void LoraLinear(DType dtype, Address x, int64_t x_stride, int32_t in_features, int32_t out_features, Address weight,
                Address bias, Address a, Address b_t, Address rank_offset, Address scale, int32_t num_slots,
                int32_t max_rank, const SegmentAddresses& plan, Address y, int64_t y_stride, int threads) {
  Activations activations(dtype, x, x_stride, plan.rows, in_features);
  const std::vector<LoraShare> shares =
      BankShares(dtype, a, b_t, rank_offset, scale, num_slots, in_features, out_features);
  const std::unique_ptr<float[]> shrunk(new float[static_cast<size_t>(plan.rows) * max_rank]);
  const std::vector<LoraTarget> targets = {{shares.data(), shrunk.get(), max_rank, 0, out_features}};
  const Segments segments = plan.Get();
  LinearPhase phase;
  phase.tile.dtype = phase.tile.out_dtype = dtype;
  phase.tile.x = activations.data();
  phase.tile.x_stride = activations.stride();
  phase.tile.in_features = in_features;
  phase.tile.out_features = out_features;
  phase.tile.weight = At<void>(weight);
  phase.tile.bias = At<const float>(bias);
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
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

// Threads that so many multiplications keep busy for longer than waking them takes; threads: as LoraAdder::Run has it.
int ThreadsFor(int64_t products, int threads) {
  constexpr int64_t kLeastProducts = 1 << 15;
  const auto useful = static_cast<int>(std::clamp<int64_t>(products / kLeastProducts, 1, INT32_MAX));
  if (useful > 1 && threads == 0) threads = MaxHostThreads() > 0 ? MaxHostThreads() : AvailableCores();
  return std::min(useful, std::max(threads, 1));
}

// y += scale B (A x), for modules that read the same x: what stays from call to call, and a call.
class LoraAdder {
 public:
  LoraAdder(DType dtype, int32_t in_features, std::vector<ModuleAddresses> modules)
      : dtype_(dtype), in_features_(in_features), modules_(std::move(modules)) {
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
    int64_t products = 0;
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
  std::vector<int32_t> num_ranks_;  // of each module's slots together
};

void RmsNorm(DType dtype, Address x, int64_t x_stride, Address weight, float epsilon, int32_t rows, int32_t features,
             Address y, int64_t y_stride, int threads) {
  RmsNormPhase phase;
  phase.tile.in_dtype = phase.tile.out_dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.weight = At<const float>(weight);
  phase.tile.epsilon = epsilon;
  phase.tile.features = features;
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
  phase.rows = &rows;
  RunOne(phase, threads);
}

void SiluMul(DType dtype, Address x, int64_t x_stride, int32_t rows, int32_t features, Address y, int64_t y_stride,
             int threads) {
  SiluMulPhase phase;
  phase.tile.in_dtype = phase.tile.out_dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.features = features;
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
  phase.rows = &rows;
  RunOne(phase, threads);
}

void Dropout(DType dtype, Address x, int64_t x_stride, int32_t rows, int32_t features, Address key, uint32_t module,
             uint16_t threshold, float scale, Address y, int64_t y_stride, int threads) {
  RowsPhase<DropoutTile> phase;
  phase.kernel = &Kernels::dropout;
  phase.tile.dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.key = At<const uint64_t>(key);
  phase.tile.module = module;
  phase.tile.threshold = threshold;
  phase.tile.scale = scale;
  phase.tile.features = features;
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
  phase.rows = rows;
  RunOne(phase, threads);
}

void SiluMulBackward(DType dtype, Address x, int64_t x_stride, Address dy, int64_t dy_stride, int32_t rows,
                     int32_t features, Address dx, int64_t dx_stride, int threads) {
  RowsPhase<SiluMulBackwardTile> phase;
  phase.kernel = &Kernels::silu_mul_backward;
  phase.tile.dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.dy = At<void>(dy);
  phase.tile.dy_stride = dy_stride;
  phase.tile.features = features;
  phase.tile.dx = At<void>(dx);
  phase.tile.dx_stride = dx_stride;
  phase.rows = rows;
  RunOne(phase, threads);
}

void RmsNormBackward(DType dtype, Address x, int64_t x_stride, Address weight, float epsilon, Address dy,
                     int64_t dy_stride, int32_t rows, int32_t features, Address dx, int64_t dx_stride, int threads) {
  RowsPhase<RmsNormBackwardTile> phase;
  phase.kernel = &Kernels::rms_norm_backward;
  phase.tile.dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.weight = At<const float>(weight);
  phase.tile.epsilon = epsilon;
  phase.tile.features = features;
  phase.tile.dy = At<void>(dy);
  phase.tile.dy_stride = dy_stride;
  phase.tile.dx = At<void>(dx);
  phase.tile.dx_stride = dx_stride;
  phase.rows = rows;
  RunOne(phase, threads);
}

void TrainingAttention(DType dtype, Address qkv, int64_t qkv_stride, Address cos, Address sin, Address offset,
                       int32_t num_sequences, Address out, int64_t out_stride, Address dout, int64_t dout_stride,
                       Address dqkv, int64_t dqkv_stride, float scale, int32_t window, int32_t num_heads,
                       int32_t num_kv_heads, int32_t head_dim, int threads) {
  LORID_CHECK(head_dim <= kMaxHeadDim, "head_dim must be at most ", kMaxHeadDim, "; got ", head_dim);
  LORID_CHECK(num_heads / num_kv_heads <= kMaxGroupHeads, "a key-value head may have ", kMaxGroupHeads,
              " query heads; got ", num_heads / num_kv_heads);
  TrainingAttentionPhase phase;
  phase.tile.dtype = dtype;
  phase.tile.qkv = At<void>(qkv);
  phase.tile.qkv_stride = qkv_stride;
  phase.tile.cos = At<const float>(cos);
  phase.tile.sin = At<const float>(sin);
  phase.tile.out = At<void>(out);
  phase.tile.out_stride = out_stride;
  phase.tile.dout = At<void>(dout);
  phase.tile.dout_stride = dout_stride;
  phase.tile.dqkv = At<void>(dqkv);
  phase.tile.dqkv_stride = dqkv_stride;
  phase.tile.scale = scale;
  phase.tile.window = window;
  phase.tile.num_heads = num_heads;
  phase.tile.num_kv_heads = num_kv_heads;
  phase.tile.head_dim = head_dim;
  phase.offset = At<const int32_t>(offset);
  phase.count = num_sequences;
  RunOne(phase, threads);
}

void Embed(DType dtype, Address weight, int32_t features, Address token_ids, int32_t rows, Address y, int64_t y_stride,
           int threads) {
  EmbedPhase phase;
  const auto* ids = At<const int32_t>(token_ids);
  phase.dtype = phase.out_dtype = dtype;
  phase.weight = At<void>(weight);
  phase.features = features;
  phase.token_ids = &ids;
  phase.rows = &rows;
  phase.y = At<void>(y);
  phase.y_stride = y_stride;
  RunOne(phase, threads);
}

void Rope(DType dtype, Address qkv, int64_t qkv_stride, Address cos, Address sin, Address q_norm, Address k_norm,
          float norm_epsilon, Address positions, Address cache_slot, Address q_out, int64_t q_out_stride,
          Address k_pages, Address v_pages, int num_heads, int num_kv_heads, int head_dim, int32_t rows, int threads) {
  LORID_CHECK(head_dim <= kMaxHeadDim, "head_dim must be at most ", kMaxHeadDim, "; got ", head_dim);
  RopePhase phase;
  phase.tile.dtype = phase.tile.in_dtype = phase.tile.q_dtype = dtype;
  phase.tile.qkv = At<void>(qkv);
  phase.tile.qkv_stride = qkv_stride;
  phase.tile.cos = At<const float>(cos);
  phase.tile.sin = At<const float>(sin);
  phase.tile.q_norm = At<const float>(q_norm);
  phase.tile.k_norm = At<const float>(k_norm);
  phase.tile.norm_epsilon = norm_epsilon;
  phase.tile.q_out = At<void>(q_out);
  phase.tile.q_out_stride = q_out_stride;
  phase.tile.k_pages = At<void>(k_pages);
  phase.tile.v_pages = At<void>(v_pages);
  phase.tile.num_heads = num_heads;
  phase.tile.num_kv_heads = num_kv_heads;
  phase.tile.head_dim = head_dim;
  const auto* at_positions = At<const int32_t>(positions);
  const auto* at_slots = At<const int64_t>(cache_slot);
  phase.rows = &rows;
  phase.positions = &at_positions;
  phase.cache_slot = &at_slots;
  RunOne(phase, threads);
}

void PagedAttention(DType dtype, Address q, int64_t q_stride, Address k_pages, Address v_pages, Address block_table,
                    int64_t block_table_stride, Address query_offset, Address positions, int32_t num_sequences,
                    Address out, int64_t out_stride, float scale, int window, int num_heads, int num_kv_heads,
                    int head_dim, int threads) {
  LORID_CHECK(head_dim <= kMaxHeadDim, "head_dim must be at most ", kMaxHeadDim, "; got ", head_dim);
  LORID_CHECK(num_heads / num_kv_heads <= kMaxGroupHeads, "a key-value head may have ", kMaxGroupHeads,
              " query heads; got ", num_heads / num_kv_heads);
  AttentionPhase phase;
  phase.tile.dtype = phase.tile.q_dtype = phase.tile.out_dtype = dtype;
  phase.tile.q = At<void>(q);
  phase.tile.q_stride = q_stride;
  phase.tile.k_pages = At<void>(k_pages);
  phase.tile.v_pages = At<void>(v_pages);
  phase.tile.out = At<void>(out);
  phase.tile.out_stride = out_stride;
  phase.tile.scale = scale;
  phase.tile.window = window;
  phase.tile.num_heads = num_heads;
  phase.tile.num_kv_heads = num_kv_heads;
  phase.tile.head_dim = head_dim;
  const Sequences sequences = {num_sequences, At<const int32_t>(query_offset), At<const int32_t>(block_table),
                               block_table_stride, At<const int32_t>(positions)};
  AttentionPlan plan;
  plan.Build(sequences, num_heads, num_kv_heads, threads);
  std::vector<char> scratch;
  phase.plan = &plan;
  phase.scratch = &scratch;
  RunOne(phase, threads);
}

void SampleOp(Address logits, int64_t logits_stride, int32_t vocabulary, const py::dict& arrays, int threads) {
  SampleArrays sample(arrays);
  const SampleArgs args = sample.Get();
  SamplePhase phase;
  phase.logits = At<const float>(logits);
  phase.logits_stride = logits_stride;
  phase.vocabulary = vocabulary;
  phase.args = &args;
  RunOne(phase, threads);
}

}  // namespace

void BindOps(py::module_& m) {
  py::class_<SegmentAddresses>(m, "Segments")
      .def(py::init([](int32_t rows, int32_t count, Address offset, Address slot) {
             return SegmentAddresses{rows, count, offset, slot};
           }),
           py::kw_only(), "rows"_a, "count"_a, "offset"_a, "slot"_a);
  m.def("pack_linear", &PackLinear, py::kw_only(), "dtype"_a, "weight"_a, "weight_stride"_a, "out_features"_a,
        "in_features"_a, "packed"_a, "threads"_a);
  m.def("lora_shrink", &LoraShrink, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "in_features"_a, "a"_a,
        "rank_offset"_a, "num_slots"_a, "plan"_a, "shrunk"_a, "shrunk_stride"_a, "threads"_a);
  m.def("lora_linear", &LoraLinear, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "in_features"_a, "out_features"_a,
        "weight"_a, "bias"_a, "a"_a, "b_t"_a, "rank_offset"_a, "scale"_a, "num_slots"_a, "max_rank"_a, "plan"_a, "y"_a,
        "y_stride"_a, "threads"_a);
  m.def("lora_expand", &LoraExpand, py::kw_only(), "dtype"_a, "b_t"_a, "rank_offset"_a, "scale"_a, "num_slots"_a,
        "shrunk"_a, "shrunk_stride"_a, "plan"_a, "y"_a, "y_stride"_a, "out_features"_a, "threads"_a);
  py::class_<ModuleAddresses>(m, "LoraModule")
      .def(py::init([](Address a, Address b_t, Address rank_offset, Address scale, int32_t num_slots, int32_t max_rank,
                       int32_t col_begin, int32_t columns) {
             return ModuleAddresses{a, b_t, rank_offset, scale, num_slots, max_rank, col_begin, columns};
           }),
           py::kw_only(), "a"_a, "b_t"_a, "rank_offset"_a, "scale"_a, "num_slots"_a, "max_rank"_a, "col_begin"_a,
           "columns"_a);
  py::class_<LoraAdder>(m, "LoraAdder")
      .def(py::init<DType, int32_t, std::vector<ModuleAddresses>>(), py::kw_only(), "dtype"_a, "in_features"_a,
           "modules"_a)
      .def("run", &LoraAdder::Run, "x"_a, "x_stride"_a, "y"_a, "y_stride"_a, "out_features"_a, "plan"_a, "threads"_a);
  m.def("rms_norm", &RmsNorm, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "weight"_a, "epsilon"_a, "rows"_a,
        "features"_a, "y"_a, "y_stride"_a, "threads"_a);
  m.def("silu_mul", &SiluMul, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "rows"_a, "features"_a, "y"_a,
        "y_stride"_a, "threads"_a);
  m.def("dropout", &Dropout, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "rows"_a, "features"_a, "key"_a, "module"_a,
        "threshold"_a, "scale"_a, "y"_a, "y_stride"_a, "threads"_a);
  m.def("embed", &Embed, py::kw_only(), "dtype"_a, "weight"_a, "features"_a, "token_ids"_a, "rows"_a, "y"_a,
        "y_stride"_a, "threads"_a);
  m.def("rope", &Rope, py::kw_only(), "dtype"_a, "qkv"_a, "qkv_stride"_a, "cos"_a, "sin"_a, "q_norm"_a, "k_norm"_a,
        "norm_epsilon"_a, "positions"_a, "cache_slot"_a, "q_out"_a, "q_out_stride"_a, "k_pages"_a, "v_pages"_a,
        "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "rows"_a, "threads"_a);
  m.def("paged_attention", &PagedAttention, py::kw_only(), "dtype"_a, "q"_a, "q_stride"_a, "k_pages"_a, "v_pages"_a,
        "block_table"_a, "block_table_stride"_a, "query_offset"_a, "positions"_a, "num_sequences"_a, "out"_a,
        "out_stride"_a, "scale"_a, "window"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "threads"_a);
  m.def("silu_mul_backward", &SiluMulBackward, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "dy"_a, "dy_stride"_a,
        "rows"_a, "features"_a, "dx"_a, "dx_stride"_a, "threads"_a);
  m.def("rms_norm_backward", &RmsNormBackward, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "weight"_a, "epsilon"_a,
        "dy"_a, "dy_stride"_a, "rows"_a, "features"_a, "dx"_a, "dx_stride"_a, "threads"_a);
  m.def("training_attention", &TrainingAttention, py::kw_only(), "dtype"_a, "qkv"_a, "qkv_stride"_a, "cos"_a, "sin"_a,
        "offset"_a, "num_sequences"_a, "out"_a, "out_stride"_a, "dout"_a, "dout_stride"_a, "dqkv"_a, "dqkv_stride"_a,
        "scale"_a, "window"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "threads"_a);
  m.def("sample", &SampleOp, py::kw_only(), "logits"_a, "logits_stride"_a, "vocabulary"_a, "arrays"_a, "threads"_a);
  m.def("philox", [](uint64_t key, uint32_t sample, uint32_t position) {
    const Philox random = PhiloxAt(key, sample, position);
    return py::make_tuple(random.word[0], random.word[1], random.word[2], random.word[3]);
  });
}

}  // namespace lorid
