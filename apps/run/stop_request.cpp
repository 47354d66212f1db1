#include "apps/run/stop_request.h"

#include <atomic>

#include "tensor/check.h"

namespace nibble::run {
namespace {

// Not sig_atomic_t: the signal may arrive on any thread, and a lock-free atomic is allowed in
// handlers.
std::atomic<int> requested_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);
std::atomic<bool> installed{false};

void handle(int signal) {
  int none = 0;
  const bool first = requested_signal.compare_exchange_strong(none, signal);
  if (first || signal != SIGINT) return;
  std::signal(SIGINT, SIG_DFL);
  std::raise(SIGINT);  // blocked until this handler returns
}

}  // namespace

StopRequest::StopRequest() {
  NIBBLE_CHECK(!installed.exchange(true), "run", "a StopRequest is already installed");
  requested_signal = 0;
  struct sigaction action {};
  action.sa_handler = &handle;
  action.sa_flags = SA_RESTART;  // a write in progress goes on
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &old_interrupt_);
  ::sigaction(SIGTERM, &action, &old_terminate_);
}

StopRequest::~StopRequest() {
  ::sigaction(SIGINT, &old_interrupt_, nullptr);
  ::sigaction(SIGTERM, &old_terminate_, nullptr);
  installed = false;
}

int StopRequest::signal() const { return requested_signal; }

}  // namespace nibble::run
