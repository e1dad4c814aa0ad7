// rms_norm, silu_mul, embed and rope.
#include "../ops/phases.h"
#include "check.h"

namespace lorid_test {
namespace {

using lorid::DType;

template <typename T>
constexpr DType kType = sizeof(T) == 2 ? DType::kBf16 : DType::kF32;

template <typename T>
void TestNorm(int rows, int features) {
  const std::vector<T> x = Random<T>(static_cast<int64_t>(rows) * features, 1);
  const std::vector<float> weight = Random<float>(features, 2);
  std::vector<int32_t> index;
  for (int t = rows - 1; t >= 0; t -= 2) index.push_back(t);
  const auto count = static_cast<int32_t>(index.size());
  const int32_t* at = index.data();
  std::vector<T> y(static_cast<size_t>(count) * features);
  lorid::RmsNormPhase phase;
  phase.tile.in_dtype = phase.tile.out_dtype = kType<T>;
  phase.tile.x = x.data();
  phase.tile.x_stride = features;
  phase.tile.weight = weight.data();
  phase.tile.epsilon = 1e-5f;
  phase.tile.features = features;
  phase.tile.y = y.data();
  phase.tile.y_stride = features;
  phase.rows = &count;
  phase.row_index = &at;
  lorid::RunPhases({&phase}, 2);
  std::vector<double> expected;
  for (const int t : index) {
    double sum = 0;
    for (int i = 0; i < features; i++) sum += std::pow(Widen(x[t * features + i]), 2.0);
    for (int i = 0; i < features; i++)
      expected.push_back(Widen(x[t * features + i]) * double(weight[i]) / std::sqrt(sum / features + 1e-5));
  }
  EXPECT(Close(y, expected));
}

template <typename T>
void TestSilu(int32_t rows, int features) {
  const std::vector<T> x = Random<T>(static_cast<int64_t>(rows) * 2 * features, 1, 4);
  std::vector<T> y(static_cast<size_t>(rows) * features);
  lorid::SiluMulPhase phase;
  phase.tile.in_dtype = phase.tile.out_dtype = kType<T>;
  phase.tile.x = x.data();
  phase.tile.x_stride = 2 * features;
  phase.tile.features = features;
  phase.tile.y = y.data();
  phase.tile.y_stride = features;
  phase.rows = &rows;
  lorid::RunPhases({&phase}, 2);
  std::vector<double> expected;
  for (int t = 0; t < rows; t++)
    for (int i = 0; i < features; i++) {
      const double gate = Widen(x[t * 2 * features + i]), up = Widen(x[(t * 2 + 1) * features + i]);
      expected.push_back(gate / (1 + std::exp(-gate)) * up);
    }
  EXPECT(Close(y, expected));
}

template <typename T>
void TestEmbed() {
  const int vocabulary = 71, features = 37;
  const std::vector<T> table = Random<T>(vocabulary * features, 3);
  std::vector<T> packed(lorid::PackedElements(kType<T>, vocabulary, features));
  lorid::PackPhase pack;
  pack.dtype = kType<T>;
  pack.weight = table.data();
  pack.weight_stride = features;
  pack.out_features = vocabulary;
  pack.in_features = features;
  pack.packed = packed.data();
  const std::vector<int32_t> ids = {0, 70, 31, 32, 63, 64};
  const auto rows = static_cast<int32_t>(ids.size());
  const int32_t* at = ids.data();
  std::vector<T> y(ids.size() * features);
  lorid::EmbedPhase phase;
  phase.dtype = phase.out_dtype = kType<T>;
  phase.weight = packed.data();
  phase.features = features;
  phase.token_ids = &at;
  phase.rows = &rows;
  phase.y = y.data();
  phase.y_stride = features;
  lorid::RunPhases({&pack, &phase}, 2);
  for (int t = 0; t < rows; t++) EXPECT(SameBits(&y[t * features], &table[ids[t] * features], features));
}

}  // namespace

void TestPointwise() {
  for (const int rows : {0, 1, 2, 17, 65})
    for (const int features : {1, 15, 16, 33, 576}) {
      TestNorm<float>(rows, features);
      TestNorm<uint16_t>(rows, features);
      TestSilu<float>(rows, features);
      TestSilu<uint16_t>(rows, features);
    }
  TestEmbed<float>();
  TestEmbed<uint16_t>();
}

}  // namespace lorid_test
