// Overrides, the nearest word, and components chosen by name.
#include <doctest/doctest.h>

#include <memory>

#include "apps/config/overrides.h"
#include "apps/config/reader.h"
#include "apps/config/registry.h"
#include "tests/temp_dir.h"

using namespace nibble;
using namespace nibble::test;

namespace sample {

struct Lion {
  double beta = 0.9;
};
template <class V>
void visit(V& v, Lion& c) {
  v("beta", c.beta, config::half_open(0.0, 1.0));
}
struct Empty {};
template <class V>
void visit(V&, Empty&) {}

}  // namespace sample

namespace {}  // namespace

TEST_CASE("config: the edit distance counts a swap of neighbours once") {
  CHECK(config::edit_distance("", "") == 0);
  CHECK(config::edit_distance("", "abc") == 3);
  CHECK(config::edit_distance("abc", "") == 3);
  CHECK(config::edit_distance("kitten", "sitting") == 3);
  CHECK(config::edit_distance("steps", "stesp") == 1);
  CHECK(config::edit_distance("ca", "abc") == 3);  // 2 would edit one part twice
  CHECK(config::edit_distance("lr", "rl") == 1);
  CHECK(config::nearest("a", {}) == "");
  CHECK(config::nearest("b", {"x", "y"}) == "x");
  CHECK(config::nearest_few("b", {"xyz", "y", "b", "x"}) == "b, y, x");  // equals in their order
  CHECK(config::nearest_few("b", {"y"}) == "y");
  CHECK(config::nearest_few("b", {}) == "");
}

TEST_CASE("config: --set reaches any depth, as JSON or as a string") {
  Json json = Json::parse(R"({"trainer": {"lr": 1, "groups": [{"decay": 1}, {}]}, "n": null})");
  for (const char* assignment :
       {"trainer.lr=3e-4", "trainer.schedule=linear", "trainer.resume=true", "trainer.clip=null",
        "trainer.groups.1.decay=0.5", "new.deep.key=[1,2]", "n.x=\"3\"", "trainer.out=", "eq=a=b",
        "trainer.seed=18446744073709551615"}) {
    config::apply_override(json, assignment);
  }
  CHECK(json == Json::parse(R"({"trainer": {"lr": 3e-4, "groups": [{"decay": 1}, {"decay": 0.5}],
    "schedule": "linear", "resume": true, "clip": null, "out": "", "seed": 18446744073709551615},
    "n": {"x": "3"}, "new": {"deep": {"key": [1, 2]}}, "eq": "a=b"})"));

  struct Case {
    const char *assignment, *message;
  };
  const Case cases[] = {
      {"trainer.lr", "config: --set trainer.lr: expected path=value, e.g. trainer.lr=3e-4"},
      {"=3", "config: --set =3: the path has an empty name"},
      {"trainer..lr=3", "config: --set trainer..lr=3: the path has an empty name"},
      {"trainer.=3", "config: --set trainer.=3: the path has an empty name"},
      {"trainer.lr.x=3", R"(config: --set trainer.lr.x=3: trainer.lr is 0.0003, which has no "x")"},
      {"trainer.groups.2.decay=1",
       R"(config: --set trainer.groups.2.decay=1: trainer.groups is an array: got index "2" expected a number below 2)"},
      {"trainer.groups.last=1",
       R"(config: --set trainer.groups.last=1: trainer.groups is an array: got index "last" expected a number below 2)"},
      {"a=\xff", R"(config: --set: the value is not valid UTF-8: "a=\ufffd")"},
  };
  for (const Case& c : cases) {
    CHECK(message_of([&] { config::apply_override(json, c.assignment); }) == c.message);
  }
  Json root;
  config::apply_override(root, "a.b=1");
  CHECK(root == Json::parse(R"({"a": {"b": 1}})"));
}

TEST_CASE("config: a component is chosen by name and its parameters are its own") {
  using config::Component;
  config::Registry<std::unique_ptr<double>, double> registry("optimizer");
  registry.add<sample::Lion>("lion", [](const sample::Lion& c, double scale) {
    return std::make_unique<double>(c.beta * scale);
  });
  registry.add<sample::Empty>(
      "sgd", [](const sample::Empty&, double scale) { return std::make_unique<double>(scale); });

  const Component standard{.type = "lion"};
  const auto changed =
      config::read<Component>(Json::parse(R"({"beta": 0.5})"), "optimizer", standard);
  CHECK(changed == Component{.type = "lion", .parameters = {{"beta", 0.5}}});
  auto lion = config::read<Component>(Json::parse(R"({"type": "lion", "beta": 0.5})"), "optimizer");
  CHECK(*registry.make(lion, 4) == 2);
  auto plain = config::read<Component>(Json("lion"), "optimizer");
  registry.resolve(plain);
  CHECK(config::write(plain).dump() == R"({"type":"lion","beta":0.9})");
  CHECK(config::read<Component>(config::write(plain)) == plain);
  CHECK(registry.types() == std::vector<std::string>{"lion", "sgd"});

  CHECK(
      message_of([&] {
        registry.make({"lino", {}, "optimizer"}, 1);
      }) ==
      R"(config: optimizer.type: unknown optimizer "lino"; the nearest known one is "lion" (of lion, sgd))");
  const auto misspelt =
      config::read<Component>(Json::parse(R"({"type": "lion", "bata": 1})"), "opt");
  CHECK(message_of([&] { registry.make(misspelt, 1); }) ==
        R"(config: opt.bata: unknown key; the nearest known one is "beta")");
  CHECK(message_of([&] { config::read<Component>(Json(3), "opt"); }) ==
        R"(config: opt: got 3 expected a word or an object with a "type")");
  CHECK(message_of([&] { config::read<Component>(Json::object(), "opt"); }) ==
        "config: opt.type: missing; it has no default");
  CHECK(message_of([] {
          config::read<sample::Empty>(Json{{"a", 1}}, "x");
        }) == "config: x.a: unknown key; nothing is known here");
  CHECK(message_of([&] { registry.add<sample::Empty>("sgd", nullptr); }) ==
        R"(config: optimizer "sgd" is registered twice)");
}
