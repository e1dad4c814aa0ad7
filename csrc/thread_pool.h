// The process's one thread pool, or the threads of its host. It runs a list of phases; the items of a phase are handed
// out in ascending order to any thread (so an item may wait for those before it), and a phase starts when every item of
// the one before is done (not when every thread has arrived: a thread that lost its core holds back nobody but those
// who wait for the item it has in hand).
#ifndef LORID_THREAD_POOL_H_
#define LORID_THREAD_POOL_H_

#include <cstdint>
#include <vector>

namespace lorid {

class Phase {
 public:
  virtual ~Phase() = default;
  // Called on one thread after every earlier phase has been prepared and before any has run; returns the number of
  // items.
  virtual int64_t Prepare(int threads) = 0;
  // Called for each item in [0, items); thread is in [0, threads). Must not throw.
  virtual void Run(int64_t item, int thread) noexcept = 0;
};

// Runs the phases on at most `threads` threads, the caller's among them. Calls from several threads take turns. With
// `seconds`, what each phase took is added to its entry there.
void RunPhases(const std::vector<Phase*>& phases, int threads, std::vector<double>* seconds = nullptr);

// Threads that the process has for something else, by OpenMP's entry points: torch's, say, which spin for milliseconds
// after each of its own ops and would fight a second set of threads for the cores.
struct HostThreads {
  void (*parallel)(void (*work)(void*), void* data, unsigned threads, unsigned flags) = nullptr;  // GOMP_parallel
  int (*thread_num)() = nullptr;                                                                  // omp_get_thread_num
  int (*max_threads)() = nullptr;                                                                 // omp_get_max_threads
};

// Makes them known to RunPhasesOnHost. A child of fork does without: most runtimes of OpenMP cannot be used there.
void SetHostThreads(const HostThreads& host);

// How many of them the host would use from the calling thread; 0 where none are known.
int MaxHostThreads();

// RunPhases on the host's threads, or on the pool's where none are known.
void RunPhasesOnHost(const std::vector<Phase*>& phases, int threads);

// Tells the processor that this thread waits in a loop.
void SpinPause();

// Cores that this process may use.
int AvailableCores();

}  // namespace lorid

#endif  // LORID_THREAD_POOL_H_
