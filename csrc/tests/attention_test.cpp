// rope writes the pages, paged attention reads them; what nobody has written is NaN.
#include "../ops/phases.h"
#include "check.h"

namespace lorid_test {
namespace {

using lorid::DType;

template <typename T>
struct Sequence {
  static constexpr DType kType = sizeof(T) == 2 ? DType::kBf16 : DType::kF32;
  int length, heads, kv_heads, dim, padded, num_pages;
  std::vector<T> qkv, q, k_pages, v_pages;
  std::vector<float> cos, sin;
  std::vector<int32_t> table;

  Sequence(int length, int heads, int kv_heads, int dim)
      : length(length),
        heads(heads),
        kv_heads(kv_heads),
        dim(dim),
        padded((dim + 15) / 16 * 16),
        num_pages((length + 15) / 16 + 1) {
    const T nan = Narrow<T>(std::numeric_limits<float>::quiet_NaN());
    qkv = Random<T>(static_cast<int64_t>(length) * (heads + 2 * kv_heads) * dim, 5);
    q.resize(static_cast<size_t>(length) * heads * dim);
    k_pages.assign(static_cast<size_t>(num_pages) * 16 * kv_heads * dim, nan);
    v_pages.assign(static_cast<size_t>(num_pages) * 16 * kv_heads * padded, nan);
    const std::vector<float> angle = Random<float>(length * dim / 2, 6);
    for (const float value : angle) cos.push_back(std::cos(value)), sin.push_back(std::sin(value));
    for (int page = 0; page + 1 < num_pages; page++) table.push_back(num_pages - 1 - page);
    std::vector<int32_t> positions(length);
    std::vector<int64_t> slots(length);
    for (int t = 0; t < length; t++) positions[t] = t, slots[t] = table[t / 16] * 16 + t % 16;
    const int32_t* at_positions = positions.data();
    const int64_t* at_slots = slots.data();
    lorid::RopePhase rope;
    rope.tile.dtype = rope.tile.in_dtype = rope.tile.q_dtype = kType;
    rope.tile.qkv = qkv.data();
    rope.tile.qkv_stride = (heads + 2 * kv_heads) * dim;
    rope.tile.cos = cos.data();
    rope.tile.sin = sin.data();
    rope.tile.q_out = q.data();
    rope.tile.q_out_stride = heads * dim;
    rope.tile.k_pages = k_pages.data();
    rope.tile.v_pages = v_pages.data();
    rope.tile.num_heads = heads;
    rope.tile.num_kv_heads = kv_heads;
    rope.tile.head_dim = dim;
    rope.rows = &this->length;
    rope.positions = &at_positions;
    rope.cache_slot = &at_slots;
    lorid::RunPhases({&rope}, 2);
  }

  double Rotated(int t, int head, int d) const {
    const T* x = &qkv[(t * (heads + 2 * kv_heads) + head) * dim];
    const int half = dim / 2, i = d % half;
    const double c = cos[t * half + i], s = sin[t * half + i];
    return d < half ? Widen(x[i]) * c - Widen(x[half + i]) * s : Widen(x[half + i]) * c + Widen(x[i]) * s;
  }

  // Rows [first, end) in one call; exactly their queries are in memory.
  std::vector<T> Attend(int first, int end, int window, int threads) const {
    std::vector<int32_t> positions;
    for (int t = first; t < end; t++) positions.push_back(t);
    return AttendRows(positions, {0, end - first}, table, window, threads);
  }

  // Rows at these positions; sequence b owns rows offset[b] to offset[b + 1] and row b of the tables.
  std::vector<T> AttendRows(const std::vector<int32_t>& positions, const std::vector<int32_t>& offset,
                            const std::vector<int32_t>& tables, int window, int threads) const {
    std::vector<T> some;
    for (const int t : positions)
      some.insert(some.end(), q.begin() + t * heads * dim, q.begin() + (t + 1) * heads * dim);
    std::vector<T> out(some.size());
    lorid::AttentionPhase phase;
    phase.tile.dtype = phase.tile.q_dtype = phase.tile.out_dtype = kType;
    phase.tile.q = some.data();
    phase.tile.q_stride = heads * dim;
    phase.tile.k_pages = k_pages.data();
    phase.tile.v_pages = v_pages.data();
    phase.tile.out = out.data();
    phase.tile.out_stride = heads * dim;
    phase.tile.scale = 1 / std::sqrt(static_cast<float>(dim));
    phase.tile.window = window;
    phase.tile.num_heads = heads;
    phase.tile.num_kv_heads = kv_heads;
    phase.tile.head_dim = dim;
    const auto count = static_cast<int32_t>(offset.size()) - 1;
    const lorid::Sequences sequences = {count, offset.data(), tables.data(),
                                        static_cast<int64_t>(tables.size()) / count, positions.data()};
    lorid::AttentionPlan plan;
    plan.Build(sequences, heads, kv_heads, threads);
    std::vector<char> scratch;
    phase.plan = &plan;
    phase.scratch = &scratch;
    lorid::RunPhases({&phase}, threads);
    return out;
  }

  std::vector<double> Expected(int first, int end, int window) const {
    std::vector<double> out;
    for (int t = first; t < end; t++)
      for (int h = 0; h < heads; h++) {
        const int g = h / (heads / kv_heads), begin = window > 0 ? std::max(0, t + 1 - window) : 0;
        std::vector<double> scores, value(dim);
        double most = -1e300, sum = 0;
        for (int j = begin; j <= t; j++) {
          double score = 0;
          for (int d = 0; d < dim; d++) score += Rotated(t, h, d) * Rotated(j, heads + g, d);
          scores.push_back(score / std::sqrt(dim));
          most = std::max(most, scores.back());
        }
        for (int j = begin; j <= t; j++) {
          const double p = std::exp(scores[j - begin] - most);
          sum += p;
          for (int d = 0; d < dim; d++)
            value[d] += p * Widen(qkv[(j * (heads + 2 * kv_heads) + heads + kv_heads + g) * dim + d]);
        }
        for (const double v : value) out.push_back(v / sum);
      }
    return out;
  }
};

template <typename T>
void TestSequence(int length, int heads, int kv_heads, int dim, int window) {
  const Sequence<T> s(length, heads, kv_heads, dim);
  const std::vector<T> whole = s.Attend(0, length, window, 2);
  EXPECT(Close(whole, s.Expected(0, length, window), sizeof(T) == 2 ? 1.0 / 50 : 1e-5));
  for (int first = 0, step = 1; first < length; first += step, step = step % 37 + 5) {
    const int end = std::min(first + step, length);
    const std::vector<T> piece = s.Attend(first, end, window, 1 + step % 3);
    EXPECT(SameBits(piece.data(), whole.data() + first * heads * dim, piece.size()));
  }
}

// Decode rows of many sequences: some share all their pages, some only the first ones, and one is a piece of a prompt.
template <typename T>
void TestSharedPages(int window) {
  Sequence<T> s(300, 6, 2, 24);
  const int prefix = 8, spare = s.num_pages - 1;  // pages that all share; a page that nobody wrote
  std::vector<int32_t> positions, offset = {0}, tables;
  for (const int position : {299, 130, 3, 257, 299, 16, 255, 256, 130, 15, 290, 140}) {
    positions.push_back(position);
    offset.push_back(static_cast<int32_t>(positions.size()));
    for (int page = 0; page < s.num_pages - 1; page++)
      tables.push_back(page <= position / 16 ? s.table[page] : spare);  // what lies past a row's own key is not read
  }
  for (int t = 100; t < 120; t++) positions.push_back(t);
  offset.push_back(static_cast<int32_t>(positions.size()));
  tables.insert(tables.end(), s.table.begin(), s.table.end());
  // Every other sequence gets later pages of its own, with other keys and values.
  const int64_t k_page = 16 * s.kv_heads * s.dim, v_page = 16 * s.kv_heads * s.padded;
  for (size_t b = 0; b + 1 < offset.size(); b += 2)
    for (int page = prefix; page <= positions[offset[b]] / 16; page++) {
      int32_t& at = tables[b * (s.num_pages - 1) + page];
      std::vector<T> k(s.k_pages.begin() + at * k_page, s.k_pages.begin() + (at + 1) * k_page);
      std::vector<T> v(s.v_pages.begin() + at * v_page, s.v_pages.begin() + (at + 1) * v_page);
      for (T& value : k) value = Narrow<T>(0.5f - Widen(value));
      for (T& value : v) value = Narrow<T>(0.5f - Widen(value));
      at = static_cast<int32_t>(s.k_pages.size() / k_page);
      s.k_pages.insert(s.k_pages.end(), k.begin(), k.end());
      s.v_pages.insert(s.v_pages.end(), v.begin(), v.end());
    }
  const int width = s.heads * s.dim, columns = s.num_pages - 1;
  for (const int threads : {1, 3}) {
    const std::vector<T> together = s.AttendRows(positions, offset, tables, window, threads);
    for (size_t b = 0; b + 1 < offset.size(); b++) {
      const std::vector<int32_t> own(positions.begin() + offset[b], positions.begin() + offset[b + 1]);
      const std::vector<int32_t> table(tables.begin() + b * columns, tables.begin() + (b + 1) * columns);
      const std::vector<T> alone = s.AttendRows(own, {0, offset[b + 1] - offset[b]}, table, window, 1);
      EXPECT(SameBits(together.data() + offset[b] * width, alone.data(), alone.size()));
    }
  }
}

}  // namespace

void TestAttention() {
  for (const int window : {0, 20, 270}) {
    TestSharedPages<float>(window);
    TestSharedPages<uint16_t>(window);
  }
  for (const int window : {0, 1, 20, 270}) {
    TestSequence<float>(300, 4, 2, 24, window);
    TestSequence<uint16_t>(300, 4, 2, 24, window);
  }
  TestSequence<float>(17, 40, 1, 2, 0);
  TestSequence<uint16_t>(40, 9, 3, 64, 0);
  TestSequence<float>(1, 1, 1, 16, 0);
}

}  // namespace lorid_test
