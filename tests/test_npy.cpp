// .npy files, byte for byte those of numpy (golden/make_npy.py). Tier: exact.
#include "nn/npy.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "temp_dir.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

using test::read_file;

void check_golden(const std::string& name, const Tensor& tensor) {
  CAPTURE(name);
  const test::TempDir dir;
  write_npy(dir / "x.npy", tensor);
  const std::string golden =
      read_file(std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests/golden/npy" / (name + ".npy"));
  REQUIRE(!golden.empty());
  CHECK(read_file(dir / "x.npy") == golden);
}

Tensor bytes_as(DType dtype, const std::vector<std::uint8_t>& bytes, const Shape& shape) {
  Tensor t = Tensor::empty(shape, dtype);
  std::memcpy(t.raw(), bytes.data(), bytes.size());
  return t;
}

}  // namespace

TEST_CASE("npy: the bytes of numpy for every dtype") {
  const Tensor f32 = Tensor::from(std::vector<float>{1.5f, -0.25f, 3e38f, 0, 1e-40f, 7}, {2, 3});
  check_golden("f64", Tensor::full({}, 0.1, DType::F64));
  check_golden("f32", f32);
  check_golden("bf16", Tensor::from(std::vector<float>{1, -2.5f, 0.15625f}, {3}).to(DType::BF16));
  check_golden("i32", Tensor::from(std::vector<std::int32_t>{-1, 50256}, {1, 2, 1}));
  check_golden("i8", bytes_as(DType::I8, {0x80, 0, 0x7f}, {3}));
  check_golden("u8", bytes_as(DType::U8, {0, 255, 7, 8}, {2, 2}));
  check_golden("u8", bytes_as(DType::E4M3, {0, 255, 7, 8}, {2, 2}));
  check_golden("u8", bytes_as(DType::E5M2, {0, 255, 7, 8}, {2, 2}));
  check_golden("codes", bytes_as(DType::U4x2, {0x21, 0xf3, 0x90, 0x78}, {2, 4}));
  check_golden("none", Tensor::zeros({0, 4}));
}

TEST_CASE("npy: strided tensors are written in C order") {
  const Tensor x = Tensor::from(std::vector<float>{1.5f, 0, -0.25f, 1e-40f, 3e38f, 7}, {3, 2});
  check_golden("f32", x.t());
}

TEST_CASE("npy: every header ends on 64 bytes") {
  for (std::int64_t extent = 1; extent < 1'000'000'000'000; extent *= 7) {
    const std::string header = npy_header(DType::F32, {extent, 3, extent, 1});
    CHECK(header.size() % 64 == 0);
    CHECK(header.size() == 10u + static_cast<unsigned char>(header[8]) +
                               256u * static_cast<unsigned char>(header[9]));
    CHECK(header.back() == '\n');
  }
}

TEST_CASE("npy: what cannot be written leaves the former file") {
  const test::TempDir dir;
  write_npy(dir / "x.npy", Tensor::zeros({2}));
  const std::string before = read_file(dir / "x.npy");
  std::filesystem::create_directory(dir / "folder");
  CHECK(test::message_of([&] {
          write_npy(dir / "folder", Tensor::zeros({2}));
        }).starts_with("npy: "));
  CHECK(test::message_of([&] {
          write_npy(dir / "missing" / "x.npy", Tensor::zeros({2}));
        }).starts_with("npy: "));
  CHECK(read_file(dir / "x.npy") == before);
  CHECK(std::distance(std::filesystem::directory_iterator(dir / ""), {}) == 2);
}

}  // namespace nibble
