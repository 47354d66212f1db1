// Which runs count, and with whom. Tier of every comparison: exact; losses are given, not computed.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "apps/report/groups.h"
#include "apps/report/pairing.h"
#include "tensor/check.h"
#include "tests/report_testing.h"
#include "tests/temp_dir.h"

using namespace nibble;
using namespace nibble::report;
using nibble::test::write_run;

namespace {

// Three seeds of "none" and of "int8", 0.001 apart.
void write_table(const std::filesystem::path& dir, int seeds = 3) {
  for (int seed = 1; seed <= seeds; ++seed) {
    write_run(dir / fmt::format("base-{}", seed), "none", seed, 2.8 + seed * 0.01);
    write_run(dir / fmt::format("int8-{}", seed), "int8", seed, 2.801 + seed * 0.01);
  }
}

// The runs are gone afterwards: of its pointers only the number may be asked.
Table table_of(const test::TempDir& dir) {
  return compare_runs(read_runs({(dir / "").string()}),
                      {.baseline = "", .control = "", .margin = 0.02});
}

bool notes(const Table& table, const std::string& text) {
  return std::ranges::any_of(
      table.notes, [&](const std::string& n) { return n.find(text) != std::string::npos; });
}

}  // namespace

TEST_CASE("report pairs: what changes no bits makes no other group, and no contradiction") {
  const test::TempDir dir;
  write_table(dir / "");
  // Seed 1 again, validated once more on the way, its blocks checkpointed, with a table of plans
  // that was ignored.
  write_run(dir / "again", "int8", 1, 2.811);
  const auto rewrite = [&](const std::string& name, const auto& change) {
    std::ifstream in(dir / "again" / name);
    std::string text((std::istreambuf_iterator<char>(in)), {});
    in.close();
    std::ofstream(dir / "again" / name) << change(text);
  };
  rewrite("metrics.jsonl", [](const std::string& t) {
    return "{\"step\":1,\"val_loss\":5,\"val_bits_per_byte\":2}\n" + t;
  });
  rewrite("run.json", [](std::string t) {
    const std::string at = "\"optimizer\":";
    return t.insert(t.find(at), "\"tune\":\"p.json\",\"model\":{\"checkpoint_blocks\":true},");
  });
  const Table table = table_of(dir);
  CHECK(table.groups.size() == 1);
  CHECK(notes(table, "again"));
  // With plans in use it is another group.
  rewrite("run.json", [](std::string t) {
    const std::string at = "\"config\":";
    return t.insert(t.find(at), "\"plan_hash\":\"00ff\",");
  });
  CHECK(table_of(dir).groups.size() == 2);
}

TEST_CASE("report pairs: a seed given three times is one observation") {
  const test::TempDir dir;
  write_table(dir / "", 1);
  for (const char* copy : {"copy-a", "copy-b"}) {
    std::filesystem::copy(dir / "int8-1", dir / copy);
    std::filesystem::copy(dir / "base-1", dir / fmt::format("base-{}", copy));
  }
  const Table t = table_of(dir);
  REQUIRE(t.comparisons.size() == 1);
  CHECK(t.comparisons[0].pairs.size() == 1);
  CHECK(t.comparisons[0].verdict == Verdict::TooFew);
  CHECK(t.baseline.runs.size() == 1);
  CHECK(t.groups[0].runs.size() == 1);
  CHECK(notes(t, "int8-1 is left out: it repeats copy-a (seed 1, the same end)"));
  CHECK(notes(t, "base-copy-b is left out: it repeats base-1 (seed 1, the same end)"));
}

TEST_CASE("report pairs: one seed with two ends is refused") {
  const test::TempDir dir;
  write_table(dir / "");
  SUBCASE("in a group") { write_run(dir / "int8-x", "int8", 2, 2.7); }
  SUBCASE("in the baseline") { write_run(dir / "base-x", "none", 2, 2.9); }
  SUBCASE("a failed run and a repetition that did not fail") {
    write_run(dir / "int8-x", "int8", 2, NAN, {.end = NAN});
  }
  CHECK_THROWS_WITH(table_of(dir), doctest::Contains("compare: two runs of one configuration, seed "
                                                     "2 and data: got "));
}

TEST_CASE("report pairs: one seed on two datasets pairs with its own data, once") {
  const test::TempDir dir;
  write_run(dir / "a-base", "none", 1, 2.8, {.data = "d1"});
  write_run(dir / "b-base", "none", 1, 2.9, {.data = "d2"});
  write_run(dir / "c-int8", "int8", 1, 2.91, {.data = "d2"});
  const Table t = table_of(dir);
  REQUIRE(t.comparisons[0].pairs.size() == 1);
  CHECK(t.comparisons[0].pairs[0].baseline == 2.9);
  write_run(dir / "d-int8", "int8", 1, 2.81, {.data = "d1"});
  const Table both = table_of(dir);
  CHECK(both.comparisons[0].pairs.size() == 1);
  CHECK(notes(both, "d-int8 is left out: seed 1 has a pair already, on other data"));
}

TEST_CASE("report pairs: other data are no partner") {
  const test::TempDir dir;
  write_table(dir / "");
  write_run(dir / "int8-2", "int8", 2, 2.81, {.data = "other"});
  const Table t = table_of(dir);
  CHECK(t.comparisons[0].pairs.size() == 2);
  CHECK(notes(t, "int8-2 is left out: it read other data than base-2"));
}

TEST_CASE("report pairs: a seed that one side lacks is told from both sides") {
  const test::TempDir dir;
  write_table(dir / "");
  write_run(dir / "int8-7", "int8", 7, 2.81);
  write_run(dir / "base-8", "none", 8, 2.81);
  write_run(dir / "base-9", "none", 9, 2.81);
  const Table t = table_of(dir);
  CHECK(t.comparisons[0].pairs.size() == 3);
  CHECK(notes(t, "int8-7 is left out: the baseline has no finished run of seed 7"));
  CHECK(notes(t, "recipe=int8 lacks the baseline's seed 8, 9"));
}

TEST_CASE("report pairs: runs of other lengths are another group, and marked as foreign") {
  const test::TempDir dir;
  write_table(dir / "");
  for (int seed = 1; seed <= 3; ++seed)
    write_run(dir / fmt::format("long-{}", seed), "int8", seed, 2.7, {.steps = 20, .planned = 20});
  const Table t = table_of(dir);
  REQUIRE(t.groups.size() == 2);
  CHECK(t.groups[1].label == "recipe=int8, trainer.steps=20");
  CHECK(t.groups[1].foreign == std::vector<std::string>{"trainer.steps=20"});
  CHECK(notes(t, "these are not only another recipe (trainer.steps=20)"));
}

TEST_CASE("report pairs: an earlier validation is not the run's end") {
  const test::TempDir dir;
  write_table(dir / "");
  write_run(dir / "int8-2", "int8", 2, 2.5, {.validated = 8});
  const Table t = table_of(dir);
  CHECK(t.comparisons[0].pairs.size() == 2);
  CHECK(notes(t, "int8-2 is left out: its last validation is of step 8 of 10"));
}

TEST_CASE("report pairs: unfinished runs are left out on either side") {
  const test::TempDir dir;
  write_table(dir / "");
  write_run(dir / "int8-1", "int8", 1, 2.9, {.steps = 4});
  write_run(dir / "base-2", "none", 2, 2.9, {.steps = 4});
  const Table t = table_of(dir);
  CHECK(t.comparisons[0].pairs.size() == 1);
  CHECK(notes(t, "int8-1 is left out: stopped at step 4 of 10"));
  CHECK(notes(t, "base-2 is left out: stopped at step 4 of 10"));
  CHECK(notes(t, "int8-2 is left out: the baseline has no finished run of seed 2"));
  // A stopped copy of a finished run contradicts nothing.
  write_run(dir / "int8-3-again", "int8", 3, 2.9, {.steps = 4});
  CHECK(table_of(dir).comparisons[0].pairs.size() == 1);
}

TEST_CASE("report pairs: a loss that is not finite is a failure, never a difference") {
  const test::TempDir dir;
  write_table(dir / "");
  SUBCASE("of the run") {
    write_run(dir / "int8-2", "int8", 2, NAN, {.end = NAN});
    const Table t = table_of(dir);
    CHECK(t.comparisons[0].pairs.size() == 3);
    CHECK(t.comparisons[0].verdict == Verdict::Failed);
  }
  SUBCASE("of its last validation alone") {
    write_run(dir / "int8-2", "int8", 2, NAN);
    CHECK(table_of(dir).comparisons[0].verdict == Verdict::Failed);
  }
  SUBCASE("of the baseline") {
    write_run(dir / "base-2", "none", 2, NAN);
    const Table t = table_of(dir);
    CHECK(t.comparisons[0].pairs.size() == 2);
    CHECK(std::isfinite(t.comparisons[0].mean));
    CHECK(notes(t, "int8-2 is left out: its partner base-2 failed"));
  }
  // Numbers that nobody marked as failed.
  CHECK(compare({{{1, 2, 2, false}, {2, 2, NAN, false}, {3, NAN, 2, false}}}, 0.02)[0].verdict ==
        Verdict::Failed);
}

TEST_CASE("report pairs: one folder on both sides is one run") {
  const test::TempDir dir;
  write_table(dir / "", 1);
  const std::string base = (dir / "base-1").string();
  std::filesystem::create_directory_symlink(dir / "base-1", dir / "link");
  CHECK_THROWS_WITH(compare_runs(read_runs({base, base}), {}),
                    doctest::Contains("got 1 run, expected at least two"));
  CHECK_THROWS_WITH(compare_runs(read_runs({base, (dir / "link").string()}), {}),
                    doctest::Contains("got 1 run, expected at least two"));
  std::filesystem::copy(dir / "base-1", dir / "copy");
  CHECK_THROWS_WITH(compare_runs(read_runs({base, (dir / "copy").string()}), {}),
                    doctest::Contains("the 2 runs differ in nothing but their seeds"));
}

TEST_CASE("report pairs: a run of an unknown configuration belongs nowhere") {
  const test::TempDir dir;
  write_table(dir / "");
  std::filesystem::remove(dir / "int8-3" / "run.json");
  const Table t = table_of(dir);
  CHECK(t.groups.size() == 1);
  CHECK(t.comparisons[0].pairs.size() == 2);
  CHECK(t.notes.front() == "int8-3 is left out: its configuration is unknown");
}
