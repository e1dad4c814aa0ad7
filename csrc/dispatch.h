// Which instruction sets are compiled in, which this machine has, and which one is in use.
#ifndef LORID_DISPATCH_H_
#define LORID_DISPATCH_H_

#include <string>
#include <vector>

#include "ops/kernels.h"

namespace lorid {

std::vector<std::string> CompiledIsas();   // best first
std::vector<std::string> SupportedIsas();  // those of them that this machine can run, best first

// Uses the named instruction set from now on; throws std::invalid_argument if it is not compiled in or this machine
// lacks it.
void SetIsa(const std::string& name);

// The kernels in use: the best that the machine has, unless SetIsa chose others.
const Kernels& ActiveKernels();

}  // namespace lorid

#endif  // LORID_DISPATCH_H_
