// Ranges and windows for profilers (Nsight Systems and Compute): NVTX names, and the steps between
// which cudaProfilerStart holds. Without a CUDA build, or while nothing is watched, all of it is a
// test of a flag.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/device.h"

namespace nibble {

// Names what is queued while it lives, on the thread's timeline. `name` is copied.
class ProfileRange {
 public:
  explicit ProfileRange(const char* name);
  explicit ProfileRange(const std::string& name) : ProfileRange(name.c_str()) {}
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

 private:
  bool open_;
};

namespace profile {

// Steps first … last, counted from 1; {0, 0}: none.
struct Range {
  std::int64_t first = 0, last = 0;
};
// "10" or "10:12". Throws Error("profile").
Range parse_range(const std::string& text);

class Steps {
 public:
  explicit Steps(Range range) : range_(range) {}
  bool covers(std::int64_t step) const {
    return range_.first > 0 && step >= range_.first && step <= range_.last;
  }
  Range range() const { return range_; }

 private:
  Range range_;
};

// A step of training: names it, and turns the profiler and all ranges on for those that `steps`
// covers.
class Step {
 public:
  Step(const Steps& steps, std::int64_t step, Device device);
  ~Step();
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

 private:
  bool covered_, last_;
  Device device_;
};

bool enabled();  // whether ranges are being emitted

}  // namespace profile
}  // namespace nibble
