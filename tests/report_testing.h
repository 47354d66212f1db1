// Folders of runs as `nibble train` leaves them, for tests of what reads them.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

namespace nibble::test {

struct RunText {
  int steps = 10;          // logged
  int planned = 10;        // configured
  int validated = -1;      // step of the last validation; −1: the last one logged
  std::string data = "d";  // the dataset's hash
  double end = 4;          // the last training loss; NaN: the run failed
  std::string extra = "";  // further lines of metrics.jsonl
};

// A run that ends at the validation loss `loss`; NaN is written as null, as a trainer does.
inline void write_run(const std::filesystem::path& path, const std::string& recipe, int seed,
                      double loss, const RunText& text = {}) {
  const auto number = [](double x) {
    return std::isfinite(x) ? fmt::format("{}", x) : std::string("null");
  };
  std::filesystem::create_directories(path);
  std::ofstream(path / "run.json") << fmt::format(
      R"({{"sessions":[{{"start_time":"t","data_hash":"{}","config":{{"recipe":"{}",)"
      R"("trainer":{{"seed":{},"steps":{},"lr":0.001}},"optimizer":{{"type":"adamw"}}}}}}]}})",
      text.data, recipe, seed, text.planned);
  std::ofstream out(path / "metrics.jsonl");
  const auto validate = [&](int step) {
    out << fmt::format(R"({{"step":{},"val_loss":{},"val_bits_per_byte":1.5}})", step, number(loss))
        << "\n";
  };
  for (int s = 1; s <= text.steps; ++s) {
    const double at = s == text.steps ? text.end : text.end + 0.1 * (text.steps - s);
    out << fmt::format(R"({{"step":{},"loss":{},"lr":0.001,"grad_norm":1,"tokens_per_second":100,)"
                       R"("tokens":{},"memory_peak":1073741824,"skipped":0}})",
                       s, number(at), s * 50)
        << "\n";
    if (s == text.validated) validate(s);
  }
  if (text.validated < 0) validate(text.steps);
  out << text.extra;
}

}  // namespace nibble::test
