#define LORID_ISA avx512bf16
#define LORID_BF16_DOT 1
#include "../simd/avx512.h"
#include "kernels-inl.h"
