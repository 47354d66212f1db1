// Event files: byte for byte those of TensorBoard's own library (golden/make_events.py), cut and
// repaired.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "apps/run/events.h"
#include "apps/run/protobuf.h"
#include "apps/run/records.h"
#include "tensor/check.h"
#include "tests/temp_dir.h"

using namespace nibble;
using namespace nibble::test;
using namespace nibble::run;
namespace fs = std::filesystem;

namespace {

const std::vector<float> kValues{-2.5f, -1, 0, 0, 0x1p-10f, 0.5f, 0.5f, 3};

// Ticks once a call, as the golden file's times do.
EventWriter::Clock ticking_clock() {
  return [now = 1.7e9]() mutable { return now++; };
}

void write_golden_events(const fs::path& folder) {
  EventWriter writer(folder, ticking_clock());
  const std::pair<std::string, double> row[] = {{"loss", 3.25}, {"lr", 3e-4}};
  writer.scalars(1, row);
  writer.histogram(2, "h.0/weight", Histogram::of(kValues));
  writer.text(300, "sample", "*Once* upon a time");
  writer.scalar(5000000000, "loss", 0);
}

const fs::path kGolden = fs::path(NIBBLE_SOURCE_DIR) / "tests/golden/events.tfevents";

}  // namespace

TEST_CASE("run: crc32c has the values of RFC 3720") {
  CHECK(crc32c("") == 0);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aau);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43u);
  CHECK(crc32c("123456789") == 0xe3069283u);
}

TEST_CASE("run: events are the bytes that TensorBoard's library writes") {
  const TempDir folder;
  write_golden_events(folder.path());
  const std::string golden = read_file(kGolden);
  REQUIRE(golden.size() > 400);
  CHECK(read_file(EventWriter::file_in(folder.path())) == golden);
}

TEST_CASE("run: events are read back") {
  const TempDir folder;
  write_file(EventWriter::file_in(folder.path()), read_file(kGolden));
  const std::vector<EventValue> values = read_events(folder.path());
  REQUIRE(values.size() == 5);
  CHECK(values[0].tag == "loss");
  CHECK(values[0].step == 1);
  CHECK(values[0].wall_time == 1.7e9 + 1);
  CHECK(values[0].scalar == 3.25f);
  CHECK(values[1].tag == "lr");
  CHECK(values[1].scalar == 3e-4f);
  REQUIRE(values[2].histogram);
  CHECK(values[2].histogram->count == 8);
  CHECK(values[2].histogram->min == -2.5);
  CHECK(values[2].histogram->bucket == Histogram::of(kValues).bucket);
  CHECK(values[3].text == "*Once* upon a time");
  CHECK(values[4].step == 5000000000);
  CHECK(values[4].scalar == 0.0f);
  CHECK(read_events(folder.path() / "none").empty());
}

TEST_CASE("run: a histogram counts every finite value in its bucket") {
  const float inf = std::numeric_limits<float>::infinity();
  const float most = std::numeric_limits<float>::max();
  const std::vector<float> values{-most, most, 0, -0.0f, 1, 1, inf, -inf, std::nanf("")};
  const Histogram h = Histogram::of(values);
  CHECK(h.count == 6);
  CHECK(h.min == -static_cast<double>(most));
  CHECK(h.max == static_cast<double>(most));
  CHECK(h.sum == 2);
  double total = 0;
  for (std::size_t i = 0; i < h.bucket.size(); ++i) {
    total += h.bucket[i];
    if (i == 0) continue;
    CHECK(h.limit[i - 1] < h.limit[i]);
    const bool two_empty = h.bucket[i - 1] == 0 && h.bucket[i] == 0;
    CHECK_FALSE(two_empty);
    const bool holds_one = h.limit[i - 1] <= 1 && 1 < h.limit[i];
    if (holds_one) CHECK(h.bucket[i] == 2);
  }
  CHECK(total == 6);
  const Histogram none = Histogram::of({});
  CHECK(none.count == 0);
  CHECK(none.min == 0);
  CHECK(none.bucket == std::vector<double>{0});
}

TEST_CASE("run: cutting events back to a step and going on equals never having stopped") {
  const TempDir straight, resumed;
  const auto clock = [] { return 5.0; };
  {
    EventWriter writer(straight.path(), clock);
    for (int step = 1; step <= 6; ++step) writer.scalar(step, "loss", step);
  }
  {
    EventWriter writer(resumed.path(), clock);
    for (int step = 1; step <= 5; ++step) writer.scalar(step, "loss", step);
  }
  const Truncation cut = truncate_events_after(resumed.path(), 3);
  CHECK(cut.kept == 4);  // with the version
  CHECK(cut.removed == 2);
  CHECK(cut.torn_bytes == 0);
  {
    EventWriter writer(resumed.path(), clock);
    for (int step = 4; step <= 6; ++step) writer.scalar(step, "loss", step);
  }
  CHECK(read_file(EventWriter::file_in(resumed.path())) ==
        read_file(EventWriter::file_in(straight.path())));
  CHECK(truncate_events_after(straight.path() / "none", 3).kept == 0);
  CHECK_FALSE(fs::exists(straight.path() / "none"));
}

TEST_CASE("run: an event file torn at any byte loses only its last record") {
  const TempDir folder;
  const fs::path file = EventWriter::file_in(folder.path());
  write_golden_events(folder.path());
  const std::string whole = read_file(file);
  Records records;
  read_records(file, records);
  const std::size_t last = records.framed.back().size();
  for (std::size_t missing = 1; missing < last; ++missing) {
    write_file(file, whole.substr(0, whole.size() - missing));
    const Truncation cut = truncate_events_after(folder.path(), 6000000000);
    CHECK(cut.kept == records.framed.size() - 1);
    CHECK(cut.torn_bytes == last - missing);
    CHECK(read_file(file) == whole.substr(0, whole.size() - last));
  }
  // Blocks that a power cut left as zeros.
  write_file(file, whole + std::string(100, '\0'));
  CHECK(truncate_events_after(folder.path(), 6000000000).torn_bytes == 100);
  CHECK(read_file(file) == whole);
}

TEST_CASE("run: a damaged record in the middle is an error and nothing is lost") {
  const TempDir folder;
  const fs::path file = EventWriter::file_in(folder.path());
  write_golden_events(folder.path());
  std::string bytes = read_file(file);
  Records records;
  read_records(file, records);
  const std::size_t second = records.framed[0].size();
  bytes[second + 20] ^= 1;
  write_file(file, bytes);
  const std::string expected =
      fmt::format("events: {}: the record at byte {} is damaged", file.string(), second);
  CHECK(message_of([&] { truncate_events_after(folder.path(), 1); }) == expected);
  CHECK(message_of([&] { read_events(folder.path()); }) == expected);
  CHECK(read_file(file) == bytes);
}

TEST_CASE("run: messages that are no messages are refused") {
  const auto read = [](const std::string& bytes) {
    return message_of([&] {
      for (ProtoReader reader(bytes); reader.next();) {
      }
    });
  };
  CHECK(read("\x0a\x05"
             "abc") == "events: a message is cut short");
  CHECK(read("\x08") == "events: a message is cut short");
  CHECK(read("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") ==
        "events: a number in a message is too long");
  CHECK(read("\x0b") == "events: a message has a field of unknown type 3");
}
