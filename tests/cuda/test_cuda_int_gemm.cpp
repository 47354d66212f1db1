// Products of codes on the GPU: the CPU's bits, by every route.
#include "quant/cuda/whole_plan.h"
#include "tensor/cuda/graph.h"
#include "tests/cuda/int_products.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

cuda::IntGemmRoute route(const Case& t) {
  const auto payload = [](const Side& s) {
    return s.codes == kU8 ? DType::U8 : s.codes == kI8 ? DType::I8 : DType::U4x2;
  };
  return cuda::int_gemm_route(
      {t.m, t.n, t.k, t.block, payload(t.a), payload(t.b), t.a.zeros || t.b.zeros});
}

}  // namespace

TEST_CASE("cuda int gemm: the route follows from the layout") {
  using enum cuda::IntGemmRoute;
  CHECK(route({4096, 768, 3072, 3072, kRow, kRow}) == Wgmma);
  CHECK(route({4096, 3072, 768, 128, kGroup, kBlock128}) == Wgmma);
  CHECK(route({8192, 768, 768, 768, kRow, kRow}) == Resident);
  CHECK(route({8192, 768, 769, 769, kRow, kRow}) == Wgmma);  // does not fit
  CHECK(route({8192, 256, 768, 768, kRow, kRow}) == Wgmma);  // too few columns
  CHECK(route({256, 768, 768, 768, kRow, kRow}) == Wgmma);   // too few rows
  CHECK(route({16, 770, 300, 256, kGroup, kGroup}) == Wgmma);
  CHECK(route({64, 64, 300, 32, kGroup, kGroup}) == Tiles);
  CHECK(route({64, 64, 300, 100, kGroup, kGroup}) == General);
  CHECK(route({64, 64, 301, 301, {kI4}, kRow}) == Wgmma);
  CHECK(route({64, 64, 256, 256, {kU8}, kRow}) == Wgmma);
  CHECK(route({64, 64, 256, 128, {kU8}, kGroup}) == General);
  CHECK(route({64, 64, 256, 256, {kI8, 1, true, true}, kRow}) == Wgmma);
  CHECK(route({64, 64, 256, 128, {kI8, 1, true, true}, kGroup}) == General);
  CHECK(route({64, 64, 33025, 33025, {kU8}, {kU8}}) == Wgmma);
  CHECK(route({64, 64, 33026, 33026, {kU8}, {kU8}}) == General);  // sums may leave int32
  CHECK(route({64, 64, 131071, 131071, kRow, kRow}) == Wgmma);
  CHECK(route({64, 64, 131072, 131072, kRow, kRow}) == General);  // sums may leave int32
  CHECK(route({64, 64, 0, 1, kRow, kRow}) == General);
  CHECK(to_string(Tiles) == "tensor-core tiles");
}

GPU_TEST("cuda int gemm: one contraction block, every payload, ragged shapes") {
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{1, 1, 1},
                                {3, 17, 5},
                                {4, 16, 32},
                                {33, 64, 48},
                                {101, 530, 67},
                                {129, 127, 255},
                                {300, 259, 640}}) {
    check({m, n, k, k, kRow, kRow});
    check({m, n, k, k, kTensor, kRow});
    check({m, n, k, k, {kU8}, {kU8}});
    check({m, n, k, k, {kU8}, kRow});
    check({m, n, k, k, kRow, {kU8}});
    check({m, n, k, k, {kI4}, {kI4}});
    check({m, n, k, k, {kU4}, kRow});
    check({m, n, k, k, {kU4}, {kU8}});
  }
}

GPU_TEST("cuda int gemm: scales by group and block") {
  for (const auto& [m, n] :
       {std::array<std::int64_t, 2>{37, 45}, {128, 128}, {200, 333}, {1, 70}, {260, 1}})
    for (const std::int64_t k : {300, 512, 1000})
      for (const std::int64_t block : {32, 64, 128, 256, 384}) {
        if (block >= k) continue;
        check({m, n, k, block, kGroup, kBlock128});
        check({m, n, k, block, kGroup, kGroup});
        check({m, n, k, block, {kI8, 32, true, false}, {kI8, 32, true, false}});
        check({m, n, k, block, kGroup, kRow});
        check({m, n, k, block, kTensor, {kI4, 3, true, false}});
      }
}

GPU_TEST("cuda int gemm: large tiles and many of them") {
  // Enough results that a device of 132 multiprocessors prefers large tiles and each block takes
  // several; the CPU's bits still.
  check({1700, 1540, 384, 128, kGroup, kBlock128}, {DType::BF16});
  check({1700, 1540, 272, 128, kGroup, kGroup}, {DType::BF16, false, true});
  check({1700, 1540, 272, 32, kGroup, kGroup});
  check({1700, 1540, 272, 64, kGroup, kBlock128});
  check({1700, 1540, 400, 384, kGroup, kGroup});
  check({1700, 1540, 272, 272, kRow, kRow}, {DType::BF16});
}

GPU_TEST("cuda int gemm: blocks of any length, zero points on either side") {
  for (const std::int64_t block : {16, 31, 77, 100, 128}) {
    check({37, 70, 300, block, kGroup, kGroup});
    check({37, 70, 300, block, {kI4}, {kU8}});
    for (const bool zeros_b : {false, true}) {
      check({70, 33, 154, block, {kU8, 1, true, true}, {kI8, 3, true, zeros_b}});
      check({70, 33, 154, block, {kU4, 2, true, !zeros_b}, {kU8, 1, false, true}});
    }
  }
  check({65, 64, 77, 77, {kU8, 65, true, true}, {kU8, 1, true, true}});
}

GPU_TEST("cuda int gemm: long contractions, and beyond int32") {
  check({64, 96, 2048, 2048, kRow, kRow});
  check({301, 768, 3072, 3072, kRow, kTensor}, {DType::BF16});
  check({40, 64, 1543, 1543, {kI4}, kRow});  // padded to a multiple of 16
  check({32, 32, 131071, 131071, kRow, kRow});
  check({2, 3, 131071, 131071, kRow, kRow});
  check({2, 3, 140001, 140001, kRow, kRow});
  check({2, 3, 70001, 70001, {kU8}, {kU8}});
  check({2, 3, 70001, 70001, {kU8, 1, true, true}, {kU8, 1, true, true}});
}

GPU_TEST("cuda int gemm: segments of a long contraction add up in order") {
  for (const std::int64_t k : {8192, 8193, 8208, 10240, 14336}) {
    check({300, 200, k, 128, kGroup, kGroup}, {DType::F32, false, true});
    check({129, 64, k, 128, kGroup, kBlock128}, {DType::BF16});
    check({257, 193, k, 384, kGroup, kGroup});
    check({64, 64, k, 4096, kGroup, kRow});
    check({130, 260, k, k, kRow, kRow});
    check({33, 40, k, 32, kGroup, kGroup});  // tiles
    check({33, 40, k, 64, kGroup, kBlock128});
    check({17, 20, k, 100, kGroup, kGroup});  // general
    check({17, 20, k, 100, {kU8, 1, true, true}, kGroup});
  }
  check({2100, 2100, 8300, 256, kGroup, kGroup});  // segments of more than 2048 codes
  // Small enough to be cut, large enough that every block of the device takes several items.
  check({1024, 1100, 16384, 128, kGroup, kGroup}, {DType::F32, false, true});
  check({1024, 1100, 16384, 256, kGroup, kGroup}, {DType::F32, false, true});
  // The last segments are shorter: some of the device's blocks take several of those first.
  check({1024, 1100, 13312, 256, kGroup, kGroup});
  check({1024, 1100, 13312, 128, kGroup, kBlock128}, {DType::BF16});
  check({1024, 1100, 16384, 16384, kRow, kRow}, {DType::F32, false, true});
  // Split tiles after two whole turns of the workers.
  check({140 * 192 - 5, 250, 4096, 256, kGroup, kGroup});
}

GPU_TEST("cuda int gemm: helpers' parts join alike whenever they come, also in a graph") {
  const CodeOperand a = on_gpu(make(kGroup, 300, 4352, 17, 1)),
                    b = on_gpu(make(kGroup, 520, 4352, 17, 2));
  const Tensor once = Tensor::zeros({300, 520}, DType::F32, kGpu), again = once.clone();
  cuda::IntProduct p{once, a, b, 4352, 256, {}, true};
  for (int i = 0; i < 4; ++i) cuda::int_gemm_tiles(p);
  p.c = again;
  cuda::Graph graph;
  graph.record([&] { cuda::int_gemm_grouped(p); });
  for (int i = 0; i < 2; ++i) graph.launch();
  for (int i = 0; i < 2; ++i) cuda::int_gemm_grouped(p);
  check_bits(once.to(kCpu), again);
}

GPU_TEST("cuda int gemm: a panel of b in shared memory") {
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{1, 1, 1},  // one tile of one panel
                                {64, 192, 128},
                                {65, 193, 129},
                                {130, 384, 640},
                                {200, 577, 300},  // an odd number of panels
                                {300, 330, 768},
                                {9000, 70, 96}}) {  // a block takes several tiles
    check({m, n, k, k, kRow, kRow}, {DType::BF16}, cuda::int_gemm_resident);
    check({m, n, k, k, kTensor, {kI4, 3, false}}, {DType::BF16, false}, cuda::int_gemm_resident);
    check({m, n, k, k, kRow, kTensor}, {DType::F32, true, true}, cuda::int_gemm_resident);
    check({m, n, k, k, kRow, kRow}, {DType::BF16, true, true, 3, 2}, cuda::int_gemm_resident);
    check({m, n, k, k, kRow, kRow}, {DType::BF16, true, false, 8, 8}, cuda::int_gemm_resident);
  }
  // A block takes several panels, each with scales and bias of its own.
  check({130, 60000, 32, 32, kRow, kRow}, {DType::BF16}, cuda::int_gemm_resident);
  check({8192, 770, 96, 96, kRow, kRow}, {DType::BF16});  // by its route
}

namespace {
Multiply by_cut(std::uint32_t columns, std::uint32_t rounds) {
  return [=](const cuda::IntProduct& product) {
    cuda::IntProduct p = product;
    p.plan = {.columns = columns, .rounds = rounds};
    cuda::int_gemm_whole(p);
  };
}
}  // namespace

GPU_TEST("cuda int gemm: every cut into tiles and rounds gives the same bits") {
  for (const Case& t : {Case{300, 259, 2048, 2048, kRow, kRow},
                        {130, 260, 4112, 4112, kTensor, kRow},
                        {520, 700, 1040, 1040, {kI4}, kRow},
                        {1, 1, 4096, 4096, kRow, kRow}})
    for (const std::uint32_t columns : cuda::kWholeColumns)
      for (const std::uint32_t rounds : cuda::kWholeRounds)
        for (const bool accumulate : {false, true})
          check(t, {rounds == 1 ? DType::BF16 : DType::F32, columns == 192, accumulate},
                by_cut(columns, rounds));
  // More tiles than there are clusters: several a cluster, boxes after boxes, split ones first.
  for (const std::uint32_t columns : cuda::kWholeColumns)
    for (const std::uint32_t rounds : cuda::kWholeRounds)
      check({9000, 776, 1040, 1040, kRow, kRow}, {DType::BF16}, by_cut(columns, rounds));
}

GPU_TEST("cuda int gemm: split tiles in a recorded graph") {
  const CodeOperand a = on_gpu(make(kRow, 300, 4096, 1, 1)),
                    b = on_gpu(make(kRow, 520, 4096, 1, 2));
  const Tensor once = Tensor::zeros({300, 520}, DType::F32, kGpu), again = once.clone();
  cuda::IntProduct p{once, a, b, 4096, 4096, {}, true};
  p.plan = {.columns = 256, .rounds = 1};
  for (int i = 0; i < 3; ++i) cuda::int_gemm_whole(p);
  p.c = again;
  cuda::Graph graph;
  graph.record([&] { cuda::int_gemm_whole(p); });
  for (int i = 0; i < 3; ++i) graph.launch();
  check_bits(once.to(kCpu), again);
}

GPU_TEST("cuda int gemm: zero points and codes without sign, one contraction block") {
  for (const auto& [m, n, k] :
       {std::array<std::int64_t, 3>{70, 33, 154}, {300, 259, 641}, {260, 300, 1100}, {5, 7, 33000}})
    for (const bool zeros_a : {false, true})
      for (const bool zeros_b : {false, true})
        for (const Codes a : {kI8, kU8, kU4})
          for (const Codes b : {kI8, kU8})
            check({m, n, k, k, {a, 1, false, zeros_a}, {b, b == kI8 ? 3 : 1, false, zeros_b}},
                  {zeros_a ? DType::BF16 : DType::F32, zeros_b, k == 154});
}

GPU_TEST("cuda int gemm: zero points beyond what int32 holds") {
  for (const float zero : {-3e6f, 8e8f, 3e38f}) {
    CodeOperand a = make(kRow, 70, 500, 1, 5), b = make({kU8, 1, false, false}, 90, 500, 1, 6);
    a.zeros = Tensor::full({70, 1}, zero, DType::F32);
    b.zeros = Tensor::full({90, 1}, -17, DType::F32);
    Tensor cpu = Tensor::empty({70, 90}), gpu = Tensor::empty({70, 90}, DType::F32, kGpu);
    by_route({cpu, a, b, 500, 500, {}, false});
    by_route({gpu, on_gpu(a), on_gpu(b), 500, 500, {}, false});
    check_bits(cpu, gpu, fmt::format("{}", zero));
  }
}

// Tier: exact. The fused kernel, the composed one, and the CPU's.
GPU_TEST("cuda int gemm: GELU at the end of a product") {
  for (const Case& t : {Case{300, 264, 640, 640, kRow, kRow},
                        {130, 530, 2064, 2064, kTensor, kRow},
                        {37, 45, 300, 300, kRow, kRow},
                        {64, 96, 512, 128, kGroup, kGroup},
                        {64, 96, 512, 512, {kU8, 1, false, true}, kRow}})
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const bool keeps : {false, true}) {
        const std::int64_t blocks = (t.k + t.block - 1) / t.block;
        CodeOperand a = make(t.a, t.m, t.k, blocks, 1), b = make(t.b, t.n, t.k, blocks, 2);
        a.scales =
            ops::mul(a.scales, Tensor::full(a.scales.shape(), 3e-5));  // both branches of GELU
        const Tensor bias = uniform({t.n}, DType::F32, -3, 3, 9);
        Tensor y = Tensor::empty({t.m, t.n}, dtype), z = Tensor::empty({t.m, t.n}, dtype, kGpu);
        Tensor before_y, before_z;
        if (keeps) before_y = y.clone(), before_z = z.clone();
        cpu::int_gemm_gelu(y, before_y, a, b, t.k, t.block, bias);
        const cuda::IntProduct p{z, on_gpu(a), on_gpu(b), t.k, t.block, bias.to(kGpu), false};
        const auto check_both = [&](const char* how) {
          check_bits(y, z, name(t) + how);
          if (keeps) check_bits(before_y, before_z, name(t) + how);
          z.fill(7);
        };
        cuda::int_gemm_gelu(z, before_z, p.a, p.b, t.k, t.block, p.bias);
        check_both(" by default");
        if (t.block < t.k || t.a.codes != kI8) continue;
        cuda::int_gemm_gelu_whole(p, before_z);
        check_both(" fused");
      }
}

GPU_TEST("cuda int gemm: every route gives the same bits") {
  for (const Case& t : {Case{70, 96, 1600, 1600, kRow, kRow},
                        {70, 96, 600, 600, kRow, kRow},
                        {70, 96, 1600, 128, kGroup, kBlock128},
                        {70, 96, 1600, 32, {kI4}, kGroup},
                        {70, 96, 6000, 256, kGroup, kGroup},  // cut in two
                        {200, 300, 4300, 128, kGroup, kBlock128},
                        {200, 300, 4300, 32, kGroup, kGroup},
                        {200, 300, 4300, 64, kGroup, kGroup}}) {
    check(t, {}, cuda::int_gemm_tiles);
    check(t, {}, cuda::int_gemm_general);
    if (t.block % 128 == 0 || t.block == t.k) check(t, {}, cuda::int_gemm_wgmma);
    if (t.block == t.k) check(t, {}, cuda::int_gemm_library);
    if (t.block == t.k && t.k <= cuda::kMaxResidentDepth) check(t, {}, cuda::int_gemm_resident);
  }
}

GPU_TEST("cuda int gemm: results larger than one slab of int32 sums") {
  // 2^26 sums go at a time; the tiles are the reference, because the CPU would take minutes.
  const std::int64_t m = 4100, n = 16400, k = 1536;
  const CodeOperand a = on_gpu(make(kRow, m, k, 1, 7)), b = on_gpu(make(kRow, n, k, 1, 8));
  REQUIRE(m * n > std::int64_t{1} << 26);
  Tensor whole = Tensor::empty({m, n}, DType::BF16, kGpu),
         tiles = Tensor::empty({m, n}, DType::BF16, kGpu);
  cuda::int_gemm_library({whole, a, b, k, k, {}, false});
  cuda::int_gemm_tiles({tiles, a, b, k, k, {}, false});
  check_bits(tiles.to(kCpu), whole);
}

GPU_TEST("cuda int gemm: one extreme code everywhere") {
  for (const int extreme : {-128, 127})
    for (const std::int64_t k : {std::int64_t{640}, std::int64_t{4000}})
      for (const std::int64_t block : {std::int64_t{128}, std::int64_t{256}, k}) {
        const auto full = [&](std::int64_t rows, int code) {
          CodeOperand x = make(kGroup, rows, k, (k + block - 1) / block, 3);
          x.codes.fill(code);
          return x;
        };
        const CodeOperand a = full(35, extreme), b = full(48, -128);
        Tensor cpu = Tensor::empty({35, 48}), gpu = Tensor::empty({35, 48}, DType::F32, kGpu);
        by_route({cpu, a, b, k, block, {}, false});
        by_route({gpu, on_gpu(a), on_gpu(b), k, block, {}, false});
        check_bits(cpu, gpu, fmt::format("{} by {}", extreme, block));
      }
}

GPU_TEST("cuda int gemm: results of both dtypes, accumulated, biased, in strided rows") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const bool bias : {false, true})
      for (const bool accumulate : {false, true})
        for (const auto& [left, right] :
             {std::array<std::int64_t, 2>{0, 0}, {4, 8}, {3, 2}, {1, 0}})
          for (const Case& t : {Case{70, 45, 256, 128, kGroup, kBlock128},
                                {70, 48, 100, 100, kRow, kRow},
                                {1, 47, 256, 32, kGroup, kGroup},
                                {40, 64, 1600, 1600, kRow, kRow},
                                {35, 66, 90, 30, {kU8, 1, true, true}, kGroup}})
            check(t, {dtype, bias, accumulate, left, right});
}

GPU_TEST("cuda int gemm: empty extents") {
  for (const bool bias : {false, true}) {
    check({2, 3, 0, 1, kRow, kRow}, {DType::F32, bias, false});
    check({2, 3, 0, 1, kRow, kRow}, {DType::BF16, bias, true, 2, 1});
    check({0, 3, 64, 64, kTensor, kRow}, {DType::F32, bias});
    check({3, 0, 64, 32, kGroup, kTensor}, {DType::F32, bias});
  }
}

GPU_TEST("cuda int gemm: the rescaling of float products, block by block") {
  for (const auto& [m, n] : {std::array<std::int64_t, 2>{1, 1}, {37, 70}, {130, 512}, {17, 259}})
    for (const std::int64_t blocks : {std::int64_t{1}, std::int64_t{3}})
      for (const Side& side : {kGroup, kRow, kBlock128}) {
        const CodeOperand a = make(kGroup, m, 16, blocks, 5), b = make(side, n, 16, blocks, 6);
        std::vector<Tensor> parts;
        for (std::int64_t i = 0; i < blocks; ++i)
          parts.push_back(uniform({m, n}, DType::F32, -2, 2, static_cast<std::uint32_t>(30 + i)));
        in_lockstep(
            parts,
            [&](const std::vector<Tensor>& x) {
              const bool here = x[0].device() == kCpu;
              const CodeOperand lhs = here ? a : on_gpu(a), rhs = here ? b : on_gpu(b);
              Tensor f = Tensor::full({m, n}, NAN, DType::F32, x[0].device());  // not read at first
              for (std::int64_t i = 0; i < blocks; ++i)
                NIBBLE_DISPATCH(f.device(), rescale_product(f, x[static_cast<std::size_t>(i)], lhs,
                                                            rhs, i, blocks));
              return std::vector{f};
            },
            [&](const Tensor& cpu, const Tensor& gpu) {
              check_bits(cpu, gpu, fmt::format("[{}, {}], {} blocks", m, n, blocks));
            });
      }
}

GPU_TEST("cuda int gemm: quantized products by spec, as recipes ask for them") {
  const auto to_gpu = [](const QTensor& q) {
    return QTensor(q.payload().to(kGpu), q.scales().to(kGpu),
                   q.zeros() ? q.zeros().to(kGpu) : Tensor(),
                   q.global_scale() ? q.global_scale().to(kGpu) : Tensor(), q.spec(), q.shape());
  };
  const Tensor x = uniform({96, 320}, DType::F32, -2, 2, 40),
               w = uniform({160, 320}, DType::F32, -1, 1, 41);
  for (const auto& [lhs, rhs] :
       {std::array{"int8:group128", "int8:block128"}, std::array{"int8:row", "int8:row"},
        std::array{"int8:row", "int8:tensor"}, std::array{"int8:block32", "int8:block32"},
        std::array{"int8:group128", "int8:group128"}, std::array{"int4:group64", "int8:row"},
        std::array{"uint8:tensor:asym", "int8:row"}}) {
    const QTensor a = quantize(x, parse_spec(lhs)), b = quantize(w, parse_spec(rhs));
    for (const DType out : {DType::F32, DType::BF16}) {
      const MatmulOptions options{Mode::Real, out, {}};
      check_bits(matmul_nt(a, b, options), matmul_nt(to_gpu(a), to_gpu(b), options),
                 fmt::format("{} x {} -> {}", lhs, rhs, out));
      Tensor before;
      const Tensor y = matmul_nt(to_gpu(a), to_gpu(b),
                                 {.out = out, .bias = {}, .gelu = true, .before = &before});
      check_bits(matmul_nt(a, b, options), before, "before GELU");
      check_bits(ops::gelu(matmul_nt(a, b, options)), y, "GELU");
    }
  }
}
