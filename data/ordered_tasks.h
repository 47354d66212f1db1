// Work on several threads whose results are taken in order.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <future>
#include <utility>

namespace nibble {

// Up to `threads` tasks run at once (with 1: on the calling thread). Results are handed to `take`
// on the calling thread, in the order in which the tasks were submitted.
template <class Result>
class OrderedTasks {
 public:
  OrderedTasks(int threads, std::function<void(Result)> take)
      : threads_(static_cast<std::size_t>(threads)), take_(std::move(take)) {}

  // Waits for the oldest task when enough are under way. Throws what that task or `take` throws.
  template <class Task>
  void submit(Task task) {
    const auto policy = threads_ > 1 ? std::launch::async : std::launch::deferred;
    running_.push_back(std::async(policy, std::move(task)));
    if (running_.size() >= threads_) take_oldest();
  }
  void finish() {
    while (!running_.empty()) take_oldest();
  }

 private:
  void take_oldest() {
    std::future<Result> oldest = std::move(running_.front());
    running_.pop_front();
    take_(oldest.get());
  }

  std::size_t threads_;
  std::function<void(Result)> take_;
  std::deque<std::future<Result>> running_;
};

}  // namespace nibble
