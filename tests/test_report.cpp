// Statistics of paired runs, grouping, and the parts of the page.
#include <doctest/doctest.h>

#include <cmath>

#include "apps/report/charts.h"
#include "apps/report/page.h"
#include "tensor/check.h"
#include "tests/report_testing.h"
#include "tests/temp_dir.h"

using namespace nibble;
using namespace nibble::report;
using nibble::test::write_run;

namespace {

std::vector<Pair> pairs(const std::vector<double>& differences) {
  std::vector<Pair> out;
  for (std::size_t i = 0; i < differences.size(); ++i)
    out.push_back({i + 1, 3.0, 3.0 + differences[i], false});
  return out;
}

}  // namespace

TEST_CASE("report: Student's t against published quantiles") {
  // One-sided 95 % and 97.5 %, from standard tables.
  for (const auto& [df, t95, t975] : {std::tuple{1.0, 6.3138, 12.7062},
                                      {2.0, 2.9200, 4.3027},
                                      {4.0, 2.1318, 2.7764},
                                      {9.0, 1.8331, 2.2622},
                                      {30.0, 1.6973, 2.0423},
                                      {1000.0, 1.6464, 1.9623}}) {
    CHECK(student_quantile(0.95, df) == doctest::Approx(t95).epsilon(1e-4));
    CHECK(student_quantile(0.975, df) == doctest::Approx(t975).epsilon(1e-4));
    CHECK(student_quantile(0.05, df) == doctest::Approx(-t95).epsilon(1e-4));
    CHECK(student_cdf(t95, df) == doctest::Approx(0.95).epsilon(1e-5));
  }
  CHECK(student_cdf(0, 3) == doctest::Approx(0.5));
  // df = 1 is Cauchy's, df = 2 has a closed form.
  CHECK(student_cdf(1, 1) == doctest::Approx(0.75));
  CHECK(student_cdf(1, 2) == doctest::Approx(0.5 + 0.5 / std::sqrt(3.0)));
}

TEST_CASE("report: bounds and verdicts of paired differences") {
  const Comparison c = compare({pairs({0.0342, -0.0020, 0.0236})}, 0.02).front();
  CHECK(c.mean == doctest::Approx(0.0186));
  CHECK(c.lower == doctest::Approx(-0.01275).epsilon(1e-3));
  CHECK(c.upper == doctest::Approx(0.04995).epsilon(1e-3));
  CHECK(c.verdict == Verdict::NotDistinguished);
  CHECK(compare({pairs({0.01, 0.011, 0.009})}, 0.02).front().verdict == Verdict::Within);
  CHECK(compare({pairs({0.1, 0.11, 0.09})}, 0.02).front().verdict == Verdict::Worse);
  CHECK(compare({pairs({0.1, 0.11})}, 0.02).front().verdict == Verdict::TooFew);
  // A margin of 0.01 wants five pairs.
  CHECK(compare({pairs({0, 0.001, 0.002})}, 0.01).front().verdict == Verdict::TooFew);
  CHECK(compare({pairs({0, 0.001, 0.002, 0, 0.001})}, 0.01).front().verdict == Verdict::Within);
  auto failed = pairs({0.01, 0.011, 0.009});
  failed[1].failed = true;
  CHECK(compare({failed}, 0.02).front().verdict == Verdict::Failed);
  CHECK(std::isnan(compare({pairs({0.1})}, 0.02).front().upper));
}

TEST_CASE("report: Holm's correction over a table") {
  // p = 0.037 is worse alone, but not as one of two with another that is not.
  const std::vector<double> weak{0.05, 0.025, 0.075}, none{0.01, -0.02, 0.012};
  REQUIRE(compare({pairs(weak)}, 0.02).front().p_worse == doctest::Approx(0.0371).epsilon(1e-4));
  CHECK(compare({pairs(weak)}, 0.02).front().verdict == Verdict::Worse);
  CHECK(compare({pairs(weak), pairs(none)}, 0.02).front().verdict == Verdict::NotDistinguished);
  const auto both = compare({pairs(weak), pairs({0.5, 0.51, 0.49})}, 0.02);
  CHECK(both[0].verdict == Verdict::Worse);  // the other's p is small: this one is tested at 0.05
  CHECK(both[1].verdict == Verdict::Worse);
}

TEST_CASE("report: runs form groups, and only pairs count") {
  const test::TempDir dir;
  for (int seed = 1; seed <= 3; ++seed) {
    write_run(dir / fmt::format("base-{}", seed), "none", seed, 2.8 + seed * 0.01);
    write_run(dir / fmt::format("int8-{}", seed), "int8", seed, 2.81 + seed * 0.01);
    write_run(dir / fmt::format("bad-{}", seed), "a4", seed, 2.95 + seed * 0.0101);
  }
  write_run(dir / "int8-4", "int8", 4, 2.9);                // no partner
  write_run(dir / "half-1", "int4", 1, 2.9, {.steps = 4});  // not finished
  const auto runs = read_runs({(dir / "").string()});
  REQUIRE(runs.size() == 11);
  const Table t = compare_runs(runs, {.baseline = "", .control = "bad-2", .margin = 0.02});
  CHECK(t.baseline.label == "recipe=none");
  REQUIRE(t.groups.size() == 2);
  CHECK(t.groups[0].label == "recipe=a4");
  CHECK(t.comparisons[0].verdict == Verdict::Worse);
  CHECK(t.groups[1].label == "recipe=int8");
  CHECK(t.comparisons[1].verdict == Verdict::Within);
  CHECK(t.comparisons[1].pairs.size() == 3);
  REQUIRE(t.notes.size() == 2);
  CHECK(t.notes[0] == "half-1 is left out: stopped at step 4 of 10");
  CHECK(t.notes[1] == "int8-4 is left out: the baseline has no finished run of seed 4");
  CHECK(compare_runs(runs, {.baseline = "", .control = "int8-1", .margin = 0.02}).notes.back() ==
        "the positive control is not shown to be worse: this table shows nothing");
  CHECK_THROWS_WITH(
      compare_runs(runs, {.baseline = "nobody", .control = "", .margin = 0.02}),
      doctest::Contains("--baseline: got 'nobody', expected the name of one of the runs: "));
  const std::vector<RunRecord> alike{runs[0], runs[1]};
  CHECK_THROWS_AS(compare_runs(alike, {}), Error);
}

TEST_CASE("report: what a run's program did not know yet stands at its default") {
  const test::TempDir dir;
  for (int seed = 1; seed <= 3; ++seed) {
    write_run(dir / fmt::format("base-{}", seed), "none", seed, 2.8);
    write_run(dir / fmt::format("int8-{}", seed), "int8", seed, 2.81 + seed * 0.001);
  }
  std::vector<RunRecord> runs = read_runs({(dir / "").string()});
  REQUIRE(runs[0].name == "base-1");
  runs[0].config["trainer"]["later"] = false;  // by a newer program
  CHECK_THROWS_WITH(compare_runs(runs, {}), doctest::Contains("several groups are unquantized"));
  const Json defaults = Json::parse(R"({"trainer": {"later": false}, "recipe": "none"})");
  const Table t = compare_runs(runs, {.margin = 0.02, .defaults = defaults});
  CHECK(t.comparisons.at(0).pairs.size() == 3);
  CHECK(t.groups[0].label == "recipe=int8");
  // On the page too, and two programs are named.
  const auto differs = [&](const std::string& html) {
    return html.find("<td class=\"differs\">") != std::string::npos;
  };
  for (RunRecord& r : runs) r.config["trainer"]["seed"] = 1;
  const std::vector<RunRecord> alike(runs.begin(), runs.begin() + 3);
  CHECK(differs(config_table(alike, Json::object())));
  CHECK_FALSE(differs(config_table(alike, defaults)));
  runs[0].commit = "0123456789abcdef", runs[1].commit = "fedcba9876543210";
  CHECK(compare_runs(runs, {.margin = 0.02, .defaults = defaults}).notes.front() ==
        "recipe=none: runs of 2 programs (commits 0123456789ab, fedcba987654)");
  runs[1].seed = 1;
  runs[1].validation.back().loss += 1;
  CHECK_THROWS_WITH(compare_runs(runs, {.margin = 0.02, .defaults = defaults}),
                    doctest::Contains("why they differ (commits 0123456789ab and fedcba987654)"));
  runs[0].config["trainer"]["later"] = true;
  CHECK_THROWS_AS(compare_runs(runs, {.defaults = defaults}), Error);
}

TEST_CASE("report: a run is read as far as it is whole") {
  const test::TempDir dir;
  write_run(dir / "a", "int8", 1, 2.8,
            {.extra = "not json\n"
                      R"({"step":10,"module":"h.0","role":"fprop.lhs","absmax":3,"clipped":0.1,)"
                      R"("flushed":0.2,"sqnr_db":31.5,"elements":8})"
                      "\n"
                      R"({"step":10,"loss":nu)"});
  const RunRecord r = read_run(dir / "a");
  CHECK(r.status == Status::Finished);
  CHECK(r.train.size() == 10);
  CHECK(r.train.back().seconds == doctest::Approx(5));
  CHECK(r.median_speed() == 100);
  CHECK(r.peak_memory() == 1073741824);
  REQUIRE(r.problems.size() == 1);
  CHECK(r.problems[0] == "metrics.jsonl line 12 is damaged and left out");
  CHECK(r.telemetry.at({"h.0", "fprop.lhs"}).front().sqnr == 31.5);
  CHECK_THROWS_WITH(read_runs({(dir / "none").string()}), doctest::Contains("no such folder"));
  std::filesystem::create_directories(dir / "empty" / "inner");
  CHECK_THROWS_WITH(read_runs({(dir / "empty").string()}),
                    doctest::Contains("holds no run, nor does a folder in it"));
}

TEST_CASE("report: a run whose files hold anything anywhere") {
  const test::TempDir dir;
  write_run(
      dir / "a", "int8", 1, 2.8,
      {.steps = 1,
       .extra = R"({"step":9223372036854775807,"loss":1e308,"tokens":[],"tokens_per_second":-1})"
                "\n"
                R"({"step":2,"module":5,"role":[],"absmax":1e308})"
                "\n"
                R"({"step":3,"module":"m","role":"r","absmax":-1e308,"sqnr_db":-1e308})"
                "\n"
                R"({"step":-4,"loss":-1e308,"lr":1e-320})"
                "\n"
                R"({"step":4,"val_loss":"x","val_strata":[1]})"
                "\n" +
                std::string(1 << 20, '[') + "\n"});
  for (const char* info :
       {"", "5", "[]", R"({"sessions":5})", R"({"sessions":[5]})",
        R"({"sessions":[{"config":[1]}]})",
        R"({"sessions":[{"start_time":5,"data_hash":{},"build":{"commit":[]}}]})",
        R"({"sessions":[{"config":{"recipe":7,"trainer":{"steps":"a","seed":-1.5}}}]})",
        R"({"sessions":[{"config":{"recipe":{"a":1},"trainer":7}}]})"}) {
    CAPTURE(std::string(info));
    std::ofstream(dir / "a" / "run.json") << info;
    const std::vector<RunRecord> runs{read_run(dir / "a")};
    CHECK(page(runs, std::nullopt).size() > 1000);
    CHECK(runs[0].problems.back() == "metrics.jsonl line 8 is damaged and left out");
  }
}

TEST_CASE("report: samples are shown by run and step") {
  const test::TempDir dir;
  write_run(dir / "a", "int8", 1, 2.8);
  write_run(dir / "b", "none", 1, 2.7);
  std::string rows;
  for (int step = 1; step <= 30; ++step)
    rows +=
        fmt::format(R"({{"step":{0},"prompt":"It <i>","text":"text {0}","tokens":2,"ended":{1}}})"
                    "\n",
                    step, step == 30);
  const std::string long_text = "é";
  std::string many;
  for (int i = 0; i < 2000; ++i) many += long_text;
  rows += R"({"step":30,"prompt":"","text":")" + many + "\"}\n{\"step\":30,\"te";
  dir.write("a/samples.jsonl", rows);
  const auto runs = read_runs({(dir / "a").string(), (dir / "b").string()});
  CHECK(runs[0].samples.size() == 31);
  CHECK(runs[0].problems.empty());
  const std::string html = page(runs, std::nullopt);
  const auto count = [&](const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = 0; (at = html.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  CHECK(count("<h2>Samples</h2>") == 1);
  CHECK(count("<summary>step ") == 12);
  CHECK(count("<details open><summary>step 30</summary>") == 1);
  CHECK(count("<summary>step 1</summary>") == 1);
  CHECK(count("<b>It &lt;i&gt;</b>text 30 <small>(end of the text)</small>") == 1);
  CHECK(count("é…</div>") == 1);
  CHECK(count("12 of 30 steps; all are in samples.jsonl") == 1);
  CHECK(page({runs[1]}, std::nullopt).find("Samples") == std::string::npos);
}

TEST_CASE("report: long curves are thinned without losing extremes or gaps") {
  Series s{.name = "x", .x = {}, .y = {}};
  for (int i = 0; i < 100000; ++i) {
    s.x.push_back(i);
    s.y.push_back(std::sin(i * 0.001));
  }
  s.y[54321] = 40;
  s.y[777] = -40;
  s.y[99000] = NAN;
  const Series t = thinned(s, 300);
  CHECK(t.x.size() <= 600);
  CHECK(std::ranges::count(t.y, 40.0) == 1);
  CHECK(std::ranges::count(t.y, -40.0) == 1);
  CHECK(std::ranges::count_if(t.y, [](double y) { return std::isnan(y); }) == 1);
  CHECK(std::ranges::is_sorted(t.x));
  CHECK(thinned({.name = "y", .x = {1, 2}, .y = {3, 4}}, 300).x.size() == 2);
}

TEST_CASE("report: ticks are round and numbers short") {
  CHECK(ticks(0, 10, 5) == std::vector<double>{0, 2, 4, 6, 8, 10});
  CHECK(ticks(-0.3, 0.3, 3) == std::vector<double>{-0.2, 0, 0.2});
  // Where a step is lost in rounding, where the range overflows, where nothing is a number.
  CHECK(ticks(9.2e18, 9.2e18 + 1024, 6).size() <= 13);
  CHECK(ticks(-1.7e308, 1.7e308, 5).size() <= 11);
  CHECK(ticks(NAN, 1, 5).empty());
  CHECK(short_number(123456) == "123.5k");
  CHECK(short_number(5e7) == "50M");
  CHECK(short_number(0.0006) == "0.0006");
  CHECK(short_number(NAN) == "–");
}

TEST_CASE("report: what runs say is text, never markup") {
  const test::TempDir dir;
  const std::string nasty = "<script>alert(1)</script>'&";
  write_run(dir / "a", nasty, 1, 2.8);
  auto runs = read_runs({(dir / "a").string()});
  runs[0].name = nasty;
  runs[0].problems.push_back(nasty);
  runs[0].telemetry[{nasty, nasty}].push_back({1, 1, 1, 1, 1});
  runs[0].validation.back().strata[nasty] = 1;
  const std::string html = page(runs, std::nullopt);
  CHECK(html.find("<script>alert") == std::string::npos);
  CHECK(html.find("&lt;script&gt;alert(1)&lt;/script&gt;&#39;&amp;") != std::string::npos);
  CHECK(html.find("http") == html.find("http-equiv"));  // and no address but SVG's name
  CHECK(escape("a\"b\x01") == "a&quot;b ");
}

TEST_CASE("report: a hundred thousand steps of ten runs stay small") {
  std::vector<RunRecord> runs(10);
  for (std::size_t r = 0; r < runs.size(); ++r) {
    runs[r].name = fmt::format("run {}", r);
    runs[r].config = Json{{"recipe", "none"}};
    for (int i = 0; i < 100000; ++i)
      runs[r].train.push_back({i, i * 1.0, i * 0.1, 3 + std::cos(i * 0.37), 1,
                               1 + std::sin(i * 0.7), 100 + std::sin(i * 1.1), 1e9});
  }
  CHECK(page(runs, std::nullopt).size() < 3 << 20);
}
