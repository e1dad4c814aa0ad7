// Python bindings: thin, by keyword, over plain addresses, so that the build needs no torch. lorid_engine.ops checks
// shapes and dtypes first; what is checked here again is what would otherwise read or write out of bounds.
#include "bindings.h"
#include "dispatch.h"
#include "limits.h"
#include "ops/kernels.h"
#include "thread_pool.h"

PYBIND11_MODULE(_C, m) {
  namespace py = pybind11;
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
  m.def(
      "set_host_threads",
      [](lorid::Address parallel, lorid::Address thread_num, lorid::Address max_threads) {
        lorid::HostThreads host;
        host.parallel = reinterpret_cast<decltype(host.parallel)>(parallel);
        host.thread_num = reinterpret_cast<decltype(host.thread_num)>(thread_num);
        host.max_threads = reinterpret_cast<decltype(host.max_threads)>(max_threads);
        lorid::SetHostThreads(host);
      },
      py::kw_only(), py::arg("parallel"), py::arg("thread_num"), py::arg("max_threads"));
  m.def("max_host_threads", &lorid::MaxHostThreads);
  m.def(
      "measure_machine",
      [](int threads) {
        lorid::MachineLimits limits;
        {
          const py::gil_scoped_release release;
          limits = lorid::MeasureMachine(threads);
        }
        return py::dict(py::arg("read_bytes_per_s") = limits.read_bytes_per_s,
                        py::arg("fp32_flop_per_s") = limits.fp32_flop_per_s,
                        py::arg("bf16_flop_per_s") = limits.bf16_flop_per_s, py::arg("barrier_s") = limits.barrier_s);
      },
      py::kw_only(), py::arg("threads"));
  py::class_<lorid::LinearProbe>(m, "LinearProbe")
      .def(py::init<const std::vector<std::pair<int32_t, int32_t>>&>(), py::kw_only(), py::arg("layers"))
      .def_property_readonly("bytes", &lorid::LinearProbe::bytes)
      .def(
          "measure",
          [](const lorid::LinearProbe& probe, int32_t rows, int threads, int runs) {
            lorid::ProbeResult result;
            {
              const py::gil_scoped_release release;
              result = probe.Measure(rows, threads, runs);
            }
            return std::make_pair(result.seconds, result.layer_seconds);
          },
          py::kw_only(), py::arg("rows"), py::arg("threads"), py::arg("runs"));
  lorid::BindLora(m);
  lorid::BindOps(m);
  lorid::BindProgram(m);
}
