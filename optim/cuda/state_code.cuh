// Eight elements of a state in a lane: from stored words to values and back. The bits are those of
// quant/cuda (and of the CPU): the scalar code is quant/codec.h's.
#pragma once

#include "optim/cuda/adam_vector.cuh"
#include "optim/cuda/state_code.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {

// What a kernel branches on. A variant for one form of states has constants here.
struct StateFacts {
  bool coded;  // false: values
  StateCode::Kind kind;
  ScaleType scale;
  bool packed, stochastic, reciprocal;
  bool window, negative;  // of a book
};
enum class Known : std::uint8_t {
  Nothing,
  Values,
  // A byte a code, to the nearest, window search, quotients, f32 scales that are largest
  // magnitudes.
  SignedBook,
  UnsignedBook,
  // The same of magnitudes, but stochastic and by products with the step's inverse.
  StochasticBook,
};
template <Known kKnown>
__device__ StateFacts facts_of(const StateCode& c) {
  using enum StateCode::Kind;
  if constexpr (kKnown == Known::Values)
    return {false, Int, ScaleType::F32, false, false, false, false, false};
  if constexpr (kKnown == Known::SignedBook || kKnown == Known::UnsignedBook)
    return {true, Book, ScaleType::F32, false, false, false, true, kKnown == Known::SignedBook};
  if constexpr (kKnown == Known::StochasticBook)
    return {true, Book, ScaleType::F32, false, true, true, true, false};
  return {c.coded,      c.kind,       c.scale,           c.packed,
          c.stochastic, c.reciprocal, c.book.has_window, c.book.has_negative};
}

// Tables of a StateCode in shared memory.
struct StateTables {
  // Of a StochasticBook how far above each value the next one lies, in place of bounds.
  float values[256], bounds[256];
  // book.entries() of them: start << 16 | (0xffff − low half of a bound), less the bucket's own
  // bits (for negative values, whose bits count down: less their complement's). Of a StochasticBook
  // bounds are its values, which belong to the code above: one more.
  std::uint32_t entries[1];

  NIBBLE_HD static std::size_t bytes(const StateCode& c) {
    return c.kind == StateCode::Kind::Int
               ? 0
               : sizeof(float) * 512 + sizeof(std::uint32_t) * c.book.entries();
  }
};

// Called by all threads of a block.
template <Known kKnown>
__device__ void prepare(const StateCode& c, StateTables& t) {
  if (c.kind == StateCode::Kind::Int) return;
  constexpr bool kFloors = kKnown == Known::StochasticBook;
  const float *values = c.values, *bounds = c.book.bounds;
  for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) {
    t.values[i] = values[i];
    if (!kFloors)
      t.bounds[i] = bounds[i];
    else
      t.bounds[i] = i < 255 ? codec::sub(values[i + 1], values[i]) : HUGE_VALF;
  }
  __syncthreads();
  const float* const limits = kFloors ? t.values + 1 : t.bounds;
  for (std::uint32_t i = threadIdx.x; i < c.book.entries(); i += blockDim.x) {
    const bool negative = i >= c.book.side;
    const std::uint32_t bucket =
        static_cast<std::uint32_t>(c.book.low) + (negative ? i - c.book.side : i);
    // The bucket's least float, and how many bounds lie below it.
    const float least = std::bit_cast<float>(negative ? 0x8000ffffu | bucket << 16 : bucket << 16);
    std::uint32_t start = 0;
    for (std::uint32_t step = 128; step > 0; step >>= 1)
      start += limits[start + step - 1] < least ? step : 0u;
    const float next = start < 255 ? limits[start] : HUGE_VALF;
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(next);
    const bool inside = bits >> 16 == (bucket | (negative ? 0x8000u : 0u));
    const std::uint32_t half = (negative ? ~bits : bits) & 0xffffu;
    // Beyond all bounds come values of less than half a bucket: none may seem close to one.
    const bool outermost = bucket == static_cast<std::uint32_t>(c.book.high);
    const std::uint32_t rest = kFloors || !outermost ? 0u : negative ? 0u - 0x8000u : 0x8000u;
    const std::uint32_t own = negative ? 0xffffu - bucket : bucket;
    t.entries[i] = (start << 16) + (inside ? 0xffffu + kFloors - half : rest) - (own << 16);
  }
}

// Four numbers' bytes number `kByte` as one word.
template <unsigned kByte>
__device__ std::uint32_t join_bytes(const std::uint32_t* x) {
  constexpr unsigned kPair = kByte | (4 + kByte) << 4;
  return __byte_perm(__byte_perm(x[0], x[1], kPair), __byte_perm(x[2], x[3], kPair), 0x5410);
}
// Eight codes as bytes from eight nibbles, the even element low, and back.
__device__ inline uint2 widen_nibbles(std::uint32_t word) {
  const std::uint32_t even = word & 0x0f0f0f0fu, odd = word >> 4 & 0x0f0f0f0fu;
  return {__byte_perm(even, odd, 0x5140), __byte_perm(even, odd, 0x7362)};
}
__device__ inline std::uint32_t join_nibbles(uint2 bytes) {
  const auto pairs = [](std::uint32_t w) { return (w & 0x000f000fu) | (w >> 4 & 0x00f000f0u); };
  return __byte_perm(pairs(bytes.x), pairs(bytes.y), 0x6420);
}

__device__ inline void decode(const StateFacts& f, const StateCode& c, const StateTables& t,
                              uint2 bytes, float step, float (&x)[8]) {
  if (f.kind == StateCode::Kind::Int) {
    // As the low byte of 2^23 + code, the sign's bit flipped so that no code is negative.
    const std::uint32_t flip = c.sign * 0x01010101u;
    const float origin = 8388608.0f + static_cast<float>(c.sign);
#pragma unroll
    for (unsigned j = 0; j < 8; ++j) {
      const std::uint32_t word = (j < 4 ? bytes.x : bytes.y) ^ flip;
      const std::uint32_t bits = __byte_perm(word, 0x4b000000u, 0x7440u | (j & 3));
      x[j] = codec::mul(codec::sub(std::bit_cast<float>(bits), origin), step);
    }
    return;
  }
#pragma unroll
  for (unsigned j = 0; j < 8; ++j) {
    const std::uint32_t code = (j < 4 ? bytes.x : bytes.y) >> (8 * (j & 3)) & 0xffu;
    x[j] = codec::mul(t.values[code], step);
  }
}

// x / step or x · (1 / step), rounded once. `most`: the bits of the group's largest magnitude.
// False: a quotient may be NaN.
__device__ inline bool divide(const StateFacts& f, const float (&x)[8], float step,
                              std::uint32_t most, float (&y)[8]) {
  if (f.reciprocal) {
    const float factor = codec::multiplier_of(step);
#pragma unroll
    for (int j = 0; j < 8; ++j) y[j] = codec::mul(x[j], factor);
    return false;
  }
  // codec::quotient needs a divisor and dividends of moderate size; small ones are scaled up, which
  // is exact, so that remainders don't underflow.
  const float divisor = codec::divisor_of(step), magnitude = std::bit_cast<float>(most);
  const float up = divisor < 0x1p-32f ? 0x1p64f : 1.0f;
  const float d = codec::mul(divisor, up);
  if (codec::quotient_divides(d) && magnitude <= (up == 1.0f ? 0x1p63f : 0.5f)) {
    const float inverse = codec::div(1.0f, d);
#pragma unroll
    for (int j = 0; j < 8; ++j) y[j] = x[j];
    if (up != 1.0f) {
#pragma unroll
      for (int j = 0; j < 8; ++j) y[j] = codec::mul(y[j], up);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) y[j] = codec::quotient(y[j], d, inverse);
    return true;
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) y[j] = codec::div(x[j], divisor);
  return false;
}

__device__ inline std::uint32_t draw_of(const std::uint32_t (&noise)[4], unsigned j) {
  return noise[j >> 1] >> (16 * (j & 1)) & 0xffffu;
}

// What stands for all values beyond the bounds.
__device__ inline float window_top(const BookSearch& book) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(book.high) << 16 | 0x4000u);
}
// A value's code, and in the low half how far it lies above its bucket's bound, less 1: the low
// halves' sum carries into the code. |y| is below window_top where not `clamps`.
__device__ inline std::uint32_t look_up(const StateFacts& f, const BookSearch& book,
                                        const StateTables& t, float y, bool clamps) {
  // The middle of the lowest bucket. Without negative bounds whatever is negative lies below it.
  const auto least = std::bit_cast<float>(static_cast<std::uint32_t>(book.low) << 16 | 0x8000u);
  float inside = fmaxf(f.negative ? fabsf(y) : y, least);
  if (clamps) inside = fminf(inside, window_top(book));
  const auto bits = std::bit_cast<std::uint32_t>(inside);
  const std::uint32_t sign =
      f.negative ? static_cast<std::uint32_t>(std::bit_cast<std::int32_t>(y) >> 31) : 0u;
  const std::uint32_t* const entries = t.entries - book.low;
  return entries[(bits >> 16) + (sign & book.side)] + (bits ^ sign);
}

// In the high halves of `sums` the codes of x by products with the inverse of the step, which lie
// at most three floats off the quotients. False: a bound may lie between the two.
__device__ inline bool search_products(const StateFacts& f, const BookSearch& book,
                                       const StateTables& t, const float (&x)[8], float step,
                                       std::uint32_t most, std::uint32_t (&sums)[8]) {
  if (!(step >= 0x1p-96f && step <= 0x1p96f)) return false;
  const float inverse = moderate_inverse(step);
  if (!(codec::mul(std::bit_cast<float>(most), inverse) < window_top(book))) return false;
  std::uint32_t nearest = ~0u;
  constexpr std::uint32_t kNear = 3;  // one more than an inverse within half an ulp needs
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    sums[j] = look_up(f, book, t, codec::mul(x[j], inverse), false);
    if (j % 2 == 1)
      nearest =
          __viaddmin_u16x2(__byte_perm(sums[j - 1], sums[j], 0x5410), kNear << 16 | kNear, nearest);
  }
  return ::min(nearest & 0xffffu, nearest >> 16) >= 2 * kNear;
}

// Codes of a book, a number each.
__device__ inline void search(const StateFacts& f, const BookSearch& book, const StateTables& t,
                              const float (&y)[8], bool finite, std::uint32_t (&codes)[8]) {
  if (f.window) {
#pragma unroll
    for (int j = 0; j < 8; ++j) codes[j] = look_up(f, book, t, y[j], true) >> 16;
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) codes[j] = 0;
    for (std::uint32_t step = 128; step > 0; step >>= 1) {
#pragma unroll
      for (int j = 0; j < 8; ++j) codes[j] += y[j] > t.bounds[codes[j] + step - 1] ? step : 0u;
    }
  }
  if (finite) return;
#pragma unroll
  for (int j = 0; j < 8; ++j)
    if (y[j] != y[j]) codes[j] = book.size - 1;
}

// Codes of a StochasticBook, with the bits of codec::round_book: the value below, and the next one
// as often as x lies near it.
__device__ inline void round_up_or_down(const StateFacts& f, const BookSearch& book,
                                        const StateTables& t, const float (&x)[8], float step,
                                        std::uint32_t most, const std::uint32_t (&noise)[4],
                                        std::uint32_t (&codes)[8]) {
  const float factor = codec::multiplier_of(step);
#pragma unroll
  for (unsigned j = 0; j < 8; ++j) {
    const float y = codec::mul(x[j], factor);
    const std::uint32_t below = look_up(f, book, t, y, true) >> 16;
    // (draw + ½) / 2^16 as the fraction of a number from 1 to 2.
    const float u = codec::sub(std::bit_cast<float>(0x3f800040u | draw_of(noise, j) << 7), 1.0f);
    codes[j] = below + (codec::mul(u, t.bounds[below]) < codec::sub(y, t.values[below]) ? 1u : 0u);
  }
  if (std::bit_cast<float>(most) <= codec::kFloatMax) return;
#pragma unroll
  for (unsigned j = 0; j < 8; ++j) {
    const float y = codec::mul(x[j], factor);
    if (y != y) codes[j] = book.size - 1;
  }
}

// The codes of x, a byte each. `noise`: eight draws, for stochastic specs.
template <Known kKnown>
__device__ uint2 encode(const StateFacts& f, const StateCode& c, const StateTables& t,
                        const float (&x)[8], float step, std::uint32_t most,
                        const std::uint32_t (&noise)[4]) {
  std::uint32_t codes[8];
  if constexpr (kKnown == Known::StochasticBook) {
    round_up_or_down(f, c.book, t, x, step, most, noise, codes);
    return {join_bytes<0>(codes), join_bytes<0>(codes + 4)};
  }
  if constexpr (kKnown == Known::SignedBook || kKnown == Known::UnsignedBook)
    if (search_products(f, c.book, t, x, step, most, codes))
      return {join_bytes<2>(codes), join_bytes<2>(codes + 4)};
  float y[8];
  const bool finite = divide(f, x, step, most, y);
  switch (f.kind) {
    case StateCode::Kind::Int:
      if (f.stochastic) {
#pragma unroll
        for (unsigned j = 0; j < 8; ++j) y[j] = codec::add(y[j], centred_noise(draw_of(noise, j)));
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        codes[j] = static_cast<std::uint32_t>(codec::encode_integer(y[j], c.low, c.high));
      break;
    case StateCode::Kind::Float:
#pragma unroll
      for (unsigned j = 0; j < 8; ++j)
        codes[j] = f.stochastic ? codec::encode_float(c.small, y[j], draw_of(noise, j))
                                : codec::encode_float(c.small, y[j]);
      break;
    case StateCode::Kind::Book:
      search(f, c.book, t, y, finite, codes);
      if (!f.stochastic) break;
#pragma unroll
      for (unsigned j = 0; j < 8; ++j)
        codes[j] = codec::round_book(t.values, c.book.size, y[j], codes[j], draw_of(noise, j));
  }
  return {join_bytes<0>(codes), join_bytes<0>(codes + 4)};
}

// The largest magnitude's bits over groups of `lanes` neighbours.
__device__ inline std::uint32_t largest(std::uint32_t most, std::uint32_t lanes) {
  if (lanes >= kWarp) return __reduce_max_sync(kFullMask, most);
#pragma unroll
  for (unsigned distance = kWarp / 4; distance > 0; distance /= 2)
    if (2 * distance <= lanes) most = ::max(most, __shfl_xor_sync(kFullMask, most, distance));
  return most;
}

// Stored scales as steps, and from the largest magnitude to the step that its stored form means.
__device__ inline float load_step(ScaleType type, const void* scales, std::uint64_t i) {
  switch (type) {
    case ScaleType::BF16: return to_float(static_cast<const bfloat16*>(scales)[i]);
    case ScaleType::E8M0: return codec::decode_e8m0(static_cast<const std::uint8_t*>(scales)[i]);
    default: return static_cast<const float*>(scales)[i];
  }
}
template <Known kKnown>
__device__ float store_step(ScaleType type, const StateCode& c, void* scales, std::uint64_t i,
                            std::uint32_t most, bool stores) {
  if constexpr (kKnown != Known::Nothing) {
    const auto magnitude = std::bit_cast<float>(most);
    const float step = codec::one_nan(magnitude < c.step.floor ? c.step.floor : magnitude);
    if (stores) static_cast<float*>(scales)[i] = step;
    return step;
  }
  const float step =
      c.step.step(c.range.of_largest(std::bit_cast<float>(most)), 0.0f, c.step.least(0.0f));
  const auto put = [&](auto form) {
    using Form = decltype(form);
    const auto stored = Form::encode(step, 1.0f);
    if (stores) static_cast<typename Form::type*>(scales)[i] = stored;
    return Form::decode(stored, 1.0f);
  };
  switch (type) {
    case ScaleType::BF16: return put(codec::Stored<ScaleType::BF16>{});
    case ScaleType::E8M0: return put(codec::Stored<ScaleType::E8M0>{});
    case ScaleType::PowerOfTwo: return put(codec::Stored<ScaleType::PowerOfTwo>{});
    default: return put(codec::Stored<ScaleType::F32>{});
  }
}

}  // namespace nibble::cuda
