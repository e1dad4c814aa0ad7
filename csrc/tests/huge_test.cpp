// A weight past 2^31 elements, in memory that is committed only where it is touched.
#include <sys/mman.h>

#include "../dispatch.h"
#include "../ops/phases.h"
#include "check.h"

namespace lorid_test {
namespace {

using lorid::DType;

template <typename T>
void TestLastBlock() {
  constexpr DType kType = sizeof(T) == 2 ? DType::kBf16 : DType::kF32;
  constexpr int32_t kIn = 1 << 12, kBlocks = (1 << 14) + 1;  // the last block begins at element 2^31
  const int64_t block = static_cast<int64_t>(kIn) * lorid::kBlockCols;
  const size_t bytes = static_cast<size_t>(block) * kBlocks * sizeof(T);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  EXPECT(memory != MAP_FAILED);
  if (memory == MAP_FAILED) return;
  T* weight = static_cast<T*>(memory);
  const std::vector<T> last = Random<T>(block, 1), x = Random<T>(kIn, 2);
  std::copy(last.begin(), last.end(), weight + block * (kBlocks - 1));
  std::vector<float> far(static_cast<size_t>(kBlocks) * lorid::kBlockCols), near(lorid::kBlockCols);
  const int32_t offset[] = {0, 1}, slot[] = {-1};
  lorid::LinearTile tile = {};
  tile.dtype = kType;
  tile.out_dtype = DType::kF32;
  const Operands<T> operands(x, 1, kIn);
  tile.x = operands.data();
  tile.x_stride = kIn;
  tile.in_features = kIn;
  tile.row_end = 1;
  tile.seg_offset = offset;
  tile.seg_slot = slot;
  tile.num_segments = 1;
  tile.weight = last.data();
  tile.out_features = tile.col_end = lorid::kBlockCols;
  tile.y = near.data();
  tile.y_stride = lorid::kBlockCols;
  lorid::ActiveKernels().linear(tile);
  tile.weight = weight;
  tile.out_features = tile.col_end = kBlocks * lorid::kBlockCols;
  tile.col_begin = tile.col_end - lorid::kBlockCols;
  tile.y = far.data();
  lorid::ActiveKernels().linear(tile);
  EXPECT(SameBits(far.data() + tile.col_begin, near.data(), near.size()) && near[0] != 0);
  munmap(memory, bytes);
}

}  // namespace

void TestHugeWeight() {
  TestLastBlock<float>();
  TestLastBlock<uint16_t>();
}

}  // namespace lorid_test
