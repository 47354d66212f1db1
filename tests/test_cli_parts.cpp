// Parts of the command line that need no process: drawing tokens, showing their bytes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "apps/cli/bench_runs.h"
#include "apps/cli/bench_train.h"
#include "apps/cli/memory_fit.h"
#include "apps/cli/text_layout.h"
#include "apps/train/sampler.h"
#include "apps/train/utf8_stream.h"
#include "tensor/check.h"
#include "tensor/storage.h"

using nibble::train::sample;
using nibble::train::SamplingOptions;
using nibble::train::Utf8Stream;

namespace {

// Probabilities 0.5, 0.3, 0.15, 0.05 at ids 2, 0, 3, 1.
const std::vector<float> kLogits{std::log(0.3f), std::log(0.05f), std::log(0.5f), std::log(0.15f)};

std::map<std::int32_t, double> frequencies(const SamplingOptions& options) {
  constexpr int kDraws = 20000;
  std::map<std::int32_t, double> share;
  for (int i = 0; i < kDraws; ++i)
    share[sample(kLogits, options, static_cast<std::uint64_t>(i))] += 1.0 / kDraws;
  return share;
}

}  // namespace

TEST_CASE("cli: draws follow the probabilities") {
  auto share = frequencies({});
  CHECK(share[2] == doctest::Approx(0.5).epsilon(0.03));
  CHECK(share[0] == doctest::Approx(0.3).epsilon(0.05));
  CHECK(share[3] == doctest::Approx(0.15).epsilon(0.08));
  CHECK(share[1] == doctest::Approx(0.05).epsilon(0.15));
}

TEST_CASE("cli: temperature sharpens, top-k and top-p cut the tail") {
  // Squared and normalised: 0.25, 0.09, 0.0225, 0.0025 of 0.365.
  CHECK(frequencies({.temperature = 0.5})[2] == doctest::Approx(0.25 / 0.365).epsilon(0.03));
  auto two = frequencies({.top_k = 2});
  CHECK(two.size() == 2);
  CHECK(two[2] == doctest::Approx(0.625).epsilon(0.03));
  CHECK(frequencies({.top_p = 0.4}).size() == 1);  // the token that reaches p is kept
  CHECK(frequencies({.top_p = 0.79}).size() == 2);
  CHECK(frequencies({.top_p = 0.81}).size() == 3);
  CHECK(frequencies({.top_p = 0}).size() == 1);
}

TEST_CASE("cli: greedy takes the likeliest, the lowest id among equals") {
  CHECK(sample(kLogits, {.greedy = true}, 0) == 2);
  const std::vector<float> equal{1, 3, 3};
  CHECK(sample(equal, {.greedy = true}, 5) == 1);
}

TEST_CASE("cli: a draw depends on seed and place alone") {
  std::set<std::vector<std::int32_t>> texts;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    std::vector<std::int32_t> text, again;
    for (std::uint64_t i = 0; i < 32; ++i) text.push_back(sample(kLogits, {.seed = seed}, i));
    for (std::uint64_t i = 0; i < 32; ++i) again.push_back(sample(kLogits, {.seed = seed}, i));
    CHECK(text == again);
    texts.insert(text);
  }
  CHECK(texts.size() == 8);
}

TEST_CASE("cli: logits that are not finite are refused") {
  const std::vector<float> bad{0, std::numeric_limits<float>::quiet_NaN()};
  CHECK_THROWS_AS(sample(bad, {}, 0), nibble::Error);
}

TEST_CASE("cli: bytes come out as whole characters") {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";  // a é € 😀 z
  Utf8Stream stream;
  std::string out;
  for (const char byte : text) {
    const std::string piece = stream.push(std::string_view(&byte, 1));
    CHECK((piece.size() != 1 || static_cast<unsigned char>(piece[0]) < 0x80));
    out += piece;
  }
  CHECK(out + stream.finish() == text);
}

TEST_CASE("cli: bytes that are no text are replaced one by one, without waiting") {
  const std::string mark = "\xEF\xBF\xBD";
  CHECK(Utf8Stream().push("\xFFz") == mark + "z");
  CHECK(Utf8Stream().push("\x80") == mark);
  CHECK(Utf8Stream().push("\xC0\x80") == mark + mark);  // overlong
  CHECK(Utf8Stream().push("\xED\xA0") == mark + mark);  // a surrogate
  CHECK(Utf8Stream().push("\xF4\x90") == mark + mark);  // above U+10FFFF
  CHECK(Utf8Stream().push("\xE2\x82z") == mark + mark + "z");
  Utf8Stream cut;
  CHECK(cut.push("\xE2\x82").empty());  // may still become €
  CHECK(cut.finish() == mark);
}

// Exact, as all that follows.
TEST_CASE("cli: sentences are wrapped at 80 columns, by characters") {
  using nibble::cli::wrap;
  CHECK(wrap("a", 2, "") == "a\n");
  CHECK(wrap("a", 2, " b  c ") == "a b c\n");
  CHECK(wrap("a:  ", 2, "b") == "a:  b\n");
  const std::string x(39, 'x');
  CHECK(wrap("", 2, x + " " + x) == x + " " + x + "\n");
  CHECK(wrap("", 2, x + " " + x + "yy") == x + "\n  " + x + "yy\n");
  std::string wide;
  for (int i = 0; i < 39; ++i) wide += "×";
  CHECK(nibble::cli::width_of(wide) == 39);
  CHECK(wrap("", 2, wide + " " + wide) == wide + " " + wide + "\n");
  // A word longer than a line stays whole, and is not pushed away from an empty one.
  CHECK(wrap("", 2, std::string(90, 'z')) == std::string(90, 'z') + "\n");
  CHECK(wrap("ab", 2, std::string(90, 'z')) == "ab\n  " + std::string(90, 'z') + "\n");
}

TEST_CASE("cli: a table too wide for 80 columns gives its names a line of their own") {
  nibble::cli::Table narrow({"name", "n"}, 1);
  narrow.row({"a", "1"});
  narrow.row({"bcdef", "20"});
  CHECK(narrow.lines() == std::vector<std::string>{"name    n", "a       1", "bcdef  20"});
  const std::string name(79, 'n');
  nibble::cli::Table wide({"name", "kind", "n"}, 2);
  wide.row({name, "k", "7"});
  CHECK(wide.lines() == std::vector<std::string>{"name\n    kind  n", name + "\n    k     7"});
}

TEST_CASE("cli: the budget is what is given, what is there, or assumed") {
  using nibble::cli::memory_budget;
  CHECK(memory_budget(nibble::kCpu, 1 << 20).source == "given");
  CHECK(memory_budget(nibble::kCpu, 1 << 20).text == "1.0 MiB");
  nibble::set_memory_limit(nibble::kCpu, 1 << 20);
  const nibble::cli::MemoryBudget limited = memory_budget(nibble::kCpu, 0);
  nibble::set_memory_limit(nibble::kCpu, 0);
  CHECK(limited.source == "device");
  CHECK(limited.text == "1.0 MiB, all that cpu has");
  const nibble::cli::MemoryBudget gpu = memory_budget(nibble::cuda_device(63), 0);
  CHECK(gpu.source == "assumed");
  CHECK(gpu.bytes == 141'000'000'000);
}

TEST_CASE("cli: a benchmark's runs write no checkpoint") {
  nibble::cli::BenchRuns o;
  o.configs = {"gpt2.jsonnet"};
  const auto command =
      nibble::cli::own_run(o, {.recipe = "int8", .overrides = {}}, 5, "run").command;
  CHECK(std::ranges::find(command, "trainer.keep=0") != command.end());
  CHECK(std::ranges::find(command, "trainer.steps=5") != command.end());
}

TEST_CASE("cli: control characters are shown, not sent to a terminal") {
  using nibble::cli::escape_controls;
  CHECK(escape_controls("plain\ttext\n") == "plain\ttext\n");
  CHECK(escape_controls("\x1B[2J\a\b\r\x7F") == R"(\x1B[2J\x07\x08\x0D\x7F)");
  CHECK(escape_controls(std::string_view("a\0b", 3)) == R"(a\x00b)");
  // CSI as one character, U+009B; its neighbours U+00A0 and é are text.
  CHECK(escape_controls("\xC2\x9B"
                        "31m\xC2\x80\xC2\x9F") == R"(\x9B31m\x80\x9F)");
  CHECK(escape_controls("\xC2\xA0\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80") ==
        "\xC2\xA0\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
}

TEST_CASE("cli: a queue that the GPU works off is not the host's time") {
  using nibble::cli::host_text;
  constexpr nibble::Device kCuda = nibble::cuda_device();
  CHECK(host_text(0.00074, 0.0467, kCuda) == "0.74");
  CHECK(host_text(0.638, 0.89, kCuda) == "(638)");
  CHECK(host_text(0.638, 0.64, nibble::kCpu) == "638.00");  // there it does the work
  CHECK(host_text(-1, 0.64, kCuda) == "-");
}
