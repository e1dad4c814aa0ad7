// The process's one thread pool. It runs a list of phases; the items of a phase are handed out in ascending order to
// any thread (so an item may wait for those before it), and a phase starts when every item of the one before is done
// (not when every thread has arrived: a thread that lost its core holds back nobody but those who wait for the item it
// has in hand).
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

// Tells the processor that this thread waits in a loop.
void SpinPause();

// Cores that this process may use.
int AvailableCores();

}  // namespace lorid

#endif  // LORID_THREAD_POOL_H_
