// The one function that an instruction set's unit exports: its table of kernels.
#include "../ops/attention-inl.h"
#include "../ops/dropout-inl.h"
#include "../ops/limits-inl.h"
#include "../ops/linear-inl.h"
#include "../ops/pointwise-inl.h"
#include "../ops/shrink-inl.h"
#include "../ops/training-attention-inl.h"

#define LORID_NAME_(isa) #isa
#define LORID_NAME(isa) LORID_NAME_(isa)

namespace lorid {
namespace LORID_ISA {

const Kernels& GetKernels();
const Kernels& GetKernels() {
  static constexpr Kernels kernels = {
      LORID_NAME(LORID_ISA), Shrink,      Linear,    RmsNorm,           SiluMul,  Dropout, SiluMulBackward,
      RmsNormBackward,       Rope,        Attention, TrainingAttention, BlockMax, ReadAll, MultiplyFloats,
      MultiplyBf16,          kActivations};
  return kernels;
}

}  // namespace LORID_ISA
}  // namespace lorid
