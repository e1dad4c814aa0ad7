#include "dispatch.h"

#include <atomic>

#include "check.h"

namespace lorid {

#define LORID_DECLARE_ISA(isa) \
  namespace isa {              \
  const Kernels& GetKernels(); \
  }

#ifdef LORID_HAVE_AVX512BF16
LORID_DECLARE_ISA(avx512bf16)
#endif
#ifdef LORID_HAVE_AVX512
LORID_DECLARE_ISA(avx512)
#endif
#ifdef LORID_HAVE_AVX2
LORID_DECLARE_ISA(avx2)
#endif
#ifdef LORID_HAVE_NEON
LORID_DECLARE_ISA(neon)
#endif
LORID_DECLARE_ISA(scalar)

namespace {

struct Level {
  const char* name;
  const Kernels& (*kernels)();
  bool (*supported)();
};

#if defined(__x86_64__)
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#ifdef LORID_HAVE_AVX512BF16
bool HasAvx512Bf16() { return HasAvx512() && __builtin_cpu_supports("avx512bf16"); }
#endif
#endif
bool Always() { return true; }

// Best first. __builtin_cpu_supports also asks whether the operating system saves the wide registers.
const std::vector<Level>& Levels() {
  static const std::vector<Level> levels = {
#ifdef LORID_HAVE_AVX512BF16
      {"avx512bf16", avx512bf16::GetKernels, HasAvx512Bf16},
#endif
#ifdef LORID_HAVE_AVX512
      {"avx512", avx512::GetKernels, HasAvx512},
#endif
#ifdef LORID_HAVE_AVX2
      {"avx2", avx2::GetKernels, HasAvx2},
#endif
#ifdef LORID_HAVE_NEON
      {"neon", neon::GetKernels, Always},
#endif
      {"scalar", scalar::GetKernels, Always},
  };
  return levels;
}

std::atomic<const Kernels*> active{nullptr};

}  // namespace

std::vector<std::string> CompiledIsas() {
  std::vector<std::string> names;
  for (const Level& level : Levels()) names.emplace_back(level.name);
  return names;
}

std::vector<std::string> SupportedIsas() {
  std::vector<std::string> names;
  for (const Level& level : Levels())
    if (level.supported()) names.emplace_back(level.name);
  return names;
}

void SetIsa(const std::string& name) {
  for (const Level& level : Levels()) {
    if (name != level.name) continue;
    LORID_CHECK(level.supported(), "this machine has no ", name);
    active.store(&level.kernels());
    return;
  }
  std::string known;
  for (const std::string& isa : CompiledIsas()) known += (known.empty() ? "" : ", ") + isa;
  Refuse("instruction set must be one of ", known, "; got ", name);
}

const Kernels& ActiveKernels() {
  const Kernels* kernels = active.load();
  if (kernels == nullptr) {
    SetIsa(SupportedIsas().front());
    kernels = active.load();
  }
  return *kernels;
}

}  // namespace lorid
