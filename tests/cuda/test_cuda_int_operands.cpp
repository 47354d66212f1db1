// What products of codes read and leave besides codes: biases of both dtypes, operands whose rows
// lie apart, flags of parts. Tier of all: exact, the CPU's bits.
#include "quant/cuda/whole_plan.h"
#include "quant/segments.h"
#include "tensor/cuda/graph.h"
#include "tensor/cuda/part_flags.h"
#include "tests/cuda/int_products.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

struct Route {
  const char* name;
  Multiply multiply;
};
// All that serve a case.
std::vector<Route> routes(const Case& t) {
  const bool whole = t.block >= t.k,
             plain = !t.a.zeros && !t.b.zeros && t.a.codes != kU8 && t.b.codes != kU8;
  std::vector<Route> all{{"by default", by_route}, {"general", cuda::int_gemm_general}};
  if (!plain && whole) all.push_back({"zeros", cuda::int_gemm_zeros});
  if (!plain) return all;
  all.push_back({"tiles", cuda::int_gemm_tiles});
  if (whole || t.block % 128 == 0) all.push_back({"wgmma", cuda::int_gemm_wgmma});
  if (whole && t.m > 16 && t.n % 16 == 0) all.push_back({"library", cuda::int_gemm_library});
  if (whole && t.k <= cuda::kMaxResidentDepth) all.push_back({"resident", cuda::int_gemm_resident});
  return all;
}

// Columns [from, from + k) of an operand, whole blocks, where they lie; and the same copied.
CodeOperand cut(const CodeOperand& x, std::int64_t from, std::int64_t k, std::int64_t block) {
  CodeOperand y = x;
  y.codes = x.codes.slice(1, from, from + k);
  if (x.scales.size(1) > 1)
    y.scales = x.scales.slice(1, from / block, (from + k + block - 1) / block);
  return y;
}
CodeOperand whole(const CodeOperand& x) {
  CodeOperand y = x;
  y.codes = x.codes.clone();
  y.scales = x.scales.clone();
  return y;
}

void check_flags_are_zero() {
  std::vector<std::uint32_t> flags(cuda::kPartFlags, 1);
  cuda::copy_to_host(flags.data(), cuda::part_flags(cuda::kPartFlags), flags.size() * 4);
  CHECK(std::all_of(flags.begin(), flags.end(), [](std::uint32_t x) { return x == 0; }));
}

// A product, what the CPU makes of it, and where the GPU's result goes.
struct Piece {
  cuda::IntProduct product;
  Tensor expected;
  Multiply multiply;
};
Piece piece(const Case& t, Multiply multiply, DType dtype, std::uint32_t site) {
  const std::int64_t blocks = (t.k + t.block - 1) / t.block;
  const CodeOperand a = make(t.a, t.m, t.k, blocks, site),
                    b = make(t.b, t.n, t.k, blocks, site + 1);
  Tensor expected = Tensor::empty({t.m, t.n}, dtype);
  by_route({expected, a, b, t.k, t.block, {}, false});
  return {{Tensor::empty({t.m, t.n}, dtype, kGpu), on_gpu(a), on_gpu(b), t.k, t.block, {}, false},
          expected,
          std::move(multiply)};
}

bool is_split(const Case& t, std::uint32_t columns) {
  if (t.block < t.k) return Segments(t.m, t.n, t.k, t.block).split > 0;
  const auto up = [](std::int64_t x, std::int64_t by) {
    return static_cast<std::uint32_t>((x + by - 1) / by);
  };
  const auto clusters = static_cast<std::uint32_t>(cuda::multiprocessors() / 2);
  return cuda::deal(up(t.m, 256) * up(t.n, columns), up(t.k, 128), 1, clusters).split > 0;
}

// By the whole kernel, its tiles split.
Multiply split_into(std::uint32_t columns) {
  return [=](const cuda::IntProduct& product) {
    cuda::IntProduct p = product;
    p.plan = {.columns = columns, .rounds = 1};
    cuda::int_gemm_whole(p);
  };
}

}  // namespace

GPU_TEST("cuda int gemm: a bf16 bias in every route") {
  for (const Case& t : {Case{300, 259, 640, 640, kRow, kRow},
                        {70, 96, 1600, 1600, kTensor, kRow},
                        {200, 333, 1024, 256, kGroup, kGroup},
                        {129, 64, 8208, 128, kGroup, kBlock128},  // split
                        {37, 45, 300, 32, kGroup, kGroup},
                        {70, 97, 154, 154, {kU8, 1, false, true}, {kI8, 3, false, true}},
                        {70, 33, 154, 50, {kU8, 1, true, true}, kGroup}})
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const bool accumulate : {false, true})
        for (const Route& route : routes(t)) {
          INFO(route.name);
          check(t, {dtype, true, accumulate, 0, 0, DType::BF16}, route.multiply);
        }
}

GPU_TEST("cuda int gemm: a bf16 bias before GELU, and one at an odd element") {
  for (const Case& t : {Case{300, 264, 640, 640, kRow, kRow},
                        {37, 45, 300, 300, kRow, kRow},
                        {64, 97, 512, 128, kGroup, kGroup}}) {
    const std::int64_t blocks = (t.k + t.block - 1) / t.block;
    CodeOperand a = make(t.a, t.m, t.k, blocks, 1);
    const CodeOperand b = make(t.b, t.n, t.k, blocks, 2);
    a.scales = ops::mul(a.scales, Tensor::full(a.scales.shape(), 3e-5));  // a bias counts
    const Tensor all = uniform({t.n + 1}, DType::BF16, -3, 3, 9), on = all.to(kGpu);
    for (const std::int64_t at : {0, 1}) {
      const Tensor bias = all.slice(0, at, at + t.n), same = on.slice(0, at, at + t.n);
      Tensor y = Tensor::empty({t.m, t.n}, DType::BF16), z = y.to(kGpu);
      Tensor before = y.clone(), before_z = z.clone();
      cpu::int_gemm_gelu(y, before, a, b, t.k, t.block, bias);
      const cuda::IntProduct p{z, on_gpu(a), on_gpu(b), t.k, t.block, same, false};
      cuda::int_gemm_gelu(z, before_z, p.a, p.b, t.k, t.block, p.bias);
      check_bits(y, z, name(t));
      check_bits(before, before_z, name(t));
      if (t.block < t.k) continue;
      z.fill(7), before_z.fill(7);
      cuda::int_gemm_gelu_whole(p, before_z);
      check_bits(y, z, name(t) + " fused");
      check_bits(before, before_z, name(t) + " fused");
    }
  }
}

GPU_TEST("cuda int gemm: columns of longer operands, by every route") {
  for (const Case& t : {Case{70, 96, 1536, 256, kGroup, kGroup},
                        {200, 300, 4352, 256, kGroup, kGroup},  // split
                        {129, 70, 1024, 128, kGroup, kBlock128},
                        {70, 96, 1536, 32, kGroup, kGroup},
                        {300, 260, 640, 640, kRow, kRow},
                        {70, 96, 2048, 2048, kTensor, kRow},
                        {33, 40, 1536, 256, {kU8}, kGroup},
                        {70, 45, 640, 640, {kU8, 1, false, true}, {kI8, 3, false, true}}})
    for (const std::int64_t after : {0, 48, 7}) {  // 7: rows at any byte
      const std::int64_t from = t.block < t.k ? 4 * t.block : 16, k = from + t.k + after,
                         blocks = (k + t.block - 1) / t.block;
      const CodeOperand a = make(t.a, t.m, k, blocks, 1), b = make(t.b, t.n, k, blocks, 2);
      const CodeOperand a_part = cut(a, from, t.k, t.block), b_part = cut(b, from, t.k, t.block);
      Tensor expected = Tensor::empty({t.m, t.n}), apart = expected.clone(), y = expected.to(kGpu);
      by_route({expected, whole(a_part), whole(b_part), t.k, t.block, {}, false});
      by_route({apart, a_part, b_part, t.k, t.block, {}, false});
      CHECK(bit_difference(expected, apart).empty());
      for (const Route& route : routes(t)) {
        y.fill(7);
        route.multiply({y,
                        cut(on_gpu(a), from, t.k, t.block),
                        cut(on_gpu(b), from, t.k, t.block),
                        t.k,
                        t.block,
                        {},
                        false});
        check_bits(expected, y, fmt::format("{} {} before {}", name(t), route.name, after));
      }
    }
}

GPU_TEST("cuda int gemm: one scale a row, apart, on a resident panel") {
  const std::int64_t m = 300, n = 260, k = 640;
  CodeOperand a = make(kRow, m, k, 1, 1), b = make(kRow, n, k, 1, 2);
  Tensor expected = Tensor::empty({m, n}), y = expected.to(kGpu);
  by_route({expected, a, b, k, k, {}, false});
  for (CodeOperand* x : {&a, &b}) {
    const Tensor wide = Tensor::full({x->scales.size(0), 5}, 3);
    wide.slice(1, 2, 3).copy_from(x->scales);
    *x = on_gpu(*x);
    x->scales = wide.to(kGpu).slice(1, 2, 3);
  }
  for (const Route& route : routes({m, n, k, k, kRow, kRow})) {
    y.fill(7);
    route.multiply({y, a, b, k, k, {}, false});
    check_bits(expected, y, route.name);
  }
}

// Both kernels that split tiles share the flags.
GPU_TEST("cuda int gemm: split products after each other, in a graph that is replayed") {
  const Case grouped{300, 520, 4352, 256, kGroup, kGroup},
      longer{576, 768, 16384, 256, kGroup, kGroup}, wide{300, 520, 4096, 4096, kRow, kRow},
      tall{2048, 776, 2064, 2064, kRow, kTensor};
  for (const Case& t : {grouped, longer, wide, tall}) REQUIRE(is_split(t, 256));
  REQUIRE(is_split(tall, 128));
  std::vector<Piece> pieces;
  pieces.push_back(piece(grouped, cuda::int_gemm_grouped, DType::F32, 1));
  pieces.push_back(piece(wide, split_into(256), DType::BF16, 3));
  pieces.push_back(piece(longer, cuda::int_gemm_grouped, DType::BF16, 5));
  pieces.push_back(piece(tall, split_into(128), DType::F32, 7));
  pieces.push_back(piece(tall, split_into(256), DType::BF16, 9));
  pieces.push_back(piece(wide, split_into(192), DType::F32, 11));
  pieces.push_back(piece(grouped, cuda::int_gemm_grouped, DType::F32, 13));
  const auto multiply_all = [&] {
    for (const Piece& x : pieces) x.multiply(x.product);
  };
  const auto check_all = [&](const std::string& when) {
    for (Piece& x : pieces) {
      check_bits(x.expected, x.product.c, describe(x.expected) + when);
      x.product.c.fill(7);
    }
    check_flags_are_zero();
  };
  check_flags_are_zero();
  multiply_all();
  check_all(" by launches");
  cuda::Graph graph;
  graph.record(multiply_all);
  for (int i = 0; i < 4; ++i) {
    graph.launch();
    if (i % 2 == 0) continue;  // replays follow each other
    check_all(fmt::format(" in replay {}", i));
    multiply_all();
    check_all(" by launches between replays");
  }
}

GPU_TEST("cuda int gemm: more flags than there are") {
  CHECK_THROWS_WITH(cuda::part_flags(cuda::kPartFlags + 1),
                    "cuda: got 4097 flags of parts, expected at most 4096");
}
