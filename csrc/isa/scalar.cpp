#define LORID_ISA scalar
#include "../simd/scalar.h"

#include "kernels-inl.h"
