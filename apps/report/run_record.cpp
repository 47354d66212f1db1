#include "apps/report/run_record.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>

#include "apps/run/run_folder.h"
#include "tensor/check.h"
#include "tensor/json_text.h"

namespace nibble::report {
namespace {

constexpr const char* kOp = "report";
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

double number(const Json& row, const char* key) {
  const auto at = row.find(key);
  return at != row.end() && at->is_number() ? at->get<double>() : kNone;
}

// A member, or null where there is none; files that others wrote may hold anything anywhere.
const Json& member(const Json& object, const char* key) {
  static const Json none;
  const auto at = object.is_object() ? object.find(key) : object.end();
  return at != object.end() ? *at : none;
}

std::string text_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}

template <class T>
T integer_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_number_integer() ? value.get<T>() : T{0};
}

// Held by a trainer? Asked of the kernel, because taking the lock could stop one from starting.
bool is_locked(const std::filesystem::path& lock) {
  struct stat s {};
  if (::stat(lock.c_str(), &s) != 0) return false;
  const std::string inode = fmt::format(":{} ", s.st_ino);
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);)
    if (line.find("FLOCK") != std::string::npos && line.find(inode) != std::string::npos)
      return true;
  return false;
}

Json read_info(const std::filesystem::path& path) {
  std::ifstream in(path);
  if (!in) return {};
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  Json info = parse_json<Json>(text);
  return info.is_object() ? info : Json{};
}

void add_row(RunRecord& run, const Json& row) {
  const auto step = row.at("step").get<std::int64_t>();
  if (row.contains("module")) {
    run.telemetry[{text_of(row, "module"), text_of(row, "role")}].push_back(
        {step, number(row, "absmax"), number(row, "clipped"), number(row, "flushed"),
         number(row, "sqnr_db")});
  } else if (row.contains("val_loss")) {
    ValidationRow v{.step = step,
                    .tokens = kNone,
                    .seconds = kNone,
                    .loss = number(row, "val_loss"),
                    .bits = number(row, "val_bits_per_byte"),
                    .strata = {}};
    if (!run.train.empty()) {
      v.tokens = run.train.back().tokens;
      v.seconds = run.train.back().seconds;
    }
    if (const auto strata = row.find("val_strata"); strata != row.end() && strata->is_object())
      for (const auto& [source, loss] : strata->items())
        if (loss.is_number()) v.strata[source] = loss.get<double>();
    run.validation.push_back(std::move(v));
  } else if (row.contains("loss")) {
    TrainRow t{.step = step,
               .tokens = number(row, "tokens"),
               .seconds = 0,
               .loss = number(row, "loss"),
               .lr = number(row, "lr"),
               .norm = number(row, "grad_norm"),
               .speed = number(row, "tokens_per_second"),
               .memory = number(row, "memory_peak")};
    const TrainRow before = run.train.empty() ? TrainRow{} : run.train.back();
    const double passed = (t.tokens - before.tokens) / t.speed;
    t.seconds = before.seconds + (std::isfinite(passed) && passed > 0 ? passed : 0);
    run.train.push_back(t);
  }
}

void add_sample(RunRecord& run, const Json& row) {
  const Json& ended = member(row, "ended");
  run.samples.push_back({row.at("step").get<std::int64_t>(), text_of(row, "prompt"),
                         text_of(row, "text"), ended.is_boolean() && ended.get<bool>()});
}

// A last line without its end is one being written, no damage.
void read_rows(RunRecord& run, const char* name, void (*add)(RunRecord&, const Json&)) {
  std::ifstream in(run.path / name);
  std::int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (in.eof()) break;
    if (line.empty()) continue;
    const Json row = parse_json<Json>(line);
    const auto step = row.is_object() ? row.find("step") : row.end();
    if (!row.is_object() || step == row.end() || !step->is_number_integer()) {
      run.problems.push_back(fmt::format("{} line {} is damaged and left out", name, number));
      continue;
    }
    add(run, row);
  }
}

Status status_of(const RunRecord& run) {
  if (is_locked(run.path / "lock")) return Status::Running;
  if (run.train.empty() && run.validation.empty()) return Status::Empty;
  if (!run.train.empty() && !std::isfinite(run.train.back().loss)) return Status::Failed;
  return run.last_step() >= run.steps ? Status::Finished : Status::Stopped;
}

void flatten_into(std::vector<std::pair<std::string, std::string>>& out, const std::string& prefix,
                  const Json& value) {
  if (!value.is_object() || value.empty()) {
    out.emplace_back(prefix, value.is_string() ? value.get<std::string>() : value.dump());
    return;
  }
  for (const auto& [key, part] : value.items())
    flatten_into(out, prefix.empty() ? key : prefix + "." + key, part);
}

}  // namespace

std::int64_t RunRecord::last_step() const {
  return std::max(train.empty() ? 0 : train.back().step,
                  validation.empty() ? 0 : validation.back().step);
}

double RunRecord::final_loss() const { return validation.empty() ? kNone : validation.back().loss; }

double RunRecord::median_speed() const {
  std::vector<double> speeds;
  for (const TrainRow& t : train)
    if (std::isfinite(t.speed)) speeds.push_back(t.speed);
  if (speeds.empty()) return kNone;
  const auto middle = speeds.begin() + static_cast<std::ptrdiff_t>(speeds.size() / 2);
  std::nth_element(speeds.begin(), middle, speeds.end());
  return *middle;
}

double RunRecord::peak_memory() const {
  double peak = kNone;
  for (const TrainRow& t : train) peak = std::fmax(peak, t.memory);
  return peak;
}

std::string RunRecord::status_text() const {
  switch (status) {
    case Status::Finished: return "finished";
    case Status::Running: return fmt::format("running, step {} of {}", last_step(), steps);
    case Status::Stopped: return fmt::format("stopped at step {} of {}", last_step(), steps);
    case Status::Failed: return fmt::format("failed at step {} of {}", last_step(), steps);
    case Status::Empty: return "nothing logged yet";
  }
  return "?";
}

RunRecord read_run(const std::filesystem::path& path) {
  NIBBLE_CHECK(std::filesystem::exists(path), kOp, "{}: no such folder", path.string());
  NIBBLE_CHECK(std::filesystem::is_directory(path) && run::RunFolder::holds_run(path), kOp,
               "{} holds no run; hint: give the folder that `nibble train --output` wrote",
               path.string());
  RunRecord run;
  run.path = path;
  const std::filesystem::path whole = std::filesystem::absolute(path).lexically_normal();
  run.name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
  const Json info = read_info(path / "run.json");
  if (const auto sessions = info.find("sessions");
      sessions != info.end() && sessions->is_array() && !sessions->empty()) {
    const Json& last = sessions->back();
    if (const Json& config = member(last, "config"); config.is_object()) run.config = config;
    run.data_hash = text_of(last, "data_hash");
    run.plan_hash = text_of(last, "plan_hash");
    run.started = text_of(sessions->front(), "start_time");
    run.commit = text_of(member(last, "build"), "commit");
  }
  if (!run.config.is_object()) {
    run.config = Json::object();
    run.problems.push_back("run.json is missing or damaged: the configuration is unknown");
  }
  const Json& trainer = member(run.config, "trainer");
  run.steps = integer_of<std::int64_t>(trainer, "steps");
  run.seed = integer_of<std::uint64_t>(trainer, "seed");
  read_rows(run, "metrics.jsonl", add_row);
  read_rows(run, "samples.jsonl", add_sample);
  run.status = status_of(run);
  return run;
}

std::vector<RunRecord> read_runs(const std::vector<std::string>& paths) {
  std::vector<std::filesystem::path> folders;
  for (const std::string& text : paths) {
    const std::filesystem::path path(text);
    if (!std::filesystem::is_directory(path) || run::RunFolder::holds_run(path)) {
      folders.push_back(path);  // read_run says what is wrong
      continue;
    }
    std::set<std::filesystem::path> inside;
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (entry.is_directory() && run::RunFolder::holds_run(entry.path()))
        inside.insert(entry.path());
    NIBBLE_CHECK(!inside.empty(), kOp, "{} holds no run, nor does a folder in it", path.string());
    folders.insert(folders.end(), inside.begin(), inside.end());
  }
  std::vector<RunRecord> runs;
  std::set<std::filesystem::path> seen;
  for (const auto& folder : folders)
    if (seen.insert(std::filesystem::weakly_canonical(folder)).second)
      runs.push_back(read_run(folder));
  std::map<std::string, int> names;
  for (const RunRecord& r : runs) ++names[r.name];
  for (RunRecord& r : runs)
    if (names[r.name] > 1) r.name = r.path.lexically_normal().string();
  return runs;
}

std::vector<std::pair<std::string, std::string>> flatten(const Json& config) {
  std::vector<std::pair<std::string, std::string>> out;
  if (config.is_object() && !config.empty()) flatten_into(out, "", config);
  return out;
}

}  // namespace nibble::report
