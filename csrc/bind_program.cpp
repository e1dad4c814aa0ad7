// Bindings of the step program: its recording, and its steps.
#include "bindings.h"
#include "program.h"

namespace lorid {
namespace {

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

// The ops, each recorded as the next phases of every step.
void BindRecording(py::class_<Program>& program) {
  program
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
      .def("sample", &Program::Sample, py::kw_only(), "logits"_a);
}

}  // namespace

void BindProgram(py::module_& m) {
  py::class_<Program> program(m, "Program");
  BindRecording(program);
  program
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
          "set_share",
          [](Program& program, int target, int32_t slot, Address a, Address b, Address merged, int32_t rank,
             float scale) {
            // b is packed by pack_lora_b: blocks of 32 columns, each with all ranks.
            program.SetShare(target, slot,
                             {At<void>(a), At<void>(b), static_cast<int64_t>(rank) * kBlockCols, kBlockCols,
                              At<void>(merged), rank, scale});
          },
          py::kw_only(), "target"_a, "slot"_a, "a"_a = 0, "b"_a = 0, "merged"_a = 0, "rank"_a = 0, "scale"_a = 0.0f)
      .def("start_profile", &Program::StartProfile)
      .def("profile", &Program::Profile)
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

}  // namespace lorid
