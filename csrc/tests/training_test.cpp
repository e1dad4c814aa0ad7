// What training adds: attention of whole sequences forward and backward, gradients of rms_norm and silu_mul, dropout.
#include "../dispatch.h"
#include "../ops/phases.h"
#include "../ops/philox.h"
#include "check.h"

namespace lorid_test {
namespace {

using lorid::DType;

template <typename T>
constexpr DType kType = sizeof(T) == 2 ? DType::kBf16 : DType::kF32;

// Sequences of one key-value head beside another that is not looked at; the maths in double.
template <typename T>
struct Sequences {
  int heads, kv_heads, dim, window;
  std::vector<int32_t> offset;
  bool rotates;
  std::vector<T> qkv, dout;
  std::vector<float> cos, sin;

  Sequences(const std::vector<int32_t>& lengths, int heads, int kv_heads, int dim, int window, bool rotates)
      : heads(heads), kv_heads(kv_heads), dim(dim), window(window), offset({0}), rotates(rotates) {
    for (const int32_t length : lengths) offset.push_back(offset.back() + length);
    qkv = Random<T>(static_cast<int64_t>(offset.back()) * Width(), 1);
    dout = Random<T>(static_cast<int64_t>(offset.back()) * heads * dim, 2);
    for (const float angle : Random<float>(static_cast<int64_t>(offset.back()) * (dim / 2), 3)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
  }

  int Width() const { return (heads + 2 * kv_heads) * dim; }

  void Run(std::vector<T>* out, std::vector<T>* dqkv, int threads) {
    lorid::TrainingAttentionPhase phase;
    phase.tile.dtype = kType<T>;
    phase.tile.qkv = qkv.data();
    phase.tile.qkv_stride = Width();
    phase.tile.cos = rotates ? cos.data() : nullptr;
    phase.tile.sin = rotates ? sin.data() : nullptr;
    phase.tile.out = out == nullptr ? nullptr : out->data();
    phase.tile.out_stride = phase.tile.dout_stride = heads * dim;
    phase.tile.dout = dout.data();
    phase.tile.dqkv = dqkv == nullptr ? nullptr : dqkv->data();
    phase.tile.dqkv_stride = Width();
    phase.tile.scale = 1 / std::sqrt(static_cast<float>(dim));
    phase.tile.window = window;
    phase.tile.num_heads = heads;
    phase.tile.num_kv_heads = kv_heads;
    phase.tile.head_dim = dim;
    phase.offset = offset.data();
    phase.count = static_cast<int32_t>(offset.size()) - 1;
    lorid::RunPhases({&phase}, threads);
  }

  // One head of a row, rotated where it is a query's or a key's.
  std::vector<double> Head(int row, int head) const {
    std::vector<double> x(dim);
    for (int d = 0; d < dim; d++) x[d] = Widen(qkv[row * Width() + head * dim + d]);
    if (rotates && head < heads + kv_heads) Rotate(row, x, 1);
    return x;
  }

  void Rotate(int row, std::vector<double>& x, double direction) const {
    const int half = dim / 2;
    for (int d = 0; d < half; d++) {
      const double c = cos[row * half + d], s = direction * sin[row * half + d], a = x[d], b = x[half + d];
      x[d] = a * c - b * s;
      x[half + d] = b * c + a * s;
    }
  }

  void Expected(std::vector<double>& out, std::vector<double>& dqkv) const {
    out.assign(static_cast<size_t>(offset.back()) * heads * dim, 0);
    dqkv.assign(static_cast<size_t>(offset.back()) * Width(), 0);
    const double scale = 1 / std::sqrt(static_cast<double>(dim));
    for (size_t b = 0; b + 1 < offset.size(); b++)
      for (int i = offset[b]; i < offset[b + 1]; i++)
        for (int h = 0; h < heads; h++) {
          const int key_head = heads + h / (heads / kv_heads), value_head = key_head + kv_heads;
          const int first = window > 0 ? std::max(offset[b], i + 1 - window) : offset[b];
          const std::vector<double> q = Head(i, h);
          std::vector<double> p, dp, dq(dim);
          double sum = 0, mean = 0;
          for (int j = first; j <= i; j++) {
            const std::vector<double> k = Head(j, key_head);
            double score = 0;
            for (int d = 0; d < dim; d++) score += q[d] * k[d];
            p.push_back(std::exp(score * scale));
            sum += p.back();
          }
          for (int j = first; j <= i; j++) {
            p[j - first] /= sum;
            const std::vector<double> v = Head(j, value_head);
            dp.push_back(0);
            for (int d = 0; d < dim; d++) {
              out[(i * heads + h) * dim + d] += p[j - first] * v[d];
              const double g = Widen(dout[(i * heads + h) * dim + d]);
              dp.back() += g * v[d];
              dqkv[j * Width() + value_head * dim + d] += p[j - first] * g;
            }
            mean += p[j - first] * dp.back();
          }
          for (int j = first; j <= i; j++) {
            const std::vector<double> k = Head(j, key_head);
            const double ds = p[j - first] * (dp[j - first] - mean) * scale;
            for (int d = 0; d < dim; d++) {
              dq[d] += ds * k[d];
              dqkv[j * Width() + key_head * dim + d] += ds * q[d];
            }
          }
          for (int d = 0; d < dim; d++) dqkv[i * Width() + h * dim + d] += dq[d];
        }
    for (int row = 0; rotates && row < offset.back(); row++)
      for (int head = 0; head < heads + kv_heads; head++) {
        std::vector<double> x(dqkv.begin() + row * Width() + head * dim,
                              dqkv.begin() + row * Width() + (head + 1) * dim);
        Rotate(row, x, -1);
        std::copy(x.begin(), x.end(), dqkv.begin() + row * Width() + head * dim);
      }
  }
};

template <typename T>
void TestTrainingAttention(const std::vector<int32_t>& lengths, int heads, int kv_heads, int dim, int window,
                           bool rotates) {
  Sequences<T> s(lengths, heads, kv_heads, dim, window, rotates);
  std::vector<double> out, dqkv;
  s.Expected(out, dqkv);
  std::vector<T> first_out, first_dqkv;
  for (const int threads : {1, 3}) {
    std::vector<T> our_out(out.size()), our_dqkv(dqkv.size());
    s.Run(&our_out, nullptr, threads);
    s.Run(nullptr, &our_dqkv, threads);
    EXPECT(Close(our_out, out));
    EXPECT(Close(our_dqkv, dqkv));
    if (threads == 1) {
      first_out = our_out;
      first_dqkv = our_dqkv;
    }
    EXPECT(SameBits(our_out.data(), first_out.data(), our_out.size()));
    EXPECT(SameBits(our_dqkv.data(), first_dqkv.data(), our_dqkv.size()));
  }
}

template <typename T>
void TestNormBackward(int rows, int features) {
  const std::vector<T> x = Random<T>(static_cast<int64_t>(rows) * features, 1);
  const std::vector<T> dy = Random<T>(static_cast<int64_t>(rows) * features, 2);
  const std::vector<float> weight = Random<float>(features, 3);
  std::vector<T> dx(x.size());
  lorid::RowsPhase<lorid::RmsNormBackwardTile> phase;
  phase.kernel = &lorid::Kernels::rms_norm_backward;
  phase.tile.dtype = kType<T>;
  phase.tile.x = x.data();
  phase.tile.dy = dy.data();
  phase.tile.dx = dx.data();
  phase.tile.x_stride = phase.tile.dy_stride = phase.tile.dx_stride = phase.tile.features = features;
  phase.tile.weight = weight.data();
  phase.tile.epsilon = 1e-2f;
  phase.rows = rows;
  lorid::RunPhases({&phase}, 2);
  std::vector<double> expected;
  for (int t = 0; t < rows; t++) {
    double squares = 0, products = 0;
    for (int i = 0; i < features; i++) {
      squares += std::pow(Widen(x[t * features + i]), 2.0);
      products += Widen(dy[t * features + i]) * double(weight[i]) * Widen(x[t * features + i]);
    }
    const double r = 1 / std::sqrt(squares / features + double(1e-2f));
    for (int i = 0; i < features; i++)
      expected.push_back(r * Widen(dy[t * features + i]) * double(weight[i]) -
                         Widen(x[t * features + i]) * r * r * r * products / features);
  }
  EXPECT(Close(dx, expected));
}

template <typename T>
void TestSiluBackward(int rows, int features) {
  const std::vector<T> x = Random<T>(static_cast<int64_t>(rows) * 2 * features, 1, 4);
  const std::vector<T> dy = Random<T>(static_cast<int64_t>(rows) * features, 2);
  std::vector<T> dx(x.size());
  lorid::RowsPhase<lorid::SiluMulBackwardTile> phase;
  phase.kernel = &lorid::Kernels::silu_mul_backward;
  phase.tile.dtype = kType<T>;
  phase.tile.x = x.data();
  phase.tile.dy = dy.data();
  phase.tile.dx = dx.data();
  phase.tile.x_stride = phase.tile.dx_stride = 2 * features;
  phase.tile.dy_stride = phase.tile.features = features;
  phase.rows = rows;
  lorid::RunPhases({&phase}, 2);
  std::vector<double> expected(dx.size());
  for (int t = 0; t < rows; t++)
    for (int i = 0; i < features; i++) {
      const double g = Widen(x[t * 2 * features + i]), up = Widen(x[(t * 2 + 1) * features + i]);
      const double d = Widen(dy[t * features + i]), sigmoid = 1 / (1 + std::exp(-g));
      expected[t * 2 * features + i] = d * up * sigmoid * (1 + g * (1 - sigmoid));
      expected[(t * 2 + 1) * features + i] = d * g * sigmoid;
    }
  EXPECT(Close(dx, expected));
}

template <typename T>
void TestDropout(int rows, int features) {
  const std::vector<T> x(static_cast<size_t>(rows) * features, Narrow<T>(1.5f));
  std::vector<T> y(x.size());
  std::vector<uint64_t> keys;
  for (int t = 0; t < rows; t++) keys.push_back(0x9e3779b97f4a7c15u * static_cast<uint64_t>(t + 1));
  lorid::RowsPhase<lorid::DropoutTile> phase;
  phase.kernel = &lorid::Kernels::dropout;
  phase.tile.dtype = kType<T>;
  phase.tile.x = x.data();
  phase.tile.y = y.data();
  phase.tile.x_stride = phase.tile.y_stride = phase.tile.features = features;
  phase.tile.key = keys.data();
  phase.tile.module = 7;
  phase.tile.threshold = 1 << 14;
  phase.tile.scale = 2;
  phase.rows = rows;
  lorid::RunPhases({&phase}, 2);
  bool right = true;
  for (int t = 0; t < rows; t++)
    for (int i = 0; i < features; i++) {
      const lorid::Philox draw = lorid::PhiloxAt(keys[t], static_cast<uint32_t>(i / 8), 7, 0x64726f70);
      const bool kept = (draw.word[i % 8 / 2] >> (i % 2 * 16) & 0xffff) >= 1 << 14;
      right &= Widen(y[t * features + i]) == (kept ? 3.0 : 0.0);
    }
  EXPECT(right);
}

}  // namespace

void TestTraining() {
  const std::vector<int32_t> lengths = {1, 15, 0, 16, 17, 70};
  for (const int window : {0, 1, 20}) {
    TestTrainingAttention<float>(lengths, 6, 2, 24, window, true);
    TestTrainingAttention<uint16_t>(lengths, 4, 2, 10, window, true);
  }
  TestTrainingAttention<float>({40, 3}, 50, 1, 16, 0, false);
  TestTrainingAttention<uint16_t>({40, 3}, 3, 3, 64, 0, false);
  for (const int rows : {0, 1, 17})
    for (const int features : {3, 15, 16, 33, 576}) {
      TestNormBackward<float>(rows, features);
      TestNormBackward<uint16_t>(rows, features);
      TestSiluBackward<float>(rows, features);
      TestSiluBackward<uint16_t>(rows, features);
      TestDropout<float>(rows, features);
      TestDropout<uint16_t>(rows, features);
    }
}

}  // namespace lorid_test
