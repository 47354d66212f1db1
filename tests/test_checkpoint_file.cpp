// The safetensors container and checkpoints in it: what is written comes back, what lies is
// refused.
#include "nn/checkpoint_file.h"

#include <doctest/doctest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "nn/layers.h"
#include "temp_dir.h"
#include "tensor_testing.h"
#include "tests/fuzz/mend.h"

namespace nibble {
namespace {

using doctest::Contains;
using nibble::testing::same_bits;
using test::message_of;
using test::read_file;
using test::TempDir;

Tensor bytes_as(DType dtype, const std::vector<std::uint8_t>& bytes, const Shape& shape) {
  Tensor t = Tensor::empty(shape, dtype);
  REQUIRE(t.bytes() == static_cast<std::int64_t>(bytes.size()));
  if (!bytes.empty()) std::memcpy(t.raw(), bytes.data(), bytes.size());
  return t;
}

// The tensors of golden/make_safetensors.py, in its file's order.
NamedTensors golden_tensors() {
  const auto f32 = Tensor::from(std::vector<float>{1.5f, -0.25f, 3e38f, 0, 1e-40f, 7}, {2, 3});
  return {{"f64", Tensor::full({}, 0.1, DType::F64)},
          {"f32", f32},
          {"none", Tensor::zeros({0, 4})},
          {"ids", Tensor::from(std::vector<std::int32_t>{-1, 50256}, {2})},
          {"bf16", Tensor::from(std::vector<float>{1, -2.5f, 0.15625f}, {3}).to(DType::BF16)},
          {"e4m3", bytes_as(DType::E4M3, {0x3c, 0xfe}, {2})},
          {"e5m2", bytes_as(DType::E5M2, {0x34}, {1})},
          {"codes", bytes_as(DType::I8, {0x80, 0, 0x7f}, {3})},
          {"bytes", bytes_as(DType::U8, {0, 255, 7, 8}, {2, 2})}};
}

// A file of this header and data.
std::string container(const std::string& header, std::size_t data = 0) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data, 'x');
}

TEST_CASE("safetensors: reads and writes the reference implementation's bytes") {
  const std::filesystem::path golden = NIBBLE_SOURCE_DIR "/tests/golden/python.safetensors";
  const SafetensorsFile file(golden);
  CHECK(file.metadata() == Metadata{{"made_by", "safetensors"}});
  const NamedTensors tensors = golden_tensors();
  CHECK(file.entries().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    CAPTURE(name);
    const SafetensorsFile::Entry* e = file.find(name);
    REQUIRE(e);
    CHECK(e->dtype == tensor.dtype());
    CHECK(same_bits(file.read(*e), tensor));
  }
  const TempDir dir;
  write_safetensors(dir / "ours.safetensors", tensors, {{"made_by", "safetensors"}});
  CHECK(read_file(dir / "ours.safetensors") == read_file(golden));
}

TEST_CASE("safetensors: packed codes are stored as bytes and come back") {
  const TempDir dir;
  Tensor packed = bytes_as(DType::U4x2, {0x10, 0x32, 0x54, 0x76, 0x98, 0xba}, {3, 4});
  write_safetensors(dir / "p", {{"codes", packed}}, {});
  const SafetensorsFile file(dir / "p");
  const SafetensorsFile::Entry* e = file.find("codes");
  REQUIRE(e);
  CHECK(e->dtype == DType::U8);
  CHECK(e->shape == Shape{6});
  Tensor back = Tensor::zeros({3, 4}, DType::U4x2);
  file.read_into(*e, back);
  CHECK(same_bits(back, packed));
  Tensor wrong = Tensor::zeros({3, 6}, DType::U4x2);
  CHECK_THROWS_WITH(file.read_into(*e, wrong), Contains("expected 9 bytes of codes"));
}

TEST_CASE("safetensors: read_into converts floats and refuses everything else") {
  const TempDir dir;
  const Tensor x = Tensor::from(std::vector<float>{1.5f, -0.25f, 3, 7}, {2, 2});
  write_safetensors(dir / "x", {{"x", x}, {"i", Tensor::zeros({4}, DType::I32)}}, {});
  const SafetensorsFile file(dir / "x");
  for (const DType dtype : {DType::F64, DType::BF16}) {
    Tensor y = Tensor::zeros({2, 2}, dtype);
    const std::uint32_t version = y.version();
    file.read_into(*file.find("x"), y);
    CHECK(y.to_vector() == x.to_vector());
    CHECK(y.version() != version);
  }
  Tensor flat = Tensor::zeros({4}), whole = Tensor::zeros({2, 2}, DType::I32);
  Tensor strided = Tensor::zeros({2, 2}).t();
  CHECK_THROWS_WITH(file.read_into(*file.find("x"), flat), Contains("'x' has shape"));
  CHECK_THROWS_WITH(file.read_into(*file.find("x"), whole), Contains("'x' is f32, expected i32"));
  CHECK_THROWS_WITH(file.read_into(*file.find("i"), flat), Contains("'i' is i32, expected f32"));
  CHECK_THROWS_WITH(file.read_into(*file.find("x"), strided), Contains("strided view"));
  CHECK(file.find("y") == nullptr);
}

TEST_CASE("safetensors: the writer's errors") {
  const TempDir dir;
  const Tensor x = Tensor::zeros({2, 3});
  CHECK_THROWS_WITH(write_safetensors(dir / "x", {{"a", x}, {"a", x}}, {}),
                    Contains("the name 'a' occurs twice"));
  CHECK_THROWS_AS(write_safetensors(dir / "x", {{"__metadata__", x}}, {}), Error);
  CHECK_THROWS_WITH(write_safetensors(dir / "x", {{"a", x.t()}}, {}),
                    Contains("must be a contiguous cpu tensor"));
  CHECK_THROWS_WITH(write_safetensors(dir / "no/such/x", {{"a", x}}, {}),
                    Contains("no such file or directory"));
  CHECK_FALSE(std::filesystem::exists(dir / "x"));
}

TEST_CASE("safetensors: a file that lies is refused by name") {
  const TempDir dir;
  struct Case {
    const char* name;
    std::string bytes;
    const char* message;
  };
  const auto entry = [](const char* shape, const char* offsets, const char* dtype = "F32") {
    return fmt::format(R"({{"a":{{"dtype":"{}","shape":{},"data_offsets":{}}}}})", dtype, shape,
                       offsets);
  };
  const std::string good = container(entry("[2]", "[0,8]"), 8);
  const std::string two = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                          R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})";
  const std::string twice = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                            R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})";
  const Case cases[] = {
      {"empty", "", "expected at least a header length of 8"},
      {"seven bytes", "1234567", "expected at least a header length of 8"},
      {"huge header", std::string(8, '\xff') + "{}", "truncated or not a safetensors file"},
      {"header past the end", container("{}").substr(0, 9), "truncated or not a safetensors file"},
      {"text", "this is not a safetensors file at all", "not a safetensors file"},
      {"no JSON", container("{\"a\":"), "not a JSON object"},
      {"an array", container("[1]"), "not a JSON object"},
      {"deep nesting", container(std::string(1 << 20, '[')), "not a JSON object"},
      {"data cut off", good.substr(0, good.size() - 1), "'a' lies at bytes 0 to 8 of 7"},
      {"offsets beyond the file", container(entry("[2]", "[8,16]"), 8),
       "'a' lies at bytes 8 to 16"},
      {"offsets reversed", container(entry("[2]", "[8,0]"), 8), "'a' lies at bytes 8 to 0"},
      {"negative offset", container(entry("[2]", "[-8,0]"), 8), "'a' lies at bytes"},
      {"offset of 2^63", container(entry("[2]", "[0,9223372036854775808]"), 8), "'a' lies at"},
      {"one offset", container(entry("[2]", "[8]"), 8), "needs two data_offsets"},
      {"three offsets", container(entry("[2]", "[0,8,16]"), 8), "needs two data_offsets"},
      {"offsets no array", container(entry("[2]", "8"), 8), "needs two data_offsets"},
      {"fractional offset", container(entry("[2]", "[0,8.5]"), 8), "got 8.5, expected an integer"},
      {"size and shape differ", container(entry("[3]", "[0,8]"), 8),
       "'a' has 8 bytes, expected 12 for f32[3]"},
      {"fractional extent", container(entry("[2.5]", "[0,8]"), 8), "got 2.5, expected an integer"},
      {"negative extent", container(entry("[-2]", "[0,8]"), 8), "impossible shape"},
      {"overflowing shape", container(entry("[4294967296,4294967296]", "[0,8]"), 8),
       "impossible shape"},
      {"rank 7", container(entry("[1,1,1,1,1,1,2]", "[0,8]"), 8), "rank exceeds 6"},
      {"unknown dtype", container(entry("[2]", "[0,8]", "C64"), 8), "dtype C64"},
      {"dtype no string", container(R"({"a":{"dtype":1,"shape":[],"data_offsets":[0,4]}})", 4),
       "entry 'a' is malformed"},
      {"no offsets", container(R"({"a":{"dtype":"F32","shape":[]}})"), "entry 'a' is malformed"},
      {"entry no object", container(R"({"a":3})"), "entry 'a' is malformed"},
      {"metadata no strings", container(R"({"__metadata__":{"a":1}})"),
       "entry '__metadata__' is malformed"},
      {"overlap", container(two, 12), "two tensors overlap at byte 4"},
      {"a name twice", container(twice, 8), "the name 'a' occurs twice"},
  };
  REQUIRE(message_of([&] { SafetensorsFile file(dir.write("good", good)); }).empty());
  for (const Case& c : cases) {
    CAPTURE(std::string(c.name));
    const auto path = dir.write("file", c.bytes);
    const std::string message = message_of([&] { SafetensorsFile file(path); });
    CHECK_MESSAGE(message.find(c.message) != std::string::npos, message);
    CHECK(message.find('\n') == std::string::npos);
  }
  CHECK_THROWS_WITH(SafetensorsFile(dir / "absent"), Contains("absent: cannot open"));
  CHECK_THROWS_WITH(SafetensorsFile{std::filesystem::temp_directory_path()}, Contains("regular"));
}

TEST_CASE("safetensors: a header of many names, and nested junk in an entry") {
  const TempDir dir;
  constexpr int kNames = 200000;  // looked up one by one they would take minutes
  std::string header = "{";
  for (int i = 0; i < kNames; ++i)
    header += fmt::format(R"({}"n{:06}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                          i ? "," : "", kNames - i);
  const SafetensorsFile many(dir.write("many", container(header + "}")));
  REQUIRE(many.entries().size() == kNames);
  CHECK(many.entries().front().name == "n200000");  // in the order of the file
  CHECK(many.entries().back().name == "n000001");

  const auto nested = [&](std::size_t levels) {
    return container(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"junk":)" +
                     std::string(levels, '[') + std::string(levels, ']') + "}}");
  };
  CHECK(SafetensorsFile(dir.write("shallow", nested(200))).entries().size() == 1);
  CHECK_THROWS_WITH(SafetensorsFile(dir.write("deep", nested(1 << 20))),
                    Contains("not a JSON object"));
}

// ---- checkpoints -----------------------------------------------------------------------------

NamedTensors sample_tensors() {
  return {{"layer.weight", testing::random({4, 5}, DType::F32)},
          {"layer.weight/m.codes", bytes_as(DType::U4x2, {1, 2, 3, 4}, {2, 4})},
          {"layer.bias", testing::random({5}, DType::BF16)},
          {"optimizer/updates", Tensor::full({1}, 17, DType::F64)}};
}
NamedTensors zeros_like(const NamedTensors& tensors) {
  NamedTensors out;
  for (const auto& [name, t] : tensors) out.emplace_back(name, Tensor::zeros(t.shape(), t.dtype()));
  return out;
}
const nlohmann::json kState = {{"step", 17}, {"note", "ü \"quoted\""}, {"position", 1 << 20}};

TEST_CASE("checkpoint: state and tensors come back, in equal bytes each time") {
  const TempDir dir;
  const NamedTensors tensors = sample_tensors();
  save_checkpoint(dir / "a", kState, tensors);
  save_checkpoint(dir / "b", kState, tensors);
  CHECK(read_file(dir / "a") == read_file(dir / "b"));
  const Checkpoint c = Checkpoint::open(dir / "a");
  CHECK(c.state() == kState);
  const NamedTensors back = zeros_like(tensors);
  c.restore(back, true);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    CAPTURE(tensors[i].first);
    CHECK(same_bits(back[i].second, tensors[i].second));
  }
}

TEST_CASE("checkpoint: a changed byte anywhere is noticed") {
  const TempDir dir;
  const NamedTensors tensors = sample_tensors();
  save_checkpoint(dir / "good", kState, tensors);
  const std::string good = read_file(dir / "good");
  std::size_t noticed = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const char flip : {'\x01', '\x08', '\x20', '\xff'}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      const auto path = dir.write("bad", bad);
      try {
        const Checkpoint c = Checkpoint::open(path);
        // Only the blanks that pad the header may change unseen.
        CAPTURE(i);
        CHECK(good[i] == ' ');
        const NamedTensors back = zeros_like(tensors);
        c.restore(back, true);
        CHECK(c.state() == kState);
        for (std::size_t k = 0; k < back.size(); ++k)
          CHECK(same_bits(back[k].second, tensors[k].second));
      } catch (const Error&) {
        ++noticed;
      }
    }
  }
  CHECK(noticed > 4 * good.size() - 64);
  for (std::size_t cut = 0; cut < good.size(); cut += 13)
    CHECK_THROWS_AS(Checkpoint::open(dir.write("cut", good.substr(0, cut))), Error);
  CHECK_THROWS_AS(Checkpoint::open(dir.write("long", good.substr(0, 64) + good)), Error);
}

TEST_CASE("checkpoint: a fuzzed input gets past the checksum when it is mended") {
  const TempDir dir;
  save_checkpoint(dir / "c", kState, sample_tensors());
  std::string bytes = read_file(dir / "c");
  CHECK(fuzz::mended(bytes) == bytes);
  bytes.back() ^= 1;
  CHECK_THROWS_WITH(Checkpoint::open(dir.write("flipped", bytes)), Contains("is corrupt"));
  CHECK(Checkpoint::open(dir.write("mended", fuzz::mended(bytes))).state() == kState);
  const std::size_t step = bytes.find(R"(step\":17)");
  REQUIRE(step != std::string::npos);
  bytes.replace(step, 9, R"(step\":18)");
  CHECK(Checkpoint::open(dir.write("mended", fuzz::mended(bytes))).state()["step"] == 18);
  for (const char* other : {"", "short", "12345678{}"}) CHECK(fuzz::mended(other) == other);
}

TEST_CASE("checkpoint: one line says what is wrong with a file") {
  const TempDir dir;
  const auto message = [&](const Metadata& metadata) {
    write_safetensors(dir / "x", {}, metadata);
    return message_of([&] { Checkpoint::open(dir / "x"); });
  };
  using std::string;
  const auto has = [](const string& text, const char* part) {
    const bool found = text.find(part) != string::npos;
    CHECK_MESSAGE(found, text);
  };
  has(message({}), "is a safetensors file without a nibble state");
  has(message({{"nibble", R"({"version":2,"xxh64":"0"})"}, {"state", "{}"}}),
      "was written by a newer version: got format 2, expected at most 1; update nibble");
  has(message({{"nibble", R"({"version":1,"xxh64":"0"})"}, {"state", "{}"}}),
      "is corrupt: got checksum");
  for (const char* envelope :
       {"", "[]", "{}", R"({"version":"1","xxh64":"0"})", R"({"version":1,"xxh64":0})",
        R"({"version":0,"xxh64":"0"})", R"({"version":-1,"xxh64":"0"})", R"({"version":1})"})
    has(message({{"nibble", envelope}, {"state", "{}"}}), "damaged metadata");
  has(message_of([&] { Checkpoint::open(dir.write("text", "some prose, no checkpoint")); }),
      "is damaged or no checkpoint");
  has(message_of([&] { Checkpoint::open(dir / "absent"); }), "cannot open");
}

TEST_CASE("checkpoint: tensors that are missing, too many or of another shape") {
  const TempDir dir;
  const NamedTensors tensors = sample_tensors();
  save_checkpoint(dir / "c", kState, tensors);
  const Checkpoint c = Checkpoint::open(dir / "c");
  NamedTensors more = zeros_like(tensors), fewer = zeros_like(tensors), other = zeros_like(tensors);
  more.emplace_back("head.weight", Tensor::zeros({2}));
  fewer.pop_back();
  other[0].second = Tensor::zeros({5, 4});
  CHECK_THROWS_WITH(c.restore(more, true), Contains("holds no tensor 'head.weight'"));
  CHECK_THROWS_WITH(c.restore(fewer, true),
                    Contains("holds 'optimizer/updates', which this run does not have"));
  CHECK_NOTHROW(c.restore(fewer, false));
  CHECK_THROWS_WITH(c.restore(other, true), Contains("'layer.weight' has shape"));
}

// ---- modules ---------------------------------------------------------------------------------

TEST_CASE("nn: paths and names follow the tree, a shared parameter is listed once") {
  struct Pair : Module {
    Linear first{4, 4}, second{4, 4, {.bias = false}};
    LayerNorm norm{4};
    Parameter scale{Tensor::zeros({1})};
    void visit(Visitor& v) override {
      v.parameter("scale", scale);
      v.module("first", first);
      v.module("second", second);
      v.module("norm", norm);
    }
  };
  struct Root : Module {
    Pair pair;
    void visit(Visitor& v) override {
      v.module("pair", pair);
      v.parameter("tied", pair.first.weight);
    }
  } root;
  assign_paths(root);
  std::vector<std::string> names, paths;
  for (const Parameter* p : parameters(root)) names.push_back(p->name);
  for_each_module(root, [&](Module& m) { paths.push_back(m.path()); });
  CHECK(names == std::vector<std::string>{"pair.scale", "pair.first.weight", "pair.first.bias",
                                          "pair.second.weight", "pair.norm.weight",
                                          "pair.norm.bias"});
  CHECK(paths == std::vector<std::string>{"", "pair", "pair.first", "pair.second", "pair.norm"});
}

}  // namespace
}  // namespace nibble
