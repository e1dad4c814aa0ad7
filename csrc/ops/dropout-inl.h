// Dropout by counter-based masks: whether an element stays depends on its row's key, its feature and its module alone.
#ifndef LORID_OPS_DROPOUT_INL_H_
#define LORID_OPS_DROPOUT_INL_H_

#include "element-inl.h"
#include "philox.h"

namespace lorid {
namespace LORID_ISA {
namespace {

constexpr int kDraws = 16;                       // neighbouring counters: loops over them become vectors
constexpr int kFeaturesPerDraw = 8;              // a draw's four words are eight halves
constexpr uint32_t kDropoutStream = 0x64726f70;  // apart from the counters of sampling

// halves[8 n + j] = half j of the draw at counter (first + n, module), the low half of a word before its high one.
inline void DrawHalves(uint64_t key, uint32_t first, uint32_t module, uint16_t* halves) {
  for (int n = 0; n < kDraws; n++) {
    const Philox draw = PhiloxAt(key, first + static_cast<uint32_t>(n), module, kDropoutStream);
    for (int j = 0; j < kFeaturesPerDraw; j++)
      halves[n * kFeaturesPerDraw + j] = static_cast<uint16_t>(draw.word[j / 2] >> (j % 2 * 16));
  }
}

template <typename T>
inline void DropoutRow(const DropoutTile& tile, const T* x, uint64_t key, T* y) {
  constexpr int kBlock = kDraws * kFeaturesPerDraw;
  uint16_t halves[kBlock];
  float kept[kBlock];
  for (int i = 0; i < tile.features; i += kBlock) {
    DrawHalves(key, static_cast<uint32_t>(i / kFeaturesPerDraw), tile.module, halves);
    for (int j = 0; j < kBlock; j++) kept[j] = halves[j] >= tile.threshold ? tile.scale : 0.0f;
    const int count = static_cast<int>(Least(kBlock, tile.features - i));
    for (int j = 0; j < count; j += kLanes) {
      const int lanes = LanesLeft(count - j);
      const Vec factor = Load(kept + j);
      // What is dropped becomes 0 even where it is NaN.
      const Vec value = Mul(LoadAsN(x + i + j, lanes), factor);
      StoreAsN(y + i + j, ZeroWhereLess(factor, Set1(1.0f), value), lanes);
    }
  }
}

void Dropout(const DropoutTile& tile) {
  WithType(tile.dtype, [&](auto* type) {
    using T = typename Pointee<decltype(type)>::Type;
    for (int64_t row = tile.row_begin; row < tile.row_end; row++)
      DropoutRow(tile, static_cast<const T*>(tile.x) + row * tile.x_stride, tile.key[row],
                 static_cast<T*>(tile.y) + row * tile.y_stride);
  });
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_DROPOUT_INL_H_
