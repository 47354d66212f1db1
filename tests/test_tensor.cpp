#include "tensor/held_memory.h"
#include "tensor/storage.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

TEST_CASE("tensor: factories fill every dtype") {
  for (const DType d :
       {DType::F64, DType::F32, DType::BF16, DType::I32, DType::U8, DType::I8, DType::E4M3}) {
    CAPTURE(d);
    CHECK(Tensor::full({2, 3}, 3, d).to_vector<double>() == std::vector<double>(6, 3.0));
    CHECK(Tensor::zeros({0, 4}, d).numel() == 0);
  }
  CHECK(Tensor::arange(4, DType::I32).to_vector<std::int32_t>() ==
        std::vector<std::int32_t>{0, 1, 2, 3});
  const Tensor packed = Tensor::full({4, 6}, 9, DType::U4x2);
  CHECK(packed.bytes() == 12);
  CHECK(packed.raw()[11] == std::byte{0x99});
  CHECK(Tensor::full({}, 2.5).item() == 2.5);
  CHECK(error_of([] {
          Tensor::from(std::vector<float>{1, 2, 3}, {2});
        }) == "tensor: got 3 values for shape [2], expected 2");
  CHECK(error_of([] { Tensor::empty({2, -1}); }) == "tensor: negative extent: got shape [2, -1]");
}

TEST_CASE("tensor: views share storage and keep logical order") {
  const Tensor x = Tensor::arange(24).view({2, 3, 4});
  CHECK(x.strides() == Shape{12, 4, 1});
  CHECK(x.view({4, -1}).shape() == Shape{4, 6});
  const Tensor t = x.transpose(0, 2);
  CHECK(t.shape() == Shape{4, 3, 2});
  CHECK(t.strides() == Shape{1, 4, 12});
  CHECK_FALSE(t.is_contiguous());
  CHECK(t.to_vector()[1] == 12);
  CHECK(t.clone().strides() == Shape{6, 2, 1});
  CHECK(x.permute({1, 2, 0}).to_vector()[1] == 12);
  CHECK(x.select(1, 2).to_vector() == std::vector<float>{8, 9, 10, 11, 20, 21, 22, 23});
  CHECK(x.slice(2, 1, 3).select(0, 1).to_vector() == std::vector<float>{13, 14, 17, 18, 21, 22});
  CHECK(x.select(0, 0).expand({5, 3, 4}).strides() == Shape{0, 4, 1});
  CHECK(x.unsqueeze(-1).shape() == Shape{2, 3, 4, 1});
  CHECK(x.unsqueeze(0).squeeze(0).shape() == x.shape());
  const std::uint32_t version = x.version();
  Tensor row = x.select(0, 1).select(0, 0);
  CHECK(row.same_storage(x));
  row.fill(-1);
  CHECK(x.to_vector()[12] == -1);
  CHECK(x.to_vector()[16] == 16);
  CHECK(x.version() == version + 1);
  CHECK(error_of([&] { t.view({24}); }).starts_with("view: needs a contiguous tensor"));
  CHECK(error_of([&] { x.view({5, 5}); }) == "view: got shape [5, 5] for 24 elements ([2, 3, 4])");
  CHECK(error_of([&] { x.slice(0, 1, 3); }) ==
        "slice: got [1, 3) along dimension 0 of f32[2, 3, 4] on cpu");
  CHECK(error_of([&] { x.expand({3, 3, 4}); }).starts_with("expand: "));
  CHECK(error_of([] { Tensor().shape(); }) == "tensor: an undefined tensor was used");
}

TEST_CASE("tensor: storage counts bytes, peaks and scopes") {
  const std::int64_t before = memory_stats(kCpu).current;
  reset_peak_memory(kCpu);
  {
    const MemoryScope outer("outer");
    const Tensor a = Tensor::empty({100});
    {
      const MemoryScope inner("inner");
      const Tensor b = Tensor::empty({50}, DType::BF16);
      CHECK(memory_by_scope(kCpu).at("inner").current == 100);
    }
    CHECK(memory_by_scope(kCpu).at("inner").current == 0);
    CHECK(memory_by_scope(kCpu).at("inner").peak == 100);
    CHECK(memory_by_scope(kCpu).at("outer").current == 400);
    const Tensor view = a.slice(0, 0, 10), copy = a;
    CHECK(memory_stats(kCpu).current == before + 400);
  }
  CHECK(memory_stats(kCpu).current == before);
  CHECK(memory_stats(kCpu).peak == before + 500);
  const std::int64_t meta = memory_stats(kMeta).current;
  const Tensor huge = Tensor::empty({1 << 20, 1 << 20}, DType::F32, kMeta);
  CHECK(memory_stats(kMeta).current - meta == std::int64_t{4} << 40);
}

// Exact: pieces of 16 MiB, slabs of 2 MiB for what is small.
TEST_CASE("tensor: Meta's blocks lie where a GPU's would") {
  constexpr std::int64_t kMiB = 1 << 20;
  release_cached_memory(kMeta);
  reset_peak_memory(kMeta);
  REQUIRE(held_memory(kMeta).now == 0);
  const auto make = [](std::int64_t mib) { return Tensor::empty({mib << 20}, DType::U8, kMeta); };
  {
    Tensor a = make(10), b = make(20), c = make(1);  // 31 of two pieces
    CHECK(held_memory(kMeta).now == 32 * kMiB);
    a = Tensor();
    const Tensor d = make(11);  // a's place is too small
    CHECK(held_memory(kMeta).now == 48 * kMiB);
    const Tensor e = make(10);
    CHECK(held_memory(kMeta).now == 48 * kMiB);
    const Tensor small = Tensor::empty({100}, DType::F32, kMeta);
    const Tensor other = Tensor::empty({100}, DType::F32, kMeta);
    CHECK(held_memory(kMeta).now == 50 * kMiB);
    CHECK(error_of([&] { d.raw(); }).starts_with("tensor: a meta tensor has no data"));
  }
  CHECK(held_memory(kMeta).now == 50 * kMiB);  // kept for the next
  {
    MemoryPool pool(kMeta);
    {
      const MemoryPool::Use use(pool);
      make(40);
    }
    const Tensor outside = make(40);  // what the pool used is its own
    CHECK(held_memory(kMeta).now == 82 * kMiB);
  }
  CHECK(held_memory(kMeta).most == 82 * kMiB);
  release_cached_memory(kMeta);
  CHECK(held_memory(kMeta).now == 0);
  CHECK(held_memory(kCpu).most == 0);
}

TEST_CASE("tensor: parallel_for covers every index once and rethrows") {
  const ThreadsGuard guard;
  for (const int threads : {1, 2, 4}) {
    set_num_threads(threads);
    CHECK(num_threads() == threads);
    std::vector<int> hits(1001, 0);
    parallel_for(1001, 10, [&](std::int64_t begin, std::int64_t end) {
      CHECK(begin % 10 == 0);
      for (std::int64_t i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
      parallel_for(2, 1, [](std::int64_t, std::int64_t) {});  // nested: inline
    });
    CHECK(hits == std::vector<int>(1001, 1));
    CHECK(error_of([] {
            parallel_for(100, 1, [](std::int64_t begin, std::int64_t) {
              if (begin == 57) fail("chunk", "number {}", begin);
            });
          }) == "chunk: number 57");
    int calls = 0;
    parallel_for(0, 1, [&](std::int64_t, std::int64_t) { ++calls; });
    CHECK(calls == 0);
  }
  CHECK(error_of([] { set_num_threads(0); }) == "threads: got 0, expected 1 to 1024");
}

TEST_CASE("tensor: random elements depend on key and index alone") {
  const std::uint32_t step = 5;
  const RngKey key{0x123456789abcdefull, 42, &step};
  const std::vector<float> u = Tensor::uniform({50001}, -1, 3, key).to_vector();
  for (const std::size_t i : {0u, 1u, 6u, 16384u, 50000u}) {
    const Philox p = philox4x32_10(static_cast<std::uint32_t>(i / 4), 0, 42, 5, key.seed);
    CHECK(u[i] == static_cast<float>(-1 + 4.0 * uniform01(p.v[i % 4])));
  }
  const std::vector<float> z = Tensor::normal({50001}, 1, 2, key).to_vector();
  for (const std::size_t i : {0u, 3u, 16386u, 49999u, 50000u}) {
    const Philox p = philox4x32_10(static_cast<std::uint32_t>(i / 4), 0, 42, 5, key.seed);
    const double w0 = p.v[i % 4 & 2], w1 = p.v[(i % 4 & 2) + 1];
    const double r = std::sqrt(-2 * std::log((w0 + 1) / 4294967296.0));
    const double angle = 2 * 3.14159265358979323846 * w1 / 4294967296.0;
    CHECK(z[i] == doctest::Approx(1 + 2 * r * (i % 2 ? std::sin(angle) : std::cos(angle))));
  }
  double mean = 0, square = 0;
  for (const float v : z) {
    mean += v / 50001.0;
    square += (v - 1.0) * (v - 1.0) / 50001.0;
  }
  CHECK(std::fabs(mean - 1) < 0.03);
  CHECK(std::fabs(square - 4) < 0.1);
  CHECK(same_bits(Tensor::normal({7}, 0, 1, key), Tensor::normal({9}, 0, 1, key).slice(0, 0, 7)));
  const std::uint32_t next = 6;
  const RngKey later{key.seed, key.site, &next};
  CHECK_FALSE(same_bits(Tensor::normal({7}, 0, 1, key), Tensor::normal({7}, 0, 1, later)));
}

TEST_CASE("tensor: uniform draws stay below an upper bound that f32 could round to") {
  int outside = 0;
  for (const float v : Tensor::uniform({200000}, 1, 1.000001, RngKey{1, 1}).to_vector())
    outside += !(v >= 1.0f && v < 1.000001f);
  CHECK(outside == 0);
}

TEST_CASE("tensor: kernels give the same bits at any thread count") {
  const Tensor x = random({257, 193}, DType::F32), y = random({257, 193}, DType::F32, 0.1, 1, 2);
  const Tensor index = Tensor::from(
      [] {
        std::vector<std::int32_t> v(257);
        for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<std::int32_t>(i * i % 31);
        return v;
      }(),
      {257});
  const RngKey key{3, 4};
  const auto check = [](const std::string& name, auto f) {
    check_same_at_any_thread_count(name, f);
  };
  check("uniform", [&] { return Tensor::uniform({50001}, 0, 1, key); });
  check("normal", [&] { return Tensor::normal({50001}, 0, 1, key); });
  check("add", [&] { return ops::add(x, y); });
  check("gelu", [&] { return ops::gelu(x); });
  check("dropout", [&] { return ops::dropout(x, 0.3, key); });
  check("sum", [&] { return ops::sum(x); });
  check("sum rows", [&] { return ops::sum(x, {1}); });
  check("sum columns", [&] { return ops::sum(ops::concat({x, x, x, x, y}, 0), {0}); });
  check("sum_squares", [&] { return ops::sum_squares(x); });
  check("softmax", [&] { return ops::softmax(x); });
  check("log_softmax", [&] { return ops::log_softmax(x); });
  check("transpose", [&] { return x.t().clone(); });
  check("index_add", [&] {
    Tensor table = Tensor::zeros({31, 193});
    ops::index_add(table, index, x);
    return table;
  });
}
