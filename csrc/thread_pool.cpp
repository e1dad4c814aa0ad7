#include "thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "check.h"

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lorid {
namespace {

using Clock = std::chrono::steady_clock;

// Long enough for the gap between two phases, short enough to leave a shared core to others.
constexpr auto kSpin = std::chrono::microseconds(40);

// What is left to hand out: the run (20 bits), its phase (16 bits) and how many of the phase's items are not taken yet
// (28 bits). A thread takes an item by decrementing the whole word with a compare-and-swap, so a thread that wakes up
// late can take an item of the phase that is current then, or nothing.
constexpr int kItemBits = 28, kPhaseBits = 16;
constexpr uint64_t kItemMask = (uint64_t{1} << kItemBits) - 1;
constexpr uint64_t kIdlePhase = (uint64_t{1} << kPhaseBits) - 1;

constexpr uint64_t MakeTicket(uint64_t run, uint64_t phase, uint64_t items) {
  return run << (kItemBits + kPhaseBits) | phase << kItemBits | items;
}
constexpr uint64_t PhaseOf(uint64_t ticket) { return ticket >> kItemBits & kIdlePhase; }

// Rounding to nearest and denormals as they are, whatever the program has set for its own arithmetic: which thread
// computes an item must not show.
class DefaultFloats {
 public:
  DefaultFloats() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloats() { std::fesetenv(&before_); }
  DefaultFloats(const DefaultFloats&) = delete;
  DefaultFloats& operator=(const DefaultFloats&) = delete;

 private:
  std::fenv_t before_;
};

class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

class ThreadPool {
 public:
  // On `host`, or where it is none on threads of its own; a pool is always given the one kind or the other.
  void Run(const std::vector<Phase*>& phases, int threads, const HostThreads& host, std::vector<double>* seconds) {
    const std::lock_guard<std::mutex> turn(run_mutex_);
    host_ = host;
    threads = std::max(1, std::min(threads, kMaxThreads));
    if (host_.parallel == nullptr) threads = Grow(threads);
    items_.clear();
    phases_.clear();
    for (Phase* phase : phases) {
      const int64_t items = phase->Prepare(threads);
      LORID_CHECK(items <= static_cast<int64_t>(kItemMask), "a phase of ", items, " items is too long");
      if (items <= 0) continue;
      phases_.push_back(phase);
      items_.push_back(items);
    }
    LORID_CHECK(phases_.size() < kIdlePhase, "a run of ", phases_.size(), " phases is too long");
    if (phases_.empty()) return;
    SetThreads(threads);
    run_++;
    const DefaultFloats floats;
    timed_ = seconds != nullptr;
    finished_.resize(timed_ ? phases_.size() : 0);
    auto before = Clock::now();
    Publish(0);
    if (host_.parallel != nullptr && threads > 1) {
      // A team as large as the host's own: of a smaller one, OpenMP ends the threads that are left over.
      const int team = std::max(threads, host_.max_threads());
      host_.parallel(&ThreadPool::WorkForHost, this, static_cast<unsigned>(team), 0);
    } else {
      Work(0);
    }
    for (size_t i = 0, place = 0; timed_ && i < phases.size(); i++) {
      if (place == phases_.size() || phases[i] != phases_[place]) continue;  // it had no items
      (*seconds)[i] += std::chrono::duration<double>(finished_[place] - before).count();
      before = finished_[place++];
    }
  }

 private:
  static constexpr int kMaxThreads = 1024;

  // Starts the threads that are missing; returns how many there are, the caller included, at most `threads`.
  int Grow(int threads) {
    for (; num_workers_ + 1 < threads; num_workers_++) {
      const BlockedSignals blocked;  // signals are for the threads that the program made itself
      try {
        std::thread([this, index = num_workers_ + 1] { WorkForever(index); }).detach();
      } catch (const std::exception&) {
        break;  // the system allows no more threads: go on with those that there are
      }
    }
    return std::min(threads, num_workers_ + 1);
  }

  // Workers past the run's number sleep apart from those that wait for its phases, and are woken only to join.
  void SetThreads(int threads) {
    if (num_threads_.exchange(threads) >= threads) return;
    {
      const std::lock_guard<std::mutex> lock(park_mutex_);
    }
    joining_.notify_all();
  }

  void Publish(size_t phase) {
    done_.store(0, std::memory_order_relaxed);
    const bool over = phase == phases_.size();
    ticket_.store(over ? MakeTicket(run_, kIdlePhase, 0)
                       : MakeTicket(run_, phase, static_cast<uint64_t>(items_[phase])));
    if (parked_.load() > 0) {
      {
        const std::lock_guard<std::mutex> lock(park_mutex_);
      }
      unparked_.notify_all();
    }
  }

  // Takes part in the run until its last phase is done.
  void Work(int thread) {
    uint64_t ticket = ticket_.load();
    while (PhaseOf(ticket) != kIdlePhase && thread < num_threads_.load()) {
      if ((ticket & kItemMask) == 0) {
        ticket = WaitForChange(ticket);
        continue;
      }
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1)) continue;
      const size_t phase = PhaseOf(ticket);
      const int64_t total = items_[phase];
      phases_[phase]->Run(total - static_cast<int64_t>(ticket & kItemMask), thread);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 < total) {
        ticket = ticket_.load();
        continue;
      }
      if (timed_) finished_[phase] = Clock::now();
      Publish(phase + 1);
      ticket = ticket_.load();
    }
  }

  static void WorkForHost(void* self) {
    const DefaultFloats floats;
    auto* pool = static_cast<ThreadPool*>(self);
    pool->Work(pool->host_.thread_num());
  }

  void WorkForever(int thread) {
    const DefaultFloats floats;
    while (true) {
      Work(thread);
      const uint64_t ticket = ticket_.load();
      if (thread < num_threads_.load()) {
        if (PhaseOf(ticket) == kIdlePhase) WaitForChange(ticket);
        continue;
      }
      std::unique_lock<std::mutex> lock(park_mutex_);  // this run has enough threads without this one
      joining_.wait(lock, [&] { return thread < num_threads_.load(); });
    }
  }

  // Spins briefly, then parks, until the ticket is another than the one seen.
  uint64_t WaitForChange(uint64_t seen) {
    const auto deadline = Clock::now() + kSpin;
    while (true) {
      for (int i = 0; i < 64; i++) {
        const uint64_t ticket = ticket_.load(std::memory_order_acquire);
        if (ticket != seen) return ticket;
        SpinPause();
      }
      if (Clock::now() >= deadline) break;
    }
    std::unique_lock<std::mutex> lock(park_mutex_);
    parked_.fetch_add(1);
    unparked_.wait(lock, [&] { return ticket_.load() != seen; });
    parked_.fetch_sub(1);
    return ticket_.load();
  }

  std::mutex run_mutex_;
  HostThreads host_;  // of this run
  std::vector<Phase*> phases_;
  std::vector<int64_t> items_;
  bool timed_ = false;
  std::vector<Clock::time_point> finished_;  // of each phase, where it is timed
  int num_workers_ = 0;
  uint64_t run_ = 0;
  std::atomic<int> num_threads_{1};
  alignas(64) std::atomic<uint64_t> ticket_{MakeTicket(0, kIdlePhase, 0)};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> parked_{0};
  std::mutex park_mutex_;
  std::condition_variable unparked_, joining_;
};

std::mutex pool_mutex;
ThreadPool* pool = nullptr;       // never destroyed: its threads may outlive main
ThreadPool* host_pool = nullptr;  // likewise
HostThreads host_threads;

// A child of fork has none of the threads and perhaps a locked mutex: it starts over with a pool of its own.
void ForgetPool() {
  pool = host_pool = nullptr;
  host_threads = {};
  new (&pool_mutex) std::mutex;
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, ForgetPool);

void Run(const std::vector<Phase*>& phases, int threads, bool on_host, std::vector<double>* seconds) {
  HostThreads host;
  ThreadPool* mine = nullptr;
  {
    const std::lock_guard<std::mutex> lock(pool_mutex);
    if (on_host) host = host_threads;
    ThreadPool*& which = host.parallel != nullptr ? host_pool : pool;
    if (which == nullptr) which = new ThreadPool;
    mine = which;
  }
  mine->Run(phases, threads, host, seconds);
}

}  // namespace

void SetHostThreads(const HostThreads& host) {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  host_threads = host;
}

int MaxHostThreads() {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  return host_threads.max_threads != nullptr ? host_threads.max_threads() : 0;
}

void RunPhasesOnHost(const std::vector<Phase*>& phases, int threads) { Run(phases, threads, true, nullptr); }

void RunPhases(const std::vector<Phase*>& phases, int threads, std::vector<double>* seconds) {
  Run(phases, threads, false, seconds);
}

void SpinPause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int AvailableCores() {
#ifdef __linux__
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace lorid
