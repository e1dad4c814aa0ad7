// Python bindings: thin, by keyword, over plain addresses, so that the build needs no torch. lorid_engine.ops checks
// shapes and dtypes first; what is checked here again is what would otherwise read or write out of bounds.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "check.h"
#include "dispatch.h"
#include "ops/phases.h"
#include "ops/sample.h"
#include "program.h"
#include "thread_pool.h"

namespace py = pybind11;
using namespace py::literals;

namespace lorid {
namespace {

using Address = uintptr_t;

template <typename T>
T* At(Address address) {
  return reinterpret_cast<T*>(address);
}

void RunOne(Phase& phase, int threads) {
  const py::gil_scoped_release release;
  RunPhases({&phase}, threads);
}

// A C-contiguous numpy array of exactly this element type and number of dimensions; nothing is converted.
template <typename T>
class Array {
 public:
  Array(const char* name, const py::array& array, int dims, bool writeable = false) : array_(array) {
    LORID_CHECK(py::isinstance<py::array_t<T>>(array), name, " must be ", std::string(py::str(py::dtype::of<T>())),
                "; got ", std::string(py::str(array.dtype())));
    LORID_CHECK(array.ndim() == dims && (array.flags() & py::array::c_style), name, " must be contiguous with ", dims,
                " dimensions");
    LORID_CHECK(!writeable || array.writeable(), name, " must be writeable");
    name_ = name;
  }
  int64_t size(int dim) const { return array_.shape(dim); }
  const Array& Expect(int dim, int64_t size) const {
    LORID_CHECK(array_.shape(dim) == size, name_, " must have ", size, " entries along dimension ", dim, "; got ",
                array_.shape(dim));
    return *this;
  }
  const T* data() const { return static_cast<const T*>(array_.data()); }
  T* mutable_data() { return static_cast<T*>(array_.mutable_data()); }

 private:
  const char* name_ = nullptr;
  py::array array_;
};

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

void LoraShrink(DType dtype, Address x, int64_t x_stride, int32_t in_features, Address a, Address rank_offset,
                const SegmentAddresses& plan, Address shrunk, int64_t shrunk_stride, int threads) {
  LoraTarget target = {};
  target.a = At<void>(a);
  target.rank_offset = At<const int32_t>(rank_offset);
  target.shrunk = At<float>(shrunk);
  target.shrunk_stride = shrunk_stride;
  const std::vector<LoraTarget> targets = {target};
  const Segments segments = plan.Get();
  ShrinkPhase phase;
  phase.dtype = dtype;
  phase.x = At<void>(x);
  phase.x_stride = x_stride;
  phase.in_features = in_features;
  phase.targets = &targets;
  phase.segments = &segments;
  RunOne(phase, threads);
}

// With a weight: y (+)= W x + bias + scale B shrunk; without (address 0) the adapters' share is added to y.
void LoraLinear(DType dtype, Address x, int64_t x_stride, int32_t in_features, int32_t out_features, Address weight,
                Address bias, Address b_t, Address rank_offset, Address scale, Address shrunk, int64_t shrunk_stride,
                const SegmentAddresses& plan, Address y, int64_t y_stride, bool add_to_y, int threads) {
  LoraTarget target = {};
  target.b_t = At<void>(b_t);
  target.rank_offset = At<const int32_t>(rank_offset);
  target.scale = At<const float>(scale);
  target.shrunk = At<float>(shrunk);
  target.shrunk_stride = shrunk_stride;
  target.col_end = out_features;
  const std::vector<LoraTarget> targets = {target};
  const Segments segments = plan.Get();
  LinearPhase phase;
  phase.tile.dtype = phase.tile.out_dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.in_features = in_features;
  phase.tile.out_features = out_features;
  phase.tile.weight = At<void>(weight);
  phase.tile.bias = At<const float>(bias);
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
  phase.tile.add_to_y = add_to_y;
  phase.targets = b_t == 0 ? nullptr : &targets;
  phase.segments = &segments;
  RunOne(phase, threads);
}

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
  phase.tile.in_dtype = phase.tile.out_dtype = dtype;
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
  LORID_CHECK(num_heads / num_kv_heads <= kMaxGroupHeads, "a key-value head may have ", kMaxGroupHeads,
              " query heads; got ", num_heads / num_kv_heads);
  AttentionPhase phase;
  phase.tile.dtype = phase.tile.out_dtype = dtype;
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
  phase.sequences = &sequences;
  RunOne(phase, threads);
}

SampleArgs MakeSampleArgs(const Array<uint64_t>& philox_key, const Array<uint32_t>& philox_counter,
                          const Array<float>& temperature, const Array<int32_t>& top_k, const Array<float>& top_p,
                          int32_t num_logprobs, Array<int32_t>& token_ids, Array<float>& logprob, Array<int32_t>& rank,
                          Array<int32_t>& top_ids, Array<float>& top_logprobs) {
  const int64_t rows = philox_key.size(0);
  philox_counter.Expect(0, rows).Expect(1, 2);
  temperature.Expect(0, rows);
  top_k.Expect(0, rows);
  top_p.Expect(0, rows);
  token_ids.Expect(0, rows);
  if (num_logprobs >= 0) {
    logprob.Expect(0, rows);
    rank.Expect(0, rows);
    top_ids.Expect(0, rows).Expect(1, num_logprobs);
    top_logprobs.Expect(0, rows).Expect(1, num_logprobs);
  }
  SampleArgs args;
  args.rows = static_cast<int32_t>(rows);
  args.philox_key = philox_key.data();
  args.philox_counter = philox_counter.data();
  args.temperature = temperature.data();
  args.top_k = top_k.data();
  args.top_p = top_p.data();
  args.num_logprobs = num_logprobs;
  args.token_ids = token_ids.mutable_data();
  args.logprob = logprob.mutable_data();
  args.rank = rank.mutable_data();
  args.top_ids = top_ids.mutable_data();
  args.top_logprobs = top_logprobs.mutable_data();
  return args;
}

// The arrays of a draw that every caller passes, as numpy arrays; token_ids to top_logprobs are written.
struct SampleArrays {
  Array<uint64_t> philox_key;
  Array<uint32_t> philox_counter;
  Array<float> temperature;
  Array<int32_t> top_k;
  Array<float> top_p;
  int32_t num_logprobs;
  Array<int32_t> token_ids;
  Array<float> logprob;
  Array<int32_t> rank;
  Array<int32_t> top_ids;
  Array<float> top_logprobs;

  explicit SampleArrays(const py::dict& d)
      : philox_key("philox_key", d["philox_key"], 1),
        philox_counter("philox_counter", d["philox_counter"], 2),
        temperature("temperature", d["temperature"], 1),
        top_k("top_k", d["top_k"], 1),
        top_p("top_p", d["top_p"], 1),
        num_logprobs(d["num_logprobs"].cast<int32_t>()),
        token_ids("token_ids", d["out_token_ids"], 1, true),
        logprob("logprob", d["out_logprob"], 1, true),
        rank("rank", d["out_rank"], 1, true),
        top_ids("top_ids", d["out_top_ids"], 2, true),
        top_logprobs("top_logprobs", d["out_top_logprobs"], 2, true) {}

  SampleArgs Get() {
    return MakeSampleArgs(philox_key, philox_counter, temperature, top_k, top_p, num_logprobs, token_ids, logprob, rank,
                          top_ids, top_logprobs);
  }
};

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

void RunProgram(Program& program, const py::dict& d, int threads) {
  const Array<int32_t> token_ids("token_ids", d["token_ids"], 1), positions("positions", d["positions"], 1);
  const Array<int32_t> query_offset("query_offset", d["query_offset"], 1),
      block_table("block_table", d["block_table"], 2);
  const Array<int32_t> seg_offset("seg_offset", d["seg_offset"], 1), seg_slot("seg_slot", d["seg_slot"], 1);
  const Array<int32_t> sample_rows("sample_rows", d["sample_rows"], 1), page_copies("page_copies", d["page_copies"], 2);
  SampleArrays sample(d);
  positions.Expect(0, token_ids.size(0));
  block_table.Expect(0, query_offset.size(0) - 1);
  seg_offset.Expect(0, seg_slot.size(0) + 1);
  page_copies.Expect(1, 2);
  sample.philox_key.Expect(0, sample_rows.size(0));
  Step step;
  step.segments = {static_cast<int32_t>(token_ids.size(0)), static_cast<int32_t>(seg_slot.size(0)), seg_offset.data(),
                   seg_slot.data()};
  step.sequences = {static_cast<int32_t>(block_table.size(0)), query_offset.data(), block_table.data(),
                    block_table.size(1), positions.data()};
  step.token_ids = token_ids.data();
  step.sample_rows = sample_rows.data();
  step.sample = sample.Get();
  step.page_copies = page_copies.data();
  step.num_page_copies = static_cast<int32_t>(page_copies.size(0));
  const py::gil_scoped_release release;
  program.Run(step, threads);
}

void BindOps(py::module_& m) {
  py::class_<SegmentAddresses>(m, "Segments")
      .def(py::init([](int32_t rows, int32_t count, Address offset, Address slot) {
             return SegmentAddresses{rows, count, offset, slot};
           }),
           py::kw_only(), "rows"_a, "count"_a, "offset"_a, "slot"_a);
  m.def("pack_linear", &PackLinear, py::kw_only(), "dtype"_a, "weight"_a, "weight_stride"_a, "out_features"_a,
        "in_features"_a, "packed"_a, "threads"_a);
  m.def("lora_shrink", &LoraShrink, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "in_features"_a, "a"_a,
        "rank_offset"_a, "plan"_a, "shrunk"_a, "shrunk_stride"_a, "threads"_a);
  m.def("lora_linear", &LoraLinear, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "in_features"_a, "out_features"_a,
        "weight"_a, "bias"_a, "b_t"_a, "rank_offset"_a, "scale"_a, "shrunk"_a, "shrunk_stride"_a, "plan"_a, "y"_a,
        "y_stride"_a, "add_to_y"_a, "threads"_a);
  m.def("rms_norm", &RmsNorm, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "weight"_a, "epsilon"_a, "rows"_a,
        "features"_a, "y"_a, "y_stride"_a, "threads"_a);
  m.def("silu_mul", &SiluMul, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "rows"_a, "features"_a, "y"_a,
        "y_stride"_a, "threads"_a);
  m.def("embed", &Embed, py::kw_only(), "dtype"_a, "weight"_a, "features"_a, "token_ids"_a, "rows"_a, "y"_a,
        "y_stride"_a, "threads"_a);
  m.def("rope", &Rope, py::kw_only(), "dtype"_a, "qkv"_a, "qkv_stride"_a, "cos"_a, "sin"_a, "q_norm"_a, "k_norm"_a,
        "norm_epsilon"_a, "positions"_a, "cache_slot"_a, "q_out"_a, "q_out_stride"_a, "k_pages"_a, "v_pages"_a,
        "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "rows"_a, "threads"_a);
  m.def("paged_attention", &PagedAttention, py::kw_only(), "dtype"_a, "q"_a, "q_stride"_a, "k_pages"_a, "v_pages"_a,
        "block_table"_a, "block_table_stride"_a, "query_offset"_a, "positions"_a, "num_sequences"_a, "out"_a,
        "out_stride"_a, "scale"_a, "window"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "threads"_a);
  m.def("sample", &SampleOp, py::kw_only(), "logits"_a, "logits_stride"_a, "vocabulary"_a, "arrays"_a, "threads"_a);
  m.def("philox", [](uint64_t key, uint32_t sample, uint32_t position) {
    const Philox random = PhiloxAt(key, sample, position);
    return py::make_tuple(random.word[0], random.word[1], random.word[2], random.word[3]);
  });
}

void BindProgram(py::module_& m) {
  py::class_<Program>(m, "Program")
      .def(py::init([](DType dtype, int32_t max_rows, int32_t max_samples, int32_t vocabulary, int32_t max_positions,
                       int32_t num_pages, int32_t num_slots) {
             return std::make_unique<Program>(
                 dtype, Program::Limits{max_rows, max_samples, vocabulary, max_positions, num_pages, num_slots});
           }),
           py::kw_only(), "dtype"_a, "max_rows"_a, "max_samples"_a, "vocabulary"_a, "max_positions"_a, "num_pages"_a,
           "num_slots"_a)
      .def("add_buffer", &Program::AddBuffer, py::kw_only(), "width"_a, "dtype"_a, "sampled"_a = false)
      .def("add_target", &Program::AddTarget, py::kw_only(), "col_begin"_a, "col_end"_a)
      .def(
          "set_target",
          [](Program& program, int target, Address a, Address b_t, Address rank_offset, Address scale,
             int32_t max_rank) {
            program.SetTarget(
                target, {At<void>(a), At<void>(b_t), At<const int32_t>(rank_offset), At<const float>(scale), max_rank});
          },
          py::kw_only(), "target"_a, "a"_a, "b_t"_a, "rank_offset"_a, "scale"_a, "max_rank"_a)
      .def(
          "embed", [](Program& p, Address weight, int out) { p.Embed(At<void>(weight), out); }, py::kw_only(),
          "weight"_a, "out"_a)
      .def(
          "rms_norm",
          [](Program& p, int x, Address weight, float epsilon, int out, bool sampled) {
            p.RmsNorm(x, At<const float>(weight), epsilon, out, sampled);
          },
          py::kw_only(), "x"_a, "weight"_a, "epsilon"_a, "out"_a, "sampled"_a)
      .def(
          "linear",
          [](Program& p, int x, Address weight, Address bias, int32_t out_features, int out, bool add,
             const std::vector<int>& targets, bool sampled) {
            p.Linear(x, At<void>(weight), At<const float>(bias), out_features, out, add, targets, sampled);
          },
          py::kw_only(), "x"_a, "weight"_a, "bias"_a, "out_features"_a, "out"_a, "add"_a, "targets"_a, "sampled"_a)
      .def(
          "rope",
          [](Program& p, int qkv, Address cos, Address sin, Address q_norm, Address k_norm, float norm_epsilon,
             int q_out, Address k_pages, Address v_pages, int num_heads, int num_kv_heads, int head_dim) {
            const RopeTables tables = {At<const float>(cos), At<const float>(sin), At<const float>(q_norm),
                                       At<const float>(k_norm), norm_epsilon};
            p.Rope(qkv, tables, q_out, At<void>(k_pages), At<void>(v_pages), num_heads, num_kv_heads, head_dim);
          },
          py::kw_only(), "qkv"_a, "cos"_a, "sin"_a, "q_norm"_a, "k_norm"_a, "norm_epsilon"_a, "q_out"_a, "k_pages"_a,
          "v_pages"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a)
      .def(
          "attention",
          [](Program& p, int q, int out, Address k_pages, Address v_pages, int num_heads, int num_kv_heads,
             int head_dim, int window) {
            p.Attention(q, out, At<void>(k_pages), At<void>(v_pages), num_heads, num_kv_heads, head_dim, window);
          },
          py::kw_only(), "q"_a, "out"_a, "k_pages"_a, "v_pages"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a,
          "window"_a)
      .def("silu_mul", &Program::SiluMul, py::kw_only(), "x"_a, "out"_a)
      .def("sample", &Program::Sample, py::kw_only(), "logits"_a)
      .def("run", &RunProgram, py::kw_only(), "step"_a, "threads"_a)
      .def(
          "read_buffer",
          [](const Program& program, int buffer, int64_t rows) {
            LORID_CHECK(program.BufferType(buffer) == DType::kF32, "only a float32 buffer can be read");
            LORID_CHECK(rows >= 0 && rows <= program.BufferRows(buffer), "rows must be from 0 to ",
                        program.BufferRows(buffer), "; got ", rows);
            py::array_t<float> copy({rows, program.BufferWidth(buffer)});
            std::copy_n(static_cast<const float*>(program.BufferData(buffer)), copy.size(), copy.mutable_data());
            return copy;
          },
          py::kw_only(), "buffer"_a, "rows"_a);
}

}  // namespace
}  // namespace lorid

PYBIND11_MODULE(_C, m) {
  m.doc() = "The CPU backend of lorid_engine.";
  py::enum_<lorid::DType>(m, "DType").value("f32", lorid::DType::kF32).value("bf16", lorid::DType::kBf16);
  m.attr("PAGE_TOKENS") = lorid::kPageTokens;
  m.attr("BLOCK_COLS") = lorid::kBlockCols;
  m.attr("MAX_HEAD_DIM") = lorid::kMaxHeadDim;
  m.attr("MAX_GROUP_HEADS") = lorid::kMaxGroupHeads;
  m.def("compiled_isas", &lorid::CompiledIsas);
  m.def("supported_isas", &lorid::SupportedIsas);
  m.def("set_isa", &lorid::SetIsa, py::arg("name"));
  m.def("active_isa", [] { return std::string(lorid::ActiveKernels().name); });
  m.def("available_cores", &lorid::AvailableCores);
  lorid::BindOps(m);
  lorid::BindProgram(m);
}
