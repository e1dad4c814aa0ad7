// The C++ tests: every op on every instruction set of the machine, the thread pool, and the step program's checks.
#include <cstdio>
#include <cstring>

#include "../dispatch.h"
#include "check.h"

namespace lorid_test {
void TestLinear();
void TestHugeWeight();
void TestPointwise();
void TestAttention();
void TestTraining();
void TestSample();
void TestThreadPool(bool can_fork);
void TestProgram();
}  // namespace lorid_test

// --no-fork: qemu-user cannot fork a process that has threads.
int main(int argc, char** argv) {
  const bool can_fork = argc < 2 || std::strcmp(argv[1], "--no-fork") != 0;
  for (const std::string& isa : lorid::SupportedIsas()) {
    lorid::SetIsa(isa);
    std::printf("%s\n", isa.c_str());
    lorid_test::TestLinear();
    lorid_test::TestHugeWeight();
    lorid_test::TestPointwise();
    lorid_test::TestAttention();
    lorid_test::TestTraining();
  }
  lorid_test::TestSample();
  lorid_test::TestThreadPool(can_fork);
  lorid_test::TestProgram();
  const lorid_test::Counts counts = lorid_test::TheCounts();
  std::printf("%lld passed, %lld failed\n", static_cast<long long>(counts.passed),
              static_cast<long long>(counts.failed));
  return counts.failed == 0 && counts.passed > 0 ? 0 : 1;
}
