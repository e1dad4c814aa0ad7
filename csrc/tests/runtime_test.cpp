// Sampling, the thread pool, and what the step program refuses.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>

#include "../ops/sample.h"
#include "../program.h"
#include "../thread_pool.h"
#include "check.h"

namespace lorid_test {
namespace {

class CountingPhase : public lorid::Phase {
 public:
  explicit CountingPhase(int64_t items, const CountingPhase* before = nullptr) : items_(items), before_(before) {}
  int64_t Prepare(int threads) override {
    threads_ = threads;
    hits_ = std::vector<std::atomic<int>>(static_cast<size_t>(items_));
    done_ = 0;
    return items_;
  }
  void Run(int64_t item, int thread) noexcept override {
    if (before_ != nullptr && before_->done_ != before_->items_) late_++;
    if (thread < 0 || thread >= threads_) late_++;
    hits_[static_cast<size_t>(item)]++;
    done_++;
  }
  bool Right() const {
    for (const auto& hits : hits_)
      if (hits != 1) return false;
    return late_ == 0;
  }

 private:
  int64_t items_;
  const CountingPhase* before_;
  int threads_ = 0;
  std::vector<std::atomic<int>> hits_;
  std::atomic<int64_t> done_{0};
  std::atomic<int> late_{0};
};

// Two items that wait for each other: they end only if two threads take one each.
class MeetingPhase : public lorid::Phase {
 public:
  int64_t Prepare(int) override { return 2; }
  void Run(int64_t, int) noexcept override {
    here_++;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (here_ < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    met_ += here_ == 2;
  }
  bool Met() const { return met_ == 2; }

 private:
  std::atomic<int> here_{0}, met_{0};
};

bool TwoThreadsMeet() {
  MeetingPhase meeting;
  lorid::RunPhases({&meeting}, 2);
  return meeting.Met();
}

// How each thread rounds.
class RoundingPhase : public lorid::Phase {
 public:
  int64_t Prepare(int) override { return 64; }
  void Run(int64_t, int) noexcept override { wrong_ += std::fegetround() != FE_TONEAREST; }
  bool Right() const { return wrong_ == 0; }

 private:
  std::atomic<int> wrong_{0};
};

bool RunChain(int threads, bool on_host = false) {
  CountingPhase first(7), empty(0), second(1, &first), third(40, &second);
  const std::vector<lorid::Phase*> phases = {&first, &empty, &second, &third};
  if (on_host) {
    lorid::RunPhasesOnHost(phases, threads);
  } else {
    lorid::RunPhases(phases, threads);
  }
  return first.Right() && second.Right() && third.Right();
}

// What OpenMP offers, with new threads each time.
thread_local int host_number = 0;
std::atomic<int> host_runs{0};

void HostParallel(void (*work)(void*), void* data, unsigned threads, unsigned) {
  host_runs++;
  std::vector<std::thread> others;
  for (unsigned n = 1; n < threads; n++)
    others.emplace_back([=] {
      host_number = static_cast<int>(n);
      work(data);
    });
  work(data);
  for (std::thread& other : others) other.join();
}

void TestHostThreads(bool can_fork) {
  EXPECT(lorid::MaxHostThreads() == 0 && RunChain(3, true) && host_runs == 0);
  lorid::SetHostThreads({HostParallel, [] { return host_number; }, [] { return 4; }});
  EXPECT(lorid::MaxHostThreads() == 4);
  for (int run = 0; run < 200; run++) EXPECT(RunChain(run % 5 + 1, true));
  EXPECT(host_runs == 160);  // a run on the caller's thread alone needs no others
  std::fesetround(FE_UPWARD);
  RoundingPhase rounding;
  lorid::RunPhasesOnHost({&rounding}, 3);
  EXPECT(rounding.Right() && std::fegetround() == FE_UPWARD);
  std::fesetround(FE_TONEAREST);
  std::atomic<int> wrong{0};
  std::thread other([&wrong] {
    for (int run = 0; run < 50; run++) wrong += !RunChain(3, true);
  });
  for (int run = 0; run < 50; run++) wrong += !RunChain(3, true) || !RunChain(2);
  other.join();
  EXPECT(wrong == 0);
  if (can_fork) {
    const pid_t child = fork();
    if (child == 0) _exit(lorid::MaxHostThreads() == 0 && RunChain(3, true) ? 0 : 1);
    int status = 1;
    waitpid(child, &status, 0);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  lorid::SetHostThreads({});
  EXPECT(lorid::MaxHostThreads() == 0);
}

}  // namespace

void TestThreadPool(bool can_fork) {
  for (int run = 0; run < 5000; run++) EXPECT(RunChain(run % 5 + 1));
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 3; c++)
    callers.emplace_back([&wrong, c] {
      for (int run = 0; run < 300; run++) wrong += !RunChain(c + 1);
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT(wrong == 0);
  TestHostThreads(can_fork);
  lorid::RunPhases({}, 4);
  EXPECT(TwoThreadsMeet());
  std::fesetround(FE_UPWARD);  // the caller's own arithmetic is its own business
  RoundingPhase rounding;
  lorid::RunPhases({&rounding}, 7);
  EXPECT(rounding.Right() && std::fegetround() == FE_UPWARD);
  std::fesetround(FE_TONEAREST);
  if (!can_fork) return;
  const pid_t child = fork();
  if (child == 0) _exit(TwoThreadsMeet() && RunChain(3) ? 0 : 1);  // the child has none of our threads
  int status = 1;
  waitpid(child, &status, 0);
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT(RunChain(3));
}

void TestSample() {
  const lorid::Philox zero = lorid::PhiloxAt(0, 0, 0);
  EXPECT(zero.word[0] == 0x6627e8d5u && zero.word[1] == 0xe169c58du && zero.word[2] == 0xbc57ac4cu &&
         zero.word[3] == 0x9b00dbd8u);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {nan, 1, 3, 3, nan, nan, nan, nan};
  for (const float temperature : {0.0f, 0.01f}) {
    const std::vector<uint64_t> key = {1, 2};
    const std::vector<uint32_t> counter = {0, 0, 0, 1};
    const std::vector<float> heat(2, temperature), top_p(2, 1);
    const std::vector<int32_t> top_k = {temperature == 0 ? 0 : 1, 0};
    std::vector<int32_t> ids(2), rank(2), top_ids(4);
    std::vector<float> logprob(2), top(4);
    lorid::SampleArgs args = {2, key.data(), counter.data(), heat.data(), top_k.data(),   top_p.data(),
                              2, ids.data(), logprob.data(), rank.data(), top_ids.data(), top.data()};
    lorid::SamplePhase phase;
    phase.logits = logits.data();
    phase.logits_stride = 4;
    phase.vocabulary = 4;
    phase.args = &args;
    lorid::RunPhases({&phase}, 2);
    EXPECT(ids[0] == 2 && ids[1] == -1);  // equal logits: the lower id; no number at all: none
    EXPECT(rank[0] == 1 && top_ids[0] == 2 && top_ids[1] == 3);
  }
}

void TestProgram() {
  lorid::Program program(lorid::DType::kF32, {8, 4, 10, 32, 4, 2});
  const std::vector<float> table = Random<float>(32 * 6, 1), norm(6, 1);
  const int hidden = program.AddBuffer(6, lorid::DType::kF32, false),
            normed = program.AddBuffer(6, lorid::DType::kF32, true);
  const int logits = program.AddBuffer(10, lorid::DType::kF32, true);
  program.Embed(table.data(), hidden);
  program.RmsNorm(hidden, norm.data(), 1e-5f, normed, true);
  program.Linear(normed, table.data(), nullptr, 10, logits, false, {}, true);
  program.Sample(logits);

  std::vector<int32_t> tokens = {1, 9, 3}, positions = {0, 1, 2}, query = {0, 3}, segments = {0, 3}, slots = {-1},
                       pages = {2, 1};
  std::vector<int32_t> rows = {2}, top_k = {0}, ids = {0}, copies;
  const std::vector<uint64_t> key = {0};
  const std::vector<uint32_t> counter = {0, 0};
  const std::vector<float> temperature = {0}, top_p = {1};
  const auto run = [&] {
    lorid::Step step;
    step.segments = {static_cast<int32_t>(tokens.size()), 1, segments.data(), slots.data()};
    step.sequences = {1, query.data(), pages.data(), 2, positions.data()};
    step.token_ids = tokens.data();
    step.sample_rows = rows.data();
    step.sample = {
        1,       key.data(), counter.data(), temperature.data(), top_k.data(), top_p.data(), -1, ids.data(), nullptr,
        nullptr, nullptr,    nullptr};
    step.page_copies = copies.data();
    step.num_page_copies = static_cast<int32_t>(copies.size() / 2);
    try {
      program.Run(step, 2);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto refuses = [&](int32_t& place, int32_t value, const char* message) {
    const int32_t before = place;
    place = value;
    EXPECT(run().find(message) != std::string::npos);
    place = before;
  };
  EXPECT(run().empty() && ids[0] >= 0 && ids[0] < 10);
  refuses(tokens[1], 10, "token_ids must be from 0 to 9; got 10");
  refuses(tokens[1], -1, "token_ids must be");
  refuses(positions[2], 5, "positions of a sequence must count up");
  refuses(query[1], 2, "query_offset must end at the number of rows, 3; got 2");
  refuses(segments[1], 4, "seg_offset must end");
  refuses(slots[0], 2, "seg_slot must be from -1 to 1; got 2");
  refuses(pages[0], 4, "block_table must name pages 0 to 3; got 4");
  refuses(rows[0], 3, "sample_rows must be from 0 to 2; got 3");
  copies = {0, 4};
  EXPECT(run().find("page_copies must name pages") != std::string::npos);
}

}  // namespace lorid_test
