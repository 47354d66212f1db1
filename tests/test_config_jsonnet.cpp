// Config files: composition, imports, and where errors are said to be.
#include <doctest/doctest.h>

#include "apps/config/jsonnet.h"
#include "tensor/check.h"
#include "tests/temp_dir.h"

using namespace nibble;
using namespace nibble::test;
namespace fs = std::filesystem;

namespace {}  // namespace

TEST_CASE("config: files compose left to right, the right one wins, +: merges deeply") {
  const TempDir folder;
  const fs::path a =
      folder.write("a.jsonnet", "{lr:: 3e-4, trainer: {lr: $.lr, steps: 5}, model: {n: 1}}");
  const fs::path b = folder.write("b.jsonnet", "{lr:: 0.5, trainer+: {steps: 6}, model: {m: 2}}");
  CHECK(config::evaluate({a, b}, {}) ==
        Json::parse(R"({"model": {"m": 2}, "trainer": {"lr": 0.5, "steps": 6}})"));
  CHECK(config::evaluate({a}, {})["trainer"]["lr"].get<double>() == 3e-4);
  CHECK(config::load({a, b}, {"trainer.steps=7", "model.k=x"}, {}) ==
        Json::parse(R"({"model": {"m": 2, "k": "x"}, "trainer": {"lr": 0.5, "steps": 7}})"));
  CHECK(config::load({}, {"a=1"}, {}) == Json::parse(R"({"a": 1})"));
}

TEST_CASE("config: imports are found beside the importing file, then on the search paths") {
  const TempDir folder;
  const fs::path top = folder.write("runs/top.jsonnet",
                                    "(import '../lib/base.libsonnet') + (import 'far.libsonnet')");
  folder.write("lib/base.libsonnet",
               "{a: import 'near.libsonnet', text: importstr 'near.libsonnet'}");
  folder.write("lib/near.libsonnet", "1");
  folder.write("shared/far.libsonnet", "{b: 2}");
  folder.write("other/far.libsonnet", "{b: 3}");
  CHECK(config::evaluate({top}, {folder.path() / "shared", folder.path() / "other"}) ==
        Json::parse(R"({"a": 1, "b": 2, "text": "1"})"));
  CHECK(config::evaluate({"far.libsonnet"}, {folder.path() / "other"}) ==
        Json::parse(R"({"b": 3})"));
}

TEST_CASE("config: what Jsonnet rejects is one line that begins with the place") {
  const TempDir folder;
  struct Case {
    const char *text, *message;
  };
  const Case cases[] = {
      {"{a: 1,\n b: }", "2:5: unexpected: \"}\" while parsing terminal"},
      {"", "1:1: unexpected end of file."},
      {"{\n a: error \"two\\nlines\"}", "2:5-23: two lines"},
      {"{a: $.b}", "1:5-8: field does not exist: b"},
      {"{\n a: std.format('%d', 'x')}", "2:5-26: Format required number at 0, got string"},
      {"local f(x) = f(x + 1); {a: f(1)}", "1:14-22: max stack frames exceeded."},
      {"{a: 1e300 * 1e300}", "1:5-18: overflow"},
      {"{a: function(x) x}", "1:5-18: couldn't manifest function in JSON output."},
      {"{a: 1, assert self.a > 1 : 'a is too small'}", "1:28-44: a is too small"},
      {"\xff", "1:1: Could not lex the character code 255"},
  };
  for (const Case& c : cases) {
    const fs::path file = folder.write("x.jsonnet", c.text);
    CHECK(message_of([&] { config::evaluate({file}, {}); }) ==
          fmt::format("config: {}:{}", file.string(), c.message));
  }
}

TEST_CASE("config: files that are missing, foreign, too big or too deep") {
  const TempDir folder;
  const std::string at = folder.path().string();
  CHECK(message_of([&] { config::evaluate({"no.jsonnet"}, {folder.path()}); }) ==
        "config: no such file: \"no.jsonnet\"; looked in ., " + at);
  CHECK(message_of([&] { config::evaluate({folder.path()}, {}); }) ==
        "config: no such file: \"" + at + "\"; looked in .");
  const fs::path importer = folder.write("i.jsonnet", "{\n a: import 'no.libsonnet'}");
  CHECK(message_of([&] { config::evaluate({importer}, {}); }) ==
        "config: " + importer.string() +
            ":2:5-26: couldn't open import \"no.libsonnet\": no such file: "
            "\"no.libsonnet\"; looked in " +
            at + "/");
  const fs::path deep = folder.write("deep.jsonnet", "\n" + std::string(1000000, '['));
  CHECK(message_of([&] { config::evaluate({deep}, {}); }) ==
        "config: " + deep.string() + ":2: brackets nest deeper than 256");
  const fs::path big = folder.write("big.jsonnet", std::string((1 << 20) + 1, ' '));
  CHECK(message_of([&] { config::evaluate({big}, {}); }) ==
        "config: " + big.string() + ": larger than 1 MiB");
  const fs::path binary = folder.write("bin.jsonnet", std::string("{}\0{}", 5));
  CHECK(message_of([&] { config::evaluate({binary}, {}); }) ==
        "config: " + binary.string() + ": not a text file: it holds a zero byte");
  const fs::path array = folder.write("array.jsonnet", "[1]");
  CHECK(message_of([&] { config::evaluate({array}, {}); }) ==
        "config: " + array.string() + ": got an array expected an object");
  const fs::path object = folder.write("object.jsonnet", "{}");
  CHECK(
      message_of([&] {
        config::evaluate({object, array}, {});
      }) ==
      fmt::format("config: {},{}: binary operator + requires matching types, got object and array.",
                  object.string(), array.string()));
  CHECK(message_of([&] { config::evaluate({}, {}); }) == "config: no config file given");
}

TEST_CASE("config: the list of files on the command line") {
  CHECK(config::split_files("a.jsonnet,b/c.jsonnet") == config::Paths{"a.jsonnet", "b/c.jsonnet"});
  for (const char* bad : {"", "a,", ",a", "a,,b"}) {
    CHECK(message_of([&] { config::split_files(bad); }) ==
          fmt::format("config: got \"{}\" expected files as a.jsonnet,b.jsonnet", bad));
  }
}
