// Ctrl-C and SIGTERM as a request to stop after the current step.
#pragma once

#include <csignal>

namespace nibble::run {

// While one lives, SIGTERM and SIGINT only set a flag; SIGINT after that kills the process as
// usual. The old handlers come back with its end. One at a time.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  bool requested() const { return signal() != 0; }
  // The first signal that asked, 0 when none did.
  int signal() const;

 private:
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
};

}  // namespace nibble::run
