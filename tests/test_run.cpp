// What a run leaves in its folder, who may hold it, and how it is stopped.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <functional>
#include <limits>

#include "apps/run/metrics.h"
#include "apps/run/progress.h"
#include "apps/run/run_folder.h"
#include "apps/run/run_info.h"
#include "apps/run/stop_request.h"
#include "tensor/check.h"
#include "tests/temp_dir.h"

using namespace nibble;
using namespace nibble::test;
using namespace nibble::run;
namespace fs = std::filesystem;

namespace {

// Runs `body` in a child; its wait status. _exit: the child must not run doctest's own ending.
int status_of_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      ::_exit(body());
    } catch (...) {
      ::_exit(99);
    }
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

std::string printed(const std::function<void(std::FILE*)>& body) {
  std::FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  body(file);
  std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  CHECK(std::fread(text.data(), 1, text.size(), file) == text.size());
  std::fclose(file);
  return text;
}

}  // namespace

TEST_CASE("run: metrics are one object a line, whole at each instant") {
  const TempDir folder;
  MetricsWriter writer(folder / "m.jsonl");
  writer.write({{"step", 1}, {"loss", 2.5}});
  CHECK(read_file(folder / "m.jsonl") == "{\"step\":1,\"loss\":2.5}\n");
  writer.write(
      {{"step", 2}, {"loss", std::numeric_limits<double>::quiet_NaN()}, {"text", "a\nb\xff"}});
  CHECK(read_file(folder / "m.jsonl") ==
        "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":null,\"text\":\"a\\nb\xef\xbf\xbd\"}\n");
  CHECK(read_metrics(folder / "m.jsonl").at(1)["step"] == 2);
  CHECK(message_of([&] {
          writer.write({{"loss", 1}});
        }) == "metrics: a row needs an integer \"step\"");
  CHECK(message_of([&] { MetricsWriter(folder / "no" / "m.jsonl"); }) ==
        "metrics: cannot open " + (folder.path() / "no" / "m.jsonl").string() +
            ": no such file or directory");
}

TEST_CASE("run: metrics are cut back to a step, and a torn last line is repaired") {
  const TempDir folder;
  const fs::path file = folder / "m.jsonl";
  const std::string two = "{\"step\":1}\n{\"step\":2}\n";
  write_file(file, two + "{\"step\":3}\n{\"st");
  Truncation cut = truncate_metrics_after(file, 2);
  CHECK(cut.kept == 2);
  CHECK(cut.removed == 1);
  CHECK(cut.torn_bytes == 4);
  CHECK(read_file(file) == two);
  write_file(file, two + std::string(50, '\0'));  // blocks that a power cut left as zeros
  cut = truncate_metrics_after(file, 9);
  CHECK(cut.torn_bytes == 50);
  CHECK(read_file(file) == two);
  CHECK(truncate_metrics_after(file, 0).removed == 2);
  CHECK(read_file(file).empty());
  CHECK(truncate_metrics_after(folder / "none", 1).kept == 0);
  CHECK_FALSE(fs::exists(folder / "none"));
}

TEST_CASE("run: a damaged line in the middle is named and nothing is lost") {
  const TempDir folder;
  const fs::path file = folder / "m.jsonl";
  for (const char* bad : {"{\"step\":", "[1]", "{\"loss\":1}", "{\"step\":1.5}", ""}) {
    const std::string bytes = fmt::format("{{\"step\":1}}\n{}\n{{\"step\":3}}\n", bad);
    write_file(file, bytes);
    CHECK(message_of([&] { truncate_metrics_after(file, 1); }) ==
          "metrics: " + file.string() + ":2: expected an object with an integer \"step\"");
    CHECK(read_file(file) == bytes);
  }
}

TEST_CASE("run: a full disk leaves whole records only") {
  const TempDir folder;
  const fs::path file = folder / "m.jsonl";
  const int status = status_of_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{20, 20};  // the second row does not fit
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    MetricsWriter writer(file);
    writer.write({{"step", 1}});
    const std::string message = message_of([&] { writer.write({{"step", 2}}); });
    return message == "metrics: cannot append to " + file.string() + ": file too large" ? 42 : 3;
  });
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 42);
  CHECK(read_file(file) == "{\"step\":1}\n");
}

TEST_CASE("run: a folder is new or resumed, never overwritten") {
  const TempDir folder;
  const fs::path out = folder.path() / "a" / "b";
  CHECK(message_of([&] { RunFolder(out, RunFolder::Mode::Resume); }) ==
        "run: " + out.string() + " holds no run to resume");
  CHECK_FALSE(fs::exists(out));
  {
    RunFolder run(out, RunFolder::Mode::New);
    write_file(run.info(), "{}");
    CHECK(read_file(out / "lock") == std::to_string(::getpid()));
  }
  CHECK(message_of([&] { RunFolder(out, RunFolder::Mode::New); }) ==
        "run: " + out.string() +
            " already holds a run; resume it with --resume or choose another folder");
  CHECK_NOTHROW(RunFolder(out, RunFolder::Mode::Resume));
  write_file(folder / "file", "");
  CHECK(message_of([&] {
          RunFolder(folder / "file", RunFolder::Mode::New);
        }).starts_with("run: cannot "));
  // Other files are no run.
  write_file(folder / "notes.txt", "mine");
  CHECK_NOTHROW(RunFolder(folder.path(), RunFolder::Mode::New));
}

TEST_CASE("run: one process holds a folder, and a dead one holds none") {
  const TempDir folder;
  const fs::path out = folder / "out";
  const int status = status_of_child([&]() -> int {
    const RunFolder run(out, RunFolder::Mode::New);
    write_file(run.info(), "{}");
    ::raise(SIGKILL);
    return 1;
  });
  REQUIRE(WIFSIGNALED(status));
  const RunFolder run(out, RunFolder::Mode::Resume);
  const int second = status_of_child([&] {
    const std::string message = message_of([&] { RunFolder(out, RunFolder::Mode::Resume); });
    return message == fmt::format("run: {} is in use by process {}", out.string(), ::getppid()) ? 42
                                                                                                : 3;
  });
  REQUIRE(WIFEXITED(second));
  CHECK(WEXITSTATUS(second) == 42);
}

TEST_CASE("run: run.json gains a session at each start") {
  const TempDir folder;
  const fs::path file = folder / "run.json";
  RunInfo info = describe_run({{"trainer", {{"lr", 0.5}}}}, {"nibble", "train", "\xff"}, "xxh3:12");
  info.libraries["zlib"] = "1.2.13";
  record_session(file, info);
  record_session(file, info);
  const Json json = Json::parse(read_file(file));
  REQUIRE(json["sessions"].size() == 2);
  const Json& session = json["sessions"][1];
  CHECK(session["config"]["trainer"]["lr"] == 0.5);
  CHECK(session["command"].size() == 3);
  CHECK(session["data_hash"] == "xxh3:12");
  CHECK(session["start_time"].get<std::string>().size() ==
        std::string("2026-11-22T17:54:47Z").size());
  const std::string commit = session["build"]["commit"];
  const bool known =
      commit.size() == 40 && commit.find_first_not_of("0123456789abcdef") == commit.npos;
  CHECK((known || commit == "unknown"));
  CHECK(session["build"]["compiler"].get<std::string>().find(' ') != std::string::npos);
  CHECK(session["libraries"]["Eigen"].get<std::string>().starts_with("3."));
  CHECK(session["libraries"]["jsonnet"].get<std::string>().starts_with("v0."));
  CHECK(session["libraries"]["zlib"] == "1.2.13");
  CHECK(session["machine"]["cores"] >= 1);
  CHECK(session["machine"]["usable_cores"] >= 1);
  CHECK(session["machine"]["memory_bytes"] > 1 << 20);
  for (const char* bad : {"{", "[]", "{\"sessions\": 1}"}) {
    write_file(file, bad);
    CHECK(message_of([&] { record_session(file, info); }) ==
          "run: " + file.string() + " is damaged: expected {\"sessions\": […]}");
    CHECK(read_file(file) == bad);
  }
}

TEST_CASE("run: signals ask, a second interrupt kills, and the old handlers return") {
  {
    const StopRequest stop;
    CHECK_FALSE(stop.requested());
    ::raise(SIGTERM);
    CHECK(stop.signal() == SIGTERM);
    ::raise(SIGTERM);  // again is no more than once
    CHECK(message_of([] { StopRequest(); }) == "run: a StopRequest is already installed");
  }
  CHECK_FALSE(StopRequest().requested());
  const auto interrupted = [](int times) {
    return status_of_child([&] {
      const StopRequest stop;
      for (int i = 0; i < times; ++i) ::raise(SIGINT);
      return stop.requested() ? 42 : 3;
    });
  };
  CHECK(WEXITSTATUS(interrupted(1)) == 42);
  const int twice = interrupted(2);
  REQUIRE(WIFSIGNALED(twice));
  CHECK(WTERMSIG(twice) == SIGINT);
  const int after = status_of_child([] {
    ::signal(SIGTERM, SIG_DFL);
    { const StopRequest stop; }
    ::raise(SIGTERM);
    return 0;
  });
  CHECK(WIFSIGNALED(after));
}

TEST_CASE("run: durations, bytes and the progress line") {
  CHECK(format_duration(59.9) == "59s");
  CHECK(format_duration(65) == "1m05s");
  CHECK(format_duration(7265) == "2h01m");
  CHECK(format_duration(100000) == "1d03h");
  for (const double odd : {-1.0, 1e300, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK(format_duration(odd) == "?");
  }
  CHECK(format_bytes(512 << 20) == "512 MiB");
  CHECK(format_bytes(std::uint64_t{3} << 29) == "1.5 GiB");
  const Progress progress{120, 5000, 3.21453, 3e-4, 0.8123, 12345, 512 << 20};
  CHECK(
      format_progress(progress, 723.0) ==
      "step 120/5000  loss 3.2145  lr 3.00e-04  grad 0.812  12.3k tok/s  eta 12m03s  mem 512 MiB");
  CHECK(format_progress({.step = 1, .steps = 2, .tokens_per_second = 2.5e6}, std::nullopt) ==
        "step 1/2  loss 0.0000  lr 0.00e+00  grad 0.000  2.50M tok/s  eta ?  mem 0 MiB");
}

TEST_CASE("run: in a file progress is a line now and then, with the first and the last") {
  double now = 0;
  ProgressOptions options{.every_seconds = 10, .every_steps = 4, .seconds = [&] { return now; }};
  const std::string text = printed([&](std::FILE* file) {
    ProgressLine line(file, options);
    for (int step = 1; step <= 9; ++step, now += 3) line.update({.step = step, .steps = 9});
    line.message("saved");
  });
  std::vector<std::string> starts;
  for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    starts.push_back(text.substr(at, text.find_first_of(" \n", at + 5) - at));
  }
  // 1 is the first, 4 and 8 are due by step, 9 is the last; by time none between.
  CHECK(starts ==
        std::vector<std::string>{"step 1/9", "step 4/9", "step 8/9", "step 9/9", "saved"});
  CHECK(text.find("step 4/9  loss 0.0000  lr 0.00e+00  grad 0.000  0 tok/s  eta 15s") != text.npos);
}

TEST_CASE("run: on a terminal the line is rewritten, cut to its width, and ended") {
  double now = 0;
  ProgressOptions options{.terminal = true, .columns = 9, .seconds = [&] { return now; }};
  const std::string text = printed([&](std::FILE* file) {
    ProgressLine line(file, options);
    for (int step = 1; step <= 3; ++step, now += 1) line.update({.step = step, .steps = 9});
    line.update({.step = 4, .steps = 9});
    line.update({.step = 5, .steps = 9});  // at the same instant: not shown
    line.message("saved");
    now += 1;
    line.update({.step = 6, .steps = 9});
  });
  CHECK(text ==
        "\r\033[Kstep 1/9\r\033[Kstep 2/9\r\033[Kstep 3/9\r\033[Kstep 4/9"
        "\r\033[Ksaved\n\r\033[Kstep 6/9\n");
}
