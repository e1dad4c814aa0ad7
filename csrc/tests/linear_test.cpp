// pack, shrink, linear with adapters and expand, against sums in double.
#include "../ops/phases.h"
#include "check.h"

namespace lorid_test {
namespace {

using lorid::DType;

template <typename T>
constexpr DType kType = sizeof(T) == 2 ? DType::kBf16 : DType::kF32;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A fused linear with two adapted ranges of columns, four slots (the last empty), and rows in segments.
template <typename T>
struct Case {
  int rows, in, out;
  std::vector<int> ranks;
  std::vector<int> slots;  // of each row
  std::vector<T> x, weight, packed;
  std::vector<T> a[2], b_t[2];
  std::vector<int32_t> rank_offset{0}, seg_offset{0}, seg_slot;
  std::vector<float> scale;
  int begin[2], end[2];
  int max_rank = 0;

  Case(int rows, int in, int out, std::vector<int> ranks, std::vector<int> slots, uint32_t seed = 1)
      : rows(rows), in(in), out(out), ranks(ranks), slots(slots) {
    for (const int rank : ranks) {
      rank_offset.push_back(rank_offset.back() + rank);
      scale.push_back(0.5f + static_cast<float>(scale.size()));
      max_rank = std::max(max_rank, rank);
    }
    for (int t = 0; t < rows; t++) {
      if (t == 0 || slots[t] != slots[t - 1]) {
        seg_slot.push_back(slots[t]);
        seg_offset.push_back(t);
      }
      seg_offset.back() = t + 1;
    }
    begin[0] = 0;
    end[0] = std::max(1, out * 2 / 5);
    begin[1] = std::min(out - 1, out * 3 / 5);
    end[1] = out;
    x = Random<T>(static_cast<int64_t>(rows) * in, seed);
    weight = Random<T>(static_cast<int64_t>(out) * in, seed + 1, 1 / std::sqrt(in));
    for (int k = 0; k < 2; k++) {
      a[k] = Random<T>(static_cast<int64_t>(rank_offset.back()) * in, seed + 2 + k, 1 / std::sqrt(in));
      b_t[k] = Random<T>(static_cast<int64_t>(rank_offset.back()) * (end[k] - begin[k]), seed + 4 + k);
    }
    packed.resize(lorid::PackedElements(kType<T>, out, in));
    lorid::PackPhase pack;
    pack.dtype = kType<T>;
    pack.weight = weight.data();
    pack.weight_stride = in;
    pack.out_features = out;
    pack.in_features = in;
    pack.packed = packed.data();
    lorid::RunPhases({&pack}, 2);
  }

  // The shares of both targets; b as the engine packs it, in blocks of 32 columns with all ranks, or [R, O'] as it is.
  std::vector<lorid::LoraShare> Shares(int k, bool blocks, std::vector<T>& b) const {
    const int width = end[k] - begin[k], num_blocks = (width + 31) / 32;
    std::vector<lorid::LoraShare> shares(ranks.size());
    if (blocks) b.assign(static_cast<size_t>(rank_offset.back()) * num_blocks * 32, Narrow<T>(kNan));
    for (size_t n = 0; n < ranks.size(); n++) {
      const int first = rank_offset[n], rank = ranks[n];
      const T* from = b_t[k].data() + static_cast<size_t>(first) * width;
      T* to = b.data() + static_cast<size_t>(first) * num_blocks * 32;
      for (int r = 0; blocks && r < rank; r++)
        for (int c = 0; c < width; c++) to[(c / 32 * rank + r) * 32 + c % 32] = from[r * width + c];
      shares[n] = {a[k].data() + static_cast<size_t>(first) * in,
                   blocks ? to : from,
                   blocks ? rank * 32 : 32,
                   blocks ? 32 : width,
                   nullptr,
                   rank,
                   scale[n]};
    }
    return shares;
  }

  std::vector<T> Run(int threads, bool with_weight = true, const std::vector<T>* start = nullptr, bool blocks = true) {
    std::vector<float> shrunk[2];
    std::vector<T> b[2];
    std::vector<lorid::LoraShare> shares[2];
    std::vector<lorid::LoraTarget> targets;
    for (int k = 0; k < 2; k++) {
      shrunk[k].assign(static_cast<size_t>(rows) * max_rank, kNan);  // what is not defined must not be used
      shares[k] = Shares(k, blocks, b[k]);
      targets.push_back({shares[k].data(), shrunk[k].data(), max_rank, begin[k], end[k]});
    }
    const lorid::Segments segments = {rows, static_cast<int32_t>(seg_slot.size()), seg_offset.data(), seg_slot.data()};
    std::vector<T> y = start != nullptr ? *start : std::vector<T>(static_cast<size_t>(rows) * out, Narrow<T>(kNan));
    const Operands<T> operands(x, rows, in);
    lorid::ShrinkPhase shrink;
    shrink.dtype = kType<T>;
    shrink.x = operands.data();
    shrink.x_stride = in;
    shrink.in_features = in;
    shrink.targets = &targets;
    shrink.segments = &segments;
    lorid::LinearPhase linear;
    linear.tile.dtype = linear.tile.out_dtype = kType<T>;
    linear.tile.x = operands.data();
    linear.tile.x_stride = in;
    linear.tile.in_features = in;
    linear.tile.out_features = out;
    linear.tile.weight = with_weight ? packed.data() : nullptr;
    linear.tile.y = y.data();
    linear.tile.y_stride = out;
    linear.tile.add_to_y = start != nullptr;
    linear.targets = &targets;
    linear.shrunk = !with_weight;  // else it shrinks by itself
    linear.segments = &segments;
    if (with_weight) {
      lorid::RunPhases({&linear}, threads);
    } else {
      lorid::RunPhases({&shrink, &linear}, threads);
    }
    return y;
  }

  std::vector<double> Expected(bool with_weight = true, const std::vector<T>* start = nullptr) const {
    std::vector<double> y(static_cast<size_t>(rows) * out);
    for (int t = 0; t < rows; t++) {
      for (int o = 0; o < out; o++) {
        double sum = start != nullptr ? Widen((*start)[t * out + o]) : 0;
        for (int i = 0; with_weight && i < in; i++) sum += double(Widen(weight[o * in + i])) * Widen(x[t * in + i]);
        y[t * out + o] = sum;
      }
      const int slot = slots[t];
      for (int k = 0; slot >= 0 && k < 2; k++) {
        for (int r = rank_offset[slot]; r < rank_offset[slot + 1]; r++) {
          double shrunk = 0;
          for (int i = 0; i < in; i++) shrunk += double(Widen(a[k][r * in + i])) * Widen(x[t * in + i]);
          for (int o = begin[k]; o < end[k]; o++)
            y[t * out + o] += scale[slot] * shrunk * Widen(b_t[k][r * (end[k] - begin[k]) + o - begin[k]]);
        }
      }
    }
    return y;
  }
};

std::vector<int> Slots(int rows) {
  std::vector<int> slots(rows);
  for (int t = 0; t < rows; t++) slots[t] = (t / 5) % 5 - 1;  // -1, 0, 1, 2, 3, in runs
  return slots;
}

template <typename T>
void TestShapes() {
  for (const int rows : {0, 1, 2, 15, 16, 17, 63, 64, 65, 255}) {
    Case<T> c(rows, 33, 41, {3, 16, 1, 0}, Slots(rows));
    EXPECT(Close(c.Run(2), c.Expected()));
    const std::vector<T> packed = c.Run(2), plain = c.Run(2, true, nullptr, false);
    EXPECT(SameBits(packed.data(), plain.data(), plain.size()));
  }
  for (const int rank : {1, 3, 8, 16, 64, 96, 320, 512}) {
    Case<T> c(13, 40, 64, {rank, 2, 7, 0}, Slots(13));
    EXPECT(Close(c.Run(2), c.Expected()));
  }
  for (const int in : {1, 2, 15, 31, 32, 33, 131})
    for (const int out : {1, 31, 32, 33, 75}) {
      Case<T> c(7, in, out, {3, 4, 5, 0}, Slots(7));
      EXPECT(Close(c.Run(2), c.Expected()));
    }
  Case<T> many(4097, 16, 24, {3, 8, 1, 0}, Slots(4097));
  EXPECT(Close(many.Run(2), many.Expected()));
  Case<T> add(30, 24, 50, {3, 8, 1, 0}, Slots(30));
  const std::vector<T> start = Random<T>(30 * 50, 9);
  EXPECT(Close(add.Run(2, true, &start), add.Expected(true, &start)));
  EXPECT(Close(add.Run(2, false, &start), add.Expected(false, &start)));
}

template <typename T>
void TestRowIndependence() {
  Case<T> c(70, 131, 75, {3, 64, 17, 0}, Slots(70));
  const std::vector<T> together = c.Run(1);
  for (const int threads : {2, 3, 8}) {
    const std::vector<T> again = c.Run(threads);
    EXPECT(SameBits(again.data(), together.data(), again.size()));
  }
  for (const int t : {0, 1, 4, 5, 24, 69}) {
    Case<T> alone(1, 131, 75, {3, 64, 17, 0}, {c.slots[t]});
    alone.x.assign(c.x.begin() + t * 131, c.x.begin() + (t + 1) * 131);
    EXPECT(SameBits(alone.Run(1).data(), together.data() + t * 75, 75));
  }
  Case<T> poisoned = c;
  for (int t = 1; t < 70; t += 2)
    for (int i = 0; i < 131; i++) poisoned.x[t * 131 + i] = Narrow<T>(kNan);
  const std::vector<T> among = poisoned.Run(2);
  for (int t = 0; t < 70; t += 2) EXPECT(SameBits(among.data() + t * 75, together.data() + t * 75, 75));
  Case<T> base = c;
  for (int k = 0; k < 2; k++) {
    for (T& value : base.a[k]) value = Narrow<T>(kNan);
    for (T& value : base.b_t[k]) value = Narrow<T>(kNan);
  }
  Case<T> plain(70, 131, 75, {0, 0, 0, 0}, std::vector<int>(70, -1));
  const std::vector<T> unadapted = base.Run(2), expected = plain.Run(2);
  for (int t = 0; t < 70; t++)
    if (c.slots[t] == -1 || c.slots[t] == 3) EXPECT(SameBits(unadapted.data() + t * 75, expected.data() + t * 75, 75));
}

// A merged adapter's columns are multiplied by its own copy of the weights, all others by W; neighbours do not show.
template <typename T>
void TestMerged() {
  constexpr int kIn = 70, kOut = 100;
  Case<T> base(13, kIn, kOut, {0, 0, 0, 0}, Slots(13)), copy(13, kIn, kOut, {0, 0, 0, 0}, Slots(13), 50);
  const std::vector<T> from_base = base.Run(2);
  copy.x = base.x;
  const std::vector<T> from_copy = copy.Run(2);
  const int64_t block = static_cast<int64_t>(copy.packed.size()) / 4;  // of 32 columns
  std::vector<lorid::LoraShare> shares(4);
  shares[1].merged = copy.packed.data() + block;  // slot 1 has columns 32 to 95 of its own
  const std::vector<lorid::LoraTarget> targets = {{shares.data(), nullptr, 0, 32, 96}};
  const lorid::Segments segments = {13, static_cast<int32_t>(base.seg_slot.size()), base.seg_offset.data(),
                                    base.seg_slot.data()};
  const Operands<T> operands(base.x, 13, kIn);
  std::vector<T> y(from_base.size());
  lorid::LinearPhase linear;
  linear.tile.dtype = linear.tile.out_dtype = kType<T>;
  linear.tile.x = operands.data();
  linear.tile.x_stride = linear.tile.in_features = kIn;
  linear.tile.out_features = kOut;
  linear.tile.weight = base.packed.data();
  linear.tile.y = y.data();
  linear.tile.y_stride = kOut;
  linear.targets = &targets;
  linear.segments = &segments;
  lorid::RunPhases({&linear}, 2);
  for (int t = 0; t < 13; t++)
    for (int c = 0; c < kOut; c++) {
      const std::vector<T>& expected = base.slots[t] == 1 && c >= 32 && c < 96 ? from_copy : from_base;
      EXPECT(SameBits(&y[t * kOut + c], &expected[t * kOut + c], 1));
    }
}

}  // namespace

void TestLinear() {
  TestMerged<float>();
  TestMerged<uint16_t>();
  TestShapes<float>();
  TestShapes<uint16_t>();
  TestRowIndependence<float>();
  TestRowIndependence<uint16_t>();
}

}  // namespace lorid_test
