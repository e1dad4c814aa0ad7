#define LORID_ISA neon
#include "../simd/neon.h"

#include "kernels-inl.h"
