// Times a sequence of operations: an event after each one; an operation's time is the difference.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "device.h"

namespace nibble::spike {

struct OpRecord {
  std::string kind, name;  // kind: the class it is summed under
  double bytes = 0, flops = 0;
  std::vector<float> ms;
  double median() const {
    std::vector<float> v = ms;
    std::sort(v.begin(), v.end());
    return v.empty() ? 0.0 : double(v[v.size() / 2]);
  }
};

class Profiler {
 public:
  explicit Profiler(bool enabled) : enabled_(enabled) {}

  void begin() {
    next_ = 0;
    if (enabled_) start_.record();
  }
  void mark(const char* kind, const std::string& name, double bytes, double flops = 0) {
    if (!enabled_) return;
    if (next_ == ops_.size()) {
      ops_.push_back({kind, name, bytes, flops, {}});
      events_.emplace_back();
    }
    events_[next_++].record();
  }
  void end() {
    if (!enabled_) return;
    for (std::size_t i = 0; i < next_; ++i)
      ops_[i].ms.push_back(events_[i].since(i == 0 ? start_ : events_[i - 1]));
  }
  const std::vector<OpRecord>& ops() const { return ops_; }

 private:
  bool enabled_;
  std::size_t next_ = 0;
  Event start_;
  std::vector<Event> events_;
  std::vector<OpRecord> ops_;
};

}  // namespace nibble::spike
