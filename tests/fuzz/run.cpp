// What a run leaves behind: metrics.jsonl, run.json, TensorBoard's events, samples.jsonl. The first
// byte says which; the files are read as a report and cut back as by a resume.
#include "apps/report/page.h"
#include "apps/run/events.h"
#include "apps/run/metrics.h"
#include "tests/fuzz/target.h"

using namespace nibble;

namespace {

constexpr const char* kRun =
    R"({"sessions":[{"config":{"recipe":"int8","trainer":{"seed":1,"steps":9}},"data_hash":"a"}]})";

void write(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::text(data + 1, size - 1);
  const std::filesystem::path run = fuzz::folder() / "run";
  std::filesystem::create_directories(run / "events");
  if (data[0] % 4 == 2) {
    write(run::EventWriter::file_in(run / "events"), bytes);
    return fuzz::run([&] {
      (void)run::read_events(run / "events");
      (void)run::truncate_events_after(run / "events", 3);
      (void)run::read_events(run / "events");
    });
  }
  const bool metrics = data[0] % 4 != 1;
  write(run / "metrics.jsonl", metrics ? bytes
                                       : R"({"step":1,"loss":2.0,"tokens":8})"
                                         "\n");
  write(run / "run.json", metrics ? kRun : bytes);
  if (data[0] % 4 == 3) write(run / "samples.jsonl", bytes);
  // A report may be asked for while the run is being written: damage is told, not thrown.
  const std::vector<report::RunRecord> runs{report::read_run(run)};
  (void)report::page(runs, std::nullopt);
  return fuzz::run([&] {
    (void)run::read_metrics(run / "metrics.jsonl");
    (void)run::truncate_metrics_after(run / "metrics.jsonl", 3);
    for (const Json& row : run::read_metrics(run / "metrics.jsonl"))
      if (row["step"].get<std::int64_t>() > 3) std::abort();
  });
}
