// Python bindings: thin, by keyword, over plain addresses, so that the build needs no torch. lorid_engine.ops checks
// shapes and dtypes first; what is checked here again is what would otherwise read or write out of bounds.
#include "bindings.h"
#include "dispatch.h"
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
  lorid::BindOps(m);
  lorid::BindProgram(m);
}
