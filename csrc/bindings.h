// What the bindings share: addresses as pointers, numpy arrays that are checked, and the arrays of a draw.
#ifndef LORID_BINDINGS_H_
#define LORID_BINDINGS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "check.h"
#include "ops/sample.h"
#include "thread_pool.h"

namespace lorid {

namespace py = pybind11;
using namespace py::literals;

void BindLora(py::module_& m);
void BindOps(py::module_& m);
void BindProgram(py::module_& m);

using Address = uintptr_t;

template <typename T>
T* At(Address address) {
  return reinterpret_cast<T*>(address);
}

// An op alone, on the host's threads.
inline void RunOne(Phase& phase, int threads) {
  const py::gil_scoped_release release;
  RunPhasesOnHost({&phase}, threads);
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

inline SampleArgs MakeSampleArgs(const Array<uint64_t>& philox_key, const Array<uint32_t>& philox_counter,
                                 const Array<float>& temperature, const Array<int32_t>& top_k,
                                 const Array<float>& top_p, int32_t num_logprobs, Array<int32_t>& token_ids,
                                 Array<float>& logprob, Array<int32_t>& rank, Array<int32_t>& top_ids,
                                 Array<float>& top_logprobs) {
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

}  // namespace lorid

#endif  // LORID_BINDINGS_H_
