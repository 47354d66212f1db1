// Integer products against int64 loops: equal to the last bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "quant/cpu/int_gemm.h"
#include "quant/kernels.h"
#include "quant/qtensor.h"
#include "quant/segments.h"
#include "quant/stream_k.h"
#include "tensor/thread_pool.h"

using namespace nibble;

namespace {

struct Codes {
  std::int64_t rows, k, blocks, tile_rows;
  std::vector<int> q;
  std::vector<float> scales, zeros;

  std::int64_t tile(std::int64_t row, std::int64_t block) const {
    return row / tile_rows * blocks + (blocks == 1 ? 0 : block);
  }
};

std::uint32_t word(std::uint64_t index, std::uint32_t site) {
  return philox4x32_10(static_cast<std::uint32_t>(index), 0, site, 0, 7).v[0];
}

// Codes in [low, high] with both ends frequent, and scales that are not powers of two.
Codes make(std::int64_t rows, std::int64_t k, int low, int high, std::int64_t blocks,
           std::int64_t tile_rows, bool zero_points, std::uint32_t site) {
  Codes c{rows, k, blocks, tile_rows, {}, {}, {}};
  for (std::int64_t i = 0; i < rows * k; ++i) {
    const std::uint32_t draw = word(static_cast<std::uint64_t>(i), site);
    const int inner =
        low + static_cast<int>((draw >> 8) % static_cast<std::uint32_t>(high - low + 1));
    c.q.push_back(draw % 8 == 0 ? low : (draw % 8 == 1 ? high : inner));
  }
  const std::int64_t tiles = (rows + tile_rows - 1) / tile_rows * blocks;
  for (std::int64_t i = 0; i < tiles; ++i) {
    const std::uint32_t draw = word(static_cast<std::uint64_t>(i), site + 100);
    c.scales.push_back(0.001f + uniform01(draw));
    if (zero_points) c.zeros.push_back(static_cast<float>(static_cast<int>(draw % 1001) - 500));
  }
  return c;
}

CodeOperand operand(const Codes& c, DType payload) {
  CodeOperand x;
  x.tile_rows = c.tile_rows;
  const Shape tiles{static_cast<std::int64_t>(c.scales.size()) / c.blocks, c.blocks};
  x.scales = Tensor::from(c.scales, tiles);
  if (!c.zeros.empty()) x.zeros = Tensor::from(c.zeros, tiles);
  if (payload == DType::I8) {
    x.codes = Tensor::from(std::vector<std::int8_t>(c.q.begin(), c.q.end()), {c.rows, c.k});
  } else if (payload == DType::U8) {
    x.codes = Tensor::from(std::vector<std::uint8_t>(c.q.begin(), c.q.end()), {c.rows, c.k});
  } else {
    x.codes = Tensor::empty({c.rows, c.k + c.k % 2}, DType::U4x2);
    x.is_signed = std::ranges::min(c.q) < 0;
    const std::int64_t stride = (c.k + 1) / 2;
    std::uint8_t* bytes = x.codes.data<std::uint8_t>();
    std::fill_n(bytes, c.rows * stride, std::uint8_t{0});
    for (std::int64_t r = 0; r < c.rows; ++r)
      for (std::int64_t i = 0; i < c.k; ++i) {
        const int nibble = c.q[static_cast<std::size_t>(r * c.k + i)] & 15;
        bytes[r * stride + i / 2] |= static_cast<std::uint8_t>(nibble << (4 * (i % 2)));
      }
  }
  return x;
}

// The contract of int_gemm, one element at a time.
std::vector<float> reference(const Codes& a, const Codes& b, std::int64_t block,
                             const std::vector<float>& bias) {
  std::vector<float> c;
  const std::int64_t blocks = (a.k + block - 1) / block;
  const Segments segments(a.rows, b.rows, a.k, block);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < b.rows; ++j) {
      float f = 0, earlier = 0;
      const std::uint32_t tile =
          segments.tile_of(static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(j));
      std::int64_t stop = segments.end(tile, 0);
      for (std::int64_t s = 0; s < blocks; ++s) {
        if (s == stop) {
          stop = segments.end(tile, static_cast<std::uint32_t>(s));
          earlier += f;
          f = 0;
        }
        const std::int64_t begin = s * block, end = std::min(begin + block, a.k);
        const auto ta = static_cast<std::size_t>(a.tile(i, s)),
                   tb = static_cast<std::size_t>(b.tile(j, s));
        const auto za = a.zeros.empty() ? 0 : static_cast<std::int64_t>(a.zeros[ta]);
        const auto zb = b.zeros.empty() ? 0 : static_cast<std::int64_t>(b.zeros[tb]);
        std::int64_t sum = 0;
        for (std::int64_t k = begin; k < end; ++k)
          sum += (a.q[static_cast<std::size_t>(i * a.k + k)] + za) *
                 (b.q[static_cast<std::size_t>(j * b.k + k)] + zb);
        const auto part = static_cast<float>(sum);
        f = blocks == 1 ? part * a.scales[ta] * b.scales[tb]
                        : std::fma(part, a.scales[ta] * b.scales[tb], f);
      }
      if (blocks > 1) f = earlier + f;
      c.push_back(bias.empty() ? f : f + bias[static_cast<std::size_t>(j)]);
    }
  return c;
}

struct Case {
  std::int64_t m, n, k, block;
  int low_a, high_a, low_b, high_b;
  DType payload_a, payload_b;
  std::int64_t tile_a = 1, tile_b = 1;
  bool grouped_a = true, grouped_b = true, zeros_a = false, zeros_b = false;
};

void check(const Case& t) {
  CAPTURE(t.m);
  CAPTURE(t.n);
  CAPTURE(t.k);
  CAPTURE(t.block);
  const std::int64_t blocks = (t.k + t.block - 1) / t.block;
  const Codes a =
      make(t.m, t.k, t.low_a, t.high_a, t.grouped_a ? blocks : 1, t.tile_a, t.zeros_a, 1);
  const Codes b =
      make(t.n, t.k, t.low_b, t.high_b, t.grouped_b ? blocks : 1, t.tile_b, t.zeros_b, 2);
  std::vector<float> bias;
  for (std::int64_t j = 0; j < t.n; ++j) bias.push_back(static_cast<float>(j) * 0.37f - 3.0f);
  const CodeOperand x = operand(a, t.payload_a), y = operand(b, t.payload_b);
  Tensor c = Tensor::empty({t.m, t.n});
  cpu::int_gemm(c, x, y, t.k, t.block, Tensor::from(bias, {t.n}), false);
  CHECK(c.to_vector() == reference(a, b, t.block, bias));
}

}  // namespace

TEST_CASE("int gemm: every payload and width, ragged shapes") {
  for (const auto& [m, n, k] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {3, 17, 5}, {4, 16, 32}, {101, 530, 67}}) {
    check({m, n, k, k, -128, 127, -128, 127, DType::I8, DType::I8});
    check({m, n, k, k, 0, 255, 0, 255, DType::U8, DType::U8});
    check({m, n, k, k, 0, 255, -128, 127, DType::U8, DType::I8});
    check({m, n, k, k, -2, 1, -64, 63, DType::I8, DType::I8});
    check({m, n, k, k, -8, 7, -8, 7, DType::U4x2, DType::U4x2});
    check({m, n, k, k, 0, 15, -128, 127, DType::U4x2, DType::I8});
  }
}

TEST_CASE("int gemm: one extreme code everywhere") {
  for (const int extreme : {-128, 127})
    check({5, 19, 4001, 4001, extreme, extreme, -128, -128, DType::I8, DType::I8});
  check({5, 19, 4001, 4001, 255, 255, 255, 255, DType::U8, DType::U8});
}

TEST_CASE("int gemm: contractions beyond int32 are split") {
  // 255² · 70001 is more than twice 2^31, and 128² · 140001 is more than 2^31.
  check({2, 3, 70001, 70001, 255, 255, 254, 255, DType::U8, DType::U8});
  check({2, 3, 140001, 140001, -128, -128, -128, -127, DType::I8, DType::I8});
}

TEST_CASE("int gemm: scales by tensor, row, group and block") {
  const DType i8 = DType::I8;
  check({37, 45, 300, 300, -128, 127, -127, 127, i8, i8, 37, 45});                 // tensor
  check({37, 45, 300, 300, -128, 127, -127, 127, i8, i8, 1, 45});                  // row, tensor
  check({37, 45, 300, 128, -128, 127, -127, 127, i8, i8, 1, 1});                   // group
  check({37, 45, 300, 32, -128, 127, -127, 127, i8, i8, 32, 32});                  // block
  check({37, 45, 300, 128, -128, 127, -127, 127, i8, i8, 1, 128});                 // group, block
  check({37, 45, 300, 128, -128, 127, -127, 127, i8, i8, 1, 1, true, false});      // group, row
  check({37, 45, 300, 31, -8, 7, -128, 127, DType::U4x2, i8, 1, 1, false, true});  // odd blocks
}

TEST_CASE("int gemm: a long contraction is the sum of its segments") {
  // Two and four tiles, whose segments differ.
  check({210, 7, 10300, 128, -127, 127, -127, 127, DType::I8, DType::I8, 1, 3});
  check({195, 260, 4700, 31, -127, 127, -127, 127, DType::I8, DType::I8, 1, 1});
  for (const std::int64_t k : {8192, 8193, 10300})
    for (const std::int64_t block : {32, 100, 128, 2048, 5000})
      check({5, 18, k, block, -127, 127, -127, 127, DType::I8, DType::I8, 1, 3});
}

TEST_CASE("int gemm: zero points on either side") {
  for (const bool zeros_b : {false, true})
    for (const std::int64_t block : {77, 32}) {
      check({9, 33, 77, block, 0, 255, -128, 127, DType::U8, DType::I8, 1, 3, true, true, true,
             zeros_b});
      check({9, 33, 77, block, 0, 15, 0, 255, DType::U4x2, DType::U8, 2, 1, true, true, !zeros_b,
             true});
    }
  check(
      {2, 3, 70001, 70001, 255, 255, 254, 255, DType::U8, DType::U8, 1, 1, true, true, true, true});
}

TEST_CASE("int gemm: more rows than a slab") {
  check({3100, 18, 19, 19, -128, 127, -128, 127, DType::I8, DType::I8});
}

TEST_CASE("int gemm: bf16 results, accumulation, strided rows, empty extents") {
  const Codes a = make(7, 40, -128, 127, 1, 1, false, 1),
              b = make(21, 40, -128, 127, 1, 1, false, 2);
  const CodeOperand x = operand(a, DType::I8), y = operand(b, DType::I8);
  const std::vector<float> expected = reference(a, b, 40, {});

  Tensor narrow = Tensor::empty({7, 21}, DType::BF16);
  cpu::int_gemm(narrow, x, y, 40, 40, {}, false);
  std::vector<float> rounded;
  for (const float v : expected) rounded.push_back(static_cast<float>(bfloat16(v)));
  CHECK(narrow.to_vector() == rounded);

  Tensor wide = Tensor::full({7, 30}, 0.75);
  Tensor inner = wide.slice(1, 4, 25);
  cpu::int_gemm(inner, x, y, 40, 40, {}, true);
  for (std::int64_t i = 0; i < 7; ++i)
    for (std::int64_t j = 0; j < 30; ++j) {
      const bool inside = j >= 4 && j < 25;
      const float product = inside ? expected[static_cast<std::size_t>(i * 21 + j - 4)] : 0.0f;
      CHECK(wide.data<float>()[i * 30 + j] == 0.75f + product);
    }

  Tensor no_depth = Tensor::full({2, 3}, 5.0);
  const Codes e = make(2, 0, -1, 1, 1, 1, false, 1), f = make(3, 0, -1, 1, 1, 1, false, 2);
  cpu::int_gemm(no_depth, operand(e, DType::I8), operand(f, DType::I8), 0, 1, {}, false);
  CHECK(no_depth.to_vector() == std::vector<float>(6, 0.0f));
}

TEST_CASE("int gemm: the same bits at any number of threads") {
  const Codes a = make(300, 256, -128, 127, 2, 1, false, 1),
              b = make(700, 256, -128, 127, 2, 128, false, 2);
  const CodeOperand x = operand(a, DType::I8), y = operand(b, DType::I8);
  const int threads = num_threads();
  std::vector<std::vector<float>> results;
  for (const int count : {1, 2, 4}) {
    set_num_threads(count);
    Tensor c = Tensor::empty({300, 700});
    cpu::int_gemm(c, x, y, 256, 128, {}, false);
    results.push_back(c.to_vector());
  }
  set_num_threads(threads);
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("int gemm: a bias that lies apart is the same bias") {
  QuantSpec spec;
  spec.tile = kPerRow;
  const QTensor a = quantize(Tensor::normal({5, 64}, 0, 1, RngKey{1, 1}), spec),
                b = quantize(Tensor::normal({7, 64}, 0, 1, RngKey{1, 2}), spec);
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Tensor pairs = Tensor::normal({7, 2}, 0, 1, RngKey{1, 3}).to(dtype);
    const Tensor strided = pairs.select(1, 0);
    const Tensor apart = matmul_nt(a, b, {.bias = strided}),
                 whole = matmul_nt(a, b, {.bias = strided.clone()});
    CHECK(apart.to_vector() == whole.to_vector());
  }
}

namespace {

struct TileScope {
  explicit TileScope(const cpu::IntTile& tile) { cpu::use_int_tile(tile); }
  ~TileScope() { cpu::use_int_tile(*cpu::int_tiles().front()); }
};

}  // namespace

// Exact. Words of both forms hold what their side of a product may have in them.
TEST_CASE("int gemm: every kind of tile sums exactly what its words hold") {
  constexpr std::int64_t kWords = 333;
  REQUIRE(cpu::int_tiles().size() >= 1);
  for (const cpu::IntTile* tile : cpu::int_tiles()) {
    CAPTURE(std::string(tile->name));
    std::vector<std::int32_t> a, b;
    const auto draw = [&](std::uint32_t site, std::int64_t i) {
      const std::uint32_t bits = word(static_cast<std::uint64_t>(i), site);
      if (tile->codes == 4) return static_cast<std::int32_t>(bits);
      const auto half = [](std::uint32_t x) {
        return static_cast<std::uint32_t>(
            static_cast<std::uint16_t>(static_cast<int>(x % 511) - 255));
      };
      return static_cast<std::int32_t>(half(bits) | (half(bits >> 16) << 16));
    };
    const auto code = [&](std::int32_t w, std::int64_t i, bool is_signed) -> std::int64_t {
      const auto bits = static_cast<std::uint32_t>(w);
      if (tile->codes == 2) return static_cast<std::int16_t>(bits >> (16 * i));
      const auto byte = static_cast<std::uint8_t>(bits >> (8 * i));
      return is_signed ? std::int64_t{static_cast<std::int8_t>(byte)} : std::int64_t{byte};
    };
    for (std::int64_t i = 0; i < kWords * tile->rows; ++i) a.push_back(draw(3, i));
    for (std::int64_t i = 0; i < kWords * tile->cols; ++i) b.push_back(draw(4, i));
    std::vector<std::int32_t> sums(static_cast<std::size_t>(tile->rows * tile->cols));
    tile->dot(sums.data(), a.data(), b.data(), kWords);
    for (std::int64_t i = 0; i < tile->rows; ++i)
      for (std::int64_t j = 0; j < tile->cols; ++j) {
        std::int64_t expected = 0;
        for (std::int64_t w = 0; w < kWords; ++w)
          for (std::int64_t c = 0; c < tile->codes; ++c)
            expected += code(a[static_cast<std::size_t>(w * tile->rows + i)], c, true) *
                        code(b[static_cast<std::size_t>(w * tile->cols + j)], c, false);
        CHECK(sums[static_cast<std::size_t>(i * tile->cols + j)] == expected);
      }
  }
}

// Exact: bits do not depend on what the processor can do.
TEST_CASE("int gemm: every kind of tile gives the same products") {
  struct Kind {
    DType payload;
    int low, high;
  };
  const std::array<Kind, 4> kinds{
      {{DType::I8, -128, 127}, {DType::U8, 0, 255}, {DType::U4x2, -8, 7}, {DType::U4x2, 0, 15}}};
  for (const Kind& ka : kinds)
    for (const Kind& kb : kinds)
      for (const bool zero_points : {false, true})
        for (const std::int64_t block : {std::int64_t{32}, std::int64_t{77}, std::int64_t{203}}) {
          const std::int64_t k = 203, blocks = (k + block - 1) / block;
          const Codes a = make(29, k, ka.low, ka.high, blocks, 1, zero_points, 1),
                      b = make(67, k, kb.low, kb.high, 1, 4, false, 2);
          std::vector<std::vector<float>> results;
          for (const cpu::IntTile* tile : cpu::int_tiles()) {
            const TileScope scope(*tile);
            Tensor c = Tensor::empty({29, 67});
            cpu::int_gemm(c, operand(a, ka.payload), operand(b, kb.payload), k, block, {}, false);
            results.push_back(c.to_vector());
          }
          for (const auto& result : results) CHECK(result == results.back());
        }
}

// Every step of every tile is taken once; parts know each other; and all workers come to an end
// when each runs until it waits for a part that has not been left yet.
TEST_CASE("stream-K: parts cover the tiles and nobody waits in a circle") {
  for (const StreamK& plan :
       {StreamK{9, 256, 66, 9, 1}, StreamK{27, 256, 66, 27, 1}, StreamK{27, 256, 66, 27, 4},
        StreamK{49, 64, 66, 49, 1}, StreamK{224, 13, 66, 26, 2}, StreamK{3, 24, 18, 3, 1},
        StreamK{1, 7, 5, 1, 1}, StreamK{100, 4, 30, 100, 3}, StreamK{5, 8, 2, 5, 1},
        StreamK{7, 3, 4, 0, 0}}) {
    REQUIRE(plan.is_valid());
    struct Event {
      bool leaves;
      TilePart part;
    };
    std::vector<std::vector<Event>> of(plan.workers);
    std::vector<int> steps(plan.tiles * plan.steps), used(plan.slots());
    for (std::uint32_t worker = 0; worker < plan.workers; ++worker)
      StreamKWalk(plan, worker)
          .run(
              [&](const TilePart& x) {
                REQUIRE(x.part < x.parts);
                for (std::uint32_t i = 0; i < x.steps; ++i)
                  ++steps[x.tile * plan.steps + x.first_step + i];
                if (x.is_split()) ++used.at(x.slot + x.part);
              },
              [&](const TilePart& x) {
                of[worker].push_back({true, x});
              },
              [&](const TilePart& x, bool late) {
                if (x.is_split() && !late) of[worker].push_back({true, x});
                of[worker].push_back({false, x});
              });
    CHECK(std::ranges::all_of(steps, [](int n) { return n == 1; }));
    CHECK(std::ranges::all_of(used, [](int n) { return n <= 1; }));
    std::vector<std::uint32_t> arrived(plan.slots()), ended(plan.tiles);
    std::vector<std::size_t> at(plan.workers);
    for (bool moved = true; moved;) {
      moved = false;
      for (std::uint32_t worker = 0; worker < plan.workers; ++worker)
        for (; at[worker] < of[worker].size(); ++at[worker], moved = true) {
          const Event& e = of[worker][at[worker]];
          if (e.leaves)
            ++arrived[e.part.slot];
          else if (e.part.is_split() && arrived[e.part.slot] < e.part.parts)
            break;
          else
            for (std::uint32_t slice = 0; slice < 8; ++slice)
              ended[e.part.tile] += e.part.owner(slice, 8) == e.part.part ? 1 : 0;
        }
    }
    CHECK(std::ranges::all_of(ended, [](std::uint32_t n) { return n == 8; }));
  }
}
