// The binder: structs from JSON and back, and the exact text of every complaint.
#include <doctest/doctest.h>

#include <limits>

#include "apps/config/reader.h"
#include "tests/temp_dir.h"

using namespace nibble;
using namespace nibble::test;

namespace sample {

enum class Schedule { Cosine, Linear, Constant };
const config::Words<Schedule>& words_of(Schedule) {
  static const config::Words<Schedule> words{
      {"cosine", Schedule::Cosine}, {"linear", Schedule::Linear}, {"constant", Schedule::Constant}};
  return words;
}

// A type that is written as one word, as a recipe is.
struct Bits {
  int count = 8;
  bool operator==(const Bits&) const = default;
};
void from_word(std::string_view word, Bits& bits) {
  NIBBLE_CHECK(word.starts_with("int"), "bits", "got \"{}\" expected intN", word);
  bits.count = word.at(3) - '0';
}
std::string to_word(const Bits& bits) { return fmt::format("int{}", bits.count); }

struct Group {
  std::string pattern;
  double decay = 0.1;
  bool operator==(const Group&) const = default;
};
template <class V>
void visit(V& v, Group& c) {
  v.required("pattern", c.pattern, config::not_empty());
  v("decay", c.decay, config::at_least(0.0));
}

struct Trainer {
  double lr = 3e-4;
  float floor = 0.1f;
  std::int64_t steps = 0;
  std::uint64_t seed = 1;
  std::int8_t small = 1;
  bool resume = false;
  Schedule schedule = Schedule::Cosine;
  Bits bits;
  std::optional<double> clip = 1.0;
  std::vector<double> betas{0.9, 0.95};
  std::vector<Group> groups;
  std::vector<bool> flags{true};
  std::map<std::string, Bits> overrides;
  std::filesystem::path out = "out";
  bool operator==(const Trainer&) const = default;
};
template <class V>
void visit(V& v, Trainer& c) {
  v("lr", c.lr, config::above(0.0), config::at_most(1));
  v("floor", c.floor);
  v.required("steps", c.steps, config::at_least(1));
  v("seed", c.seed);
  v("small", c.small);
  v("resume", c.resume);
  v("schedule", c.schedule);
  v("bits", c.bits);
  v("clip", c.clip, config::above(0.0));
  v.check(!c.clip || c.lr < *c.clip, "clip", "must be above lr = {}", c.lr);
  v("betas", c.betas, config::half_open(0.0, 1.0));
  v("groups", c.groups);
  v("flags", c.flags);
  v("overrides", c.overrides);
  v("out", c.out, config::not_empty());
}

struct Root {
  Trainer trainer;
  Json anything = {{"free", 1}};
  std::optional<Group> group;
  bool operator==(const Root&) const = default;
};
template <class V>
void visit(V& v, Root& c) {
  v("trainer", c.trainer);
  v("anything", c.anything);
  v("group", c.group);
}

}  // namespace sample

namespace {

using sample::Root;
using sample::Trainer;

std::string complaint(const char* trainer) {
  Json json = Json::parse(trainer);
  if (!json.contains("steps")) json["steps"] = 10;
  return message_of([&] { config::read<Root>(Json{{"trainer", json}}); });
}

}  // namespace

TEST_CASE("config: every field type is read") {
  const auto c = config::read<Trainer>(Json::parse(R"({
    "lr": 1, "floor": 0.25, "steps": 1e6, "seed": 18446744073709551615, "small": -128, "resume": true,
    "schedule": "linear", "bits": "int4", "clip": null, "betas": [0, 0.5], "flags": [false, true],
    "groups": [{"pattern": "*.bias", "decay": 0}, {"pattern": "*"}], "overrides": {"h.0": "int2"},
    "out": "a/b"})"));
  Trainer expected;
  expected.lr = 1;
  expected.floor = 0.25f;
  expected.steps = 1000000;
  expected.seed = std::numeric_limits<std::uint64_t>::max();
  expected.small = -128;
  expected.resume = true;
  expected.schedule = sample::Schedule::Linear;
  expected.bits.count = 4;
  expected.clip = std::nullopt;
  expected.betas = {0, 0.5};
  expected.flags = {false, true};
  expected.groups = {{"*.bias", 0}, {"*", 0.1}};
  expected.overrides = {{"h.0", {2}}};
  expected.out = "a/b";
  CHECK(c == expected);
}

TEST_CASE(
    "config: the resolved form holds every default, in order, and re-reads to the same struct") {
  Root root;
  root.trainer.steps = 7;
  root.trainer.lr = 0.1 + 0.2;
  root.trainer.floor = 1.0f / 3.0f;
  root.trainer.seed = std::numeric_limits<std::uint64_t>::max();
  root.trainer.groups = {{"*", 0.5}};
  root.group = sample::Group{"x", 1};
  const Json resolved = config::write(root);
  CHECK(config::read<Root>(Json::parse(resolved.dump())) == root);

  Trainer trainer;
  trainer.steps = 1;
  trainer.floor = 0.5f;
  CHECK(
      config::write(trainer).dump() ==
      R"({"lr":0.0003,"floor":0.5,"steps":1,"seed":1,"small":1,"resume":false,"schedule":"cosine",)"
      R"("bits":"int8","clip":1.0,"betas":[0.9,0.95],"groups":[],"flags":[true],"overrides":{},)"
      R"("out":"out"})");
  trainer.lr = std::numeric_limits<double>::infinity();
  CHECK(message_of([&] { config::write(trainer); }) ==
        "config: got inf in a config expected a finite number");
}

TEST_CASE("config: a nested object changes only what it names") {
  Root initial;
  initial.trainer.lr = 0.5;
  initial.trainer.steps = 3;
  initial.group = sample::Group{"kept", 2};
  const Json json = Json::parse(R"({"trainer": {"steps": 4}, "group": {"pattern": "new"}})");
  const Root root = config::read<Root>(json, "", initial);
  CHECK(root.trainer.lr == 0.5);
  CHECK(root.trainer.steps == 4);
  CHECK(root.group == sample::Group{"new", 2});
}

TEST_CASE("config: wrong values say path, got and expected") {
  struct Case {
    const char *trainer, *message;
  };
  const Case cases[] = {
      {R"({"lr": "fast"})", R"(config: trainer.lr: got "fast" expected a number)"},
      {R"({"lr": true})", "config: trainer.lr: got true expected a number"},
      {R"({"lr": null})", "config: trainer.lr: got null expected a number"},
      {R"({"lr": {}})", "config: trainer.lr: got an object expected a number"},
      {R"({"lr": 0})", "config: trainer.lr: got 0 expected above 0"},
      {R"({"lr": 1.5})", "config: trainer.lr: got 1.5 expected at most 1"},
      {R"({"floor": 1e39})",
       "config: trainer.floor: got 1e+39 expected at most 3.4028234663852886e+38"},
      {R"({"steps": 0})", "config: trainer.steps: got 0 expected at least 1"},
      {R"({"steps": 1.5})", "config: trainer.steps: got 1.5 expected an integer"},
      {R"({"steps": 1e300})", "config: trainer.steps: got 1e+300 expected an integer"},
      {R"({"steps": 18446744073709551615})",
       "config: trainer.steps: got 18446744073709551615 expected an integer from "
       "-9223372036854775808 to 9223372036854775807"},
      {R"({"seed": -1})",
       "config: trainer.seed: got -1 expected an integer from 0 to 18446744073709551615"},
      {R"({"seed": -1.0})",
       "config: trainer.seed: got -1.0 expected an integer from 0 to 18446744073709551615"},
      {R"({"small": 128})", "config: trainer.small: got 128 expected an integer from -128 to 127"},
      {R"({"resume": 1})", "config: trainer.resume: got 1 expected true or false"},
      {R"({"schedule": "cosin"})",
       R"(config: trainer.schedule: got "cosin" expected one of cosine, linear, constant; the nearest is "cosine")"},
      {R"({"schedule": 3})", "config: trainer.schedule: got 3 expected a string"},
      {R"({"bits": "fp8"})", R"(config: trainer.bits: bits: got "fp8" expected intN)"},
      {R"({"bits": 8})", "config: trainer.bits: got 8 expected a string"},
      {R"({"clip": 0})", "config: trainer.clip: got 0 expected above 0"},
      {R"({"clip": 1e-5})", "config: trainer.clip: must be above lr = 0.0003"},
      {R"({"clip": 1e-5, "out": "x"})", "config: trainer.clip: must be above lr = 0.0003"},
      {R"({"betas": 1})", "config: trainer.betas: got 1 expected an array"},
      {R"({"betas": [0.9, "x"]})", R"(config: trainer.betas.1: got "x" expected a number)"},
      {R"({"betas": [0.9, 1]})",
       "config: trainer.betas: got [0.9,1] expected at least 0 and below 1"},
      {R"({"groups": [{"decay": 1}]})",
       "config: trainer.groups.0.pattern: missing; it has no default"},
      {R"({"groups": [{"pattern": ""}]})",
       R"(config: trainer.groups.0.pattern: got "" expected something not empty)"},
      {R"({"groups": [3]})", "config: trainer.groups.0: got 3 expected an object"},
      {R"({"overrides": ["int2"]})",
       R"(config: trainer.overrides: got ["int2"] expected an object)"},
      {R"({"overrides": {"a": 2}})", "config: trainer.overrides.a: got 2 expected a string"},
      {R"({"out": 1})", "config: trainer.out: got 1 expected a string"},
  };
  for (const Case& c : cases) CHECK(complaint(c.trainer) == c.message);
  CHECK(message_of([] { config::read<Root>(Json::parse(R"([1])")); }) ==
        "config: the root: got [1] expected an object");
  CHECK(message_of([] {
          config::read<Trainer>(Json{{"lr", std::string(99, 'x')}, {"steps", 1}});
        }) == "config: lr: got \"" + std::string(59, 'x') + "… expected a number");
  CHECK(message_of([] {
          config::read<Trainer>(Json{{"lr", "\xff"}});
        }) == R"(config: lr: got "\ufffd" expected a number)");
}

TEST_CASE("config: an unknown key names its path and the nearest known key") {
  CHECK(complaint(R"({"rl": 1})") ==
        R"(config: trainer.rl: unknown key; the nearest known one is "lr")");
  CHECK(complaint(R"({"groups": [{"pattern": "*", "weight_decay": 1}]})") ==
        R"(config: trainer.groups.0.weight_decay: unknown key; the nearest known one is "decay")");
  CHECK(message_of([] {
          config::read<Root>(Json{{"trainre", 1}});
        }) == R"(config: trainre: unknown key; the nearest known one is "trainer")");
  // The misspelt key explains the missing one and the broken rule, so it comes first.
  CHECK(message_of([] {
          config::read<Trainer>(Json{{"stesp", 1}});
        }) == R"(config: stesp: unknown key; the nearest known one is "steps")");
  CHECK(message_of([] {
          config::read<Trainer>(Json{{"steps", 1}, {"clip", 1e-9}, {"lrr", 1e-10}});
        }) == R"(config: lrr: unknown key; the nearest known one is "lr")");
  CHECK(message_of([] { config::read<Trainer>(Json::object()); }) ==
        "config: steps: missing; it has no default");
}
