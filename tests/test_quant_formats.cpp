// Formats: scalar encoding against searches over all codes, code books, errors.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/codec.h"
#include "quant/cpu/coder.h"
#include "quant/cpu/draws.h"
#include "quant/qtensor.h"

namespace nibble {
namespace {

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }
float next(float x, int ulps) {
  for (int i = 0; i < std::abs(ulps); ++i) x = std::nextafter(x, ulps > 0 ? HUGE_VALF : -HUGE_VALF);
  return x;
}

// A random float of any sign and a magnitude between 2^-34 and 2^14.
float any_float(std::uint64_t i) {
  const Philox p = philox4x32_10(static_cast<std::uint32_t>(i), 0, 7, 0, 42);
  const std::uint32_t exponent = 127 - 34 + p.v[1] % 48;
  return std::bit_cast<float>((p.v[0] & 0x807fffffu) | (exponent << 23));
}

// Every value a small float has, ascending, by its definition.
std::vector<float> values_of(int e, int m) {
  std::vector<float> values;
  const int bias = (1 << (e - 1)) - 1;
  for (int exponent = 0; exponent < 1 << e; ++exponent)
    for (int mantissa = 0; mantissa < 1 << m; ++mantissa) {
      const double fraction = mantissa / static_cast<double>(1 << m);
      const double v = exponent == 0 ? std::ldexp(fraction, 1 - bias)
                                     : std::ldexp(1 + fraction, exponent - bias);
      if (e == 5 && exponent == 31) continue;                   // infinities and NaN
      if (e == 4 && exponent == 15 && mantissa == 7) continue;  // NaN
      values.push_back(static_cast<float>(v));
    }
  return values;
}

// Index of the nearest magnitude, the even one at a tie, saturating.
std::uint32_t nearest_even(const std::vector<float>& values, float magnitude) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < values.size(); ++i) {
    const double d = std::fabs(static_cast<double>(values[i]) - static_cast<double>(magnitude));
    const double b = std::fabs(static_cast<double>(values[best]) - static_cast<double>(magnitude));
    if (d < b || (d == b && i % 2 == 0)) best = i;
  }
  return static_cast<std::uint32_t>(best);
}

TEST_CASE("quant formats: small floats round to the nearest of all their values") {
  for (const auto& [e, m] : {std::pair{4, 3}, {5, 2}, {2, 1}, {2, 3}, {3, 2}}) {
    const Format format = Format::floating(e, m);
    CAPTURE(format.name());
    const auto values = values_of(e, m);
    CHECK(format.max_value() == values.back());
    CHECK(format.bits() == 1 + e + m);
    const codec::SmallFloat f(e, m);
    const auto sign = std::uint32_t{1} << (e + m);
    const auto check = [&](float y) {
      const std::uint32_t expected =
          nearest_even(values, std::fabs(y)) | (std::signbit(y) ? sign : 0);
      if (codec::encode_float(f, y) != expected) FAIL_CHECK(y);
    };
    for (std::uint32_t code = 0; code < values.size(); ++code) {
      CHECK(format.value_of(static_cast<std::uint8_t>(code)) == values[code]);
      CHECK(format.value_of(static_cast<std::uint8_t>(code | sign)) == -values[code]);
      if (code + 1 == values.size()) continue;
      const float middle = (values[code] + values[code + 1]) / 2;
      for (int ulps = -1; ulps <= 1; ++ulps) {
        check(next(middle, ulps));
        check(-next(middle, ulps));
        check(next(values[code], ulps));
      }
    }
    for (std::uint64_t i = 0; i < 20000; ++i) check(any_float(i));
    CHECK(codec::encode_float(f, HUGE_VALF) == values.size() - 1);
    CHECK(codec::encode_float(f, -HUGE_VALF) == ((values.size() - 1) | sign));
  }
  CHECK(std::isnan(Format::floating(4, 3).value_of(0x7f)));
  CHECK(std::isnan(Format::floating(5, 2).value_of(0xfc)));
}

TEST_CASE("quant formats: fp8 codes are those of the library's fp8 types") {
  const codec::SmallFloat e4m3(4, 3), e5m2(5, 2);
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const float y = any_float(i) * 64;
    if (codec::encode_float(e4m3, y) != float8_e4m3(y).bits) FAIL_CHECK(y);
    if (codec::encode_float(e5m2, y) != float8_e5m2(y).bits) FAIL_CHECK(y);
  }
}

TEST_CASE("quant formats: stochastic small floats use both neighbours in proportion") {
  for (const auto& [e, m] : {std::pair{4, 3}, {5, 2}, {2, 1}, {2, 3}, {3, 2}}) {
    const Format format = Format::floating(e, m);
    CAPTURE(format.name());
    const codec::SmallFloat f(e, m);
    const auto values = values_of(e, m);
    for (std::size_t i = 0; i + 1 < values.size(); ++i) {
      // All 65536 draws: a value on the grid stays, one between takes its share of the upper one.
      for (const float part : {0.0f, 0.25f, 0.5f, 0.875f}) {
        const float y = values[i] + part * (values[i + 1] - values[i]);
        int upper = 0;
        for (std::uint32_t draw = 0; draw < 65536; draw += 16) {
          const std::uint32_t code = codec::encode_float(f, y, draw + 8);
          if (code != i && code != i + 1) FAIL_CHECK(y);
          upper += code == i + 1;
        }
        if (std::abs(static_cast<float>(upper) / 4096.0f - part) > 0.001f) FAIL_CHECK(y);
      }
    }
  }
}

TEST_CASE("quant formats: code books take the nearest value, the lower one on a midpoint") {
  for (const char* name : {"dyn8", "dynu8", "dyn4", "lin4u"}) {
    INFO("format ", std::string(name));
    QuantSpec spec = parse_spec(name);
    const CodeBook& book = spec.format.book();
    const cpu::Coder coder(spec);
    const auto search = [&](float y) {
      std::size_t code = 0;
      while (code < book.bounds.size() && book.bounds[code] < y) ++code;
      return static_cast<std::uint8_t>(code);
    };
    std::vector<float> inputs{0.0f, -0.0f, 1e-45f, -1e-45f, 1e30f, -1e30f};
    for (const auto& list : {book.values, book.bounds})
      for (const float v : list)
        for (int ulps = -1; ulps <= 1; ++ulps) inputs.push_back(next(v, ulps));
    for (std::uint64_t i = 0; i < 1000000; ++i) {
      const Philox p = philox4x32_10(static_cast<std::uint32_t>(i), 0, 0, 0, 9);
      inputs.push_back(2 * uniform01(p.v[0]) - 1);
      inputs.push_back(any_float(i) * 0x1p-14f);
    }
    std::vector<std::uint8_t> codes(inputs.size());
    coder.encode(inputs.data(), static_cast<std::int64_t>(inputs.size()), nullptr, codes.data());
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (codes[i] != search(inputs[i])) FAIL_CHECK(inputs[i]);
    // The bound itself belongs to the lower code.
    for (std::size_t c = 0; c < book.bounds.size(); ++c) CHECK(search(book.bounds[c]) == c);
  }
}

TEST_CASE("quant formats: stochastic code books keep the mean and stay on values") {
  const Format format = Format::dynamic8();
  const CodeBook& book = format.book();
  const auto size = static_cast<std::uint32_t>(book.values.size());
  for (std::uint32_t c = 0; c + 1 < size; c += 5)
    for (const float part : {0.0f, 0.125f, 0.5f, 0.75f}) {
      const float low = book.values[c], high = book.values[c + 1];
      const float y = low + part * (high - low);
      int upper = 0;
      for (std::uint32_t draw = 8; draw < 65536; draw += 16) {
        const std::uint32_t nearest = codec::encode_book(book.bounds.data(), size, y);
        const std::uint32_t code = codec::round_book(book.values.data(), size, y, nearest, draw);
        if (code != c && code != c + 1) FAIL_CHECK(y);
        upper += code == c + 1;
      }
      if (std::abs(static_cast<float>(upper) / 4096.0f - part) > 0.001f) FAIL_CHECK(y);
    }
  for (const float outside : {-2.0f, 2.0f, book.values.front(), book.values.back()}) {
    const std::uint32_t nearest = codec::encode_book(book.bounds.data(), size, outside);
    CHECK(codec::round_book(book.values.data(), size, outside, nearest, 65535) == nearest);
  }
}

TEST_CASE("quant formats: the dynamic maps have the published values") {
  const auto& signed8 = Format::dynamic8().book().values;
  CHECK(signed8.size() == 256);
  CHECK(signed8.front() == doctest::Approx(-0.99297).epsilon(1e-5));
  CHECK(signed8.back() == 1.0f);
  CHECK(signed8[127] == 0.0f);
  CHECK(signed8[128] == doctest::Approx(5.5e-7));
  const auto& unsigned8 = Format::dynamic8_unsigned().book().values;
  CHECK(unsigned8.size() == 256);
  CHECK(unsigned8[1] == doctest::Approx(3.25e-7));
  CHECK(unsigned8[2] == doctest::Approx(7.75e-7));
  CHECK(unsigned8[254] == doctest::Approx(0.99648).epsilon(1e-5));
  const std::vector<float> four{-.8875f, -.6625f, -.4375f, -.2125f, -.0775f, -.0325f, -.0055f, 0,
                                .0055f,  .0325f,  .0775f,  .2125f,  .4375f,  .6625f,  .8875f,  1};
  CHECK(Format::dynamic4().book().values == four);
}

TEST_CASE("quant formats: powers of two and their byte form") {
  for (int k = -126; k <= 127; ++k) {
    const float p = std::ldexp(1.0f, k);
    CHECK(codec::power_of_two_above(p) == p);
    if (k < 127) CHECK(codec::power_of_two_above(next(p, 1)) == 2 * p);
    CHECK(codec::decode_e8m0(codec::encode_e8m0(p)) == p);
  }
  CHECK(codec::power_of_two_above(std::numeric_limits<float>::max()) == std::ldexp(1.0f, 127));
  CHECK(codec::power_of_two_above(std::ldexp(3.0f, -149)) == std::ldexp(1.0f, -147));
  CHECK(codec::decode_e8m0(0) == std::ldexp(1.0f, -127));
  CHECK(std::isnan(codec::decode_e8m0(255)));
  CHECK(codec::encode_e8m0(HUGE_VALF) == 255);
  CHECK(codec::encode_e8m0(std::numeric_limits<float>::quiet_NaN()) == 255);
}

TEST_CASE("quant formats: names, payloads and errors") {
  for (const char* name : {"int2", "int8", "uint4", "uint8", "e4m3", "e5m2", "e2m1", "e2m3", "e3m2",
                           "dyn8", "dynu8", "dyn4", "lin4u"})
    CHECK(Format::parse(name).name() == name);
  CHECK(Format::parse("int5").payload() == DType::I8);
  CHECK(Format::parse("uint5").payload() == DType::U8);
  CHECK(Format::parse("e4m3").payload() == DType::E4M3);
  CHECK(Format::parse("e5m2").payload() == DType::E5M2);
  CHECK(Format::parse("e3m2").payload() == DType::U8);
  CHECK(Format::parse("dyn8").payload() == DType::U8);
  CHECK(Format::parse("int3").qmin() == -4);
  CHECK(Format::parse("uint3").qmax() == 7);
  CHECK(Format::dynamic8() == Format::parse("dyn8"));
  CHECK_FALSE(Format::integer(4) == Format::integer(4, false));

  const auto mine =
      std::make_shared<const CodeBook>("test-thirds", 2, std::vector<float>{-1, 0, 1});
  Format::register_code_book(mine);
  Format::register_code_book(mine);  // the same again changes nothing
  CHECK(Format::parse("test-thirds") == Format::code_book(mine));
  CHECK(Format::parse("test-thirds").is_signed());
  const auto refused = [](const char* part, auto&& f) {
    try {
      f();
      FAIL_CHECK("no error: ", part);
    } catch (const Error& e) {
      const std::string what = e.what();
      CAPTURE(what);
      CHECK(what.find(part) != std::string::npos);
    }
  };
  const auto make = [](const char* name, int bits, std::vector<float> v) {
    return std::make_shared<const CodeBook>(name, bits, std::move(v));
  };
  refused("'test-thirds' is registered with other values", [&] {
    Format::register_code_book(make("test-thirds", 2, {-1, 1}));
  });
  refused("'int4' is a built-in format", [&] {
    Format::register_code_book(make("int4", 2, {0, 1}));
  });
  refused("got no code book", [&] { Format::register_code_book(nullptr); });
  refused("got no code book", [&] { Format::code_book(nullptr); });
  refused("bad name: got 'a:b'", [&] { make("a:b", 2, {0, 1}); });
  refused("got 9 bits, expected 2 to 8", [&] { make("b", 9, {0, 1}); });
  refused("got 5 values, expected 2 to 4", [&] { make("b", 2, {0, 1, 2, 3, 4}); });
  refused("got 1 values", [&] { make("b", 2, {1}); });
  refused("value 1 is not finite", [&] { make("b", 2, {0, HUGE_VALF}); });
  refused("values must ascend: got 0 after 1", [&] { make("b", 2, {1, 0}); });
  refused("the largest value is 0", [&] { make("b", 2, {-1, 0}); });
  refused("integer width: got 1 bits", [&] { Format::integer(1); });
  refused("got e3m3, expected e4m3", [&] { Format::floating(3, 3); });
  refused("unknown name: got 'int12'", [&] { Format::parse("int12"); });
  refused("test-thirds", [&] { Format::parse("no-such"); });
  refused("dynamic map", [&] { dynamic_map(true, 8, 8); });
}

TEST_CASE("quant formats: draws of a run are those of the counter-based generator") {
  const RngKey key{123, 45};
  std::vector<std::uint16_t> buffer(1000 + cpu::kDrawSlack);
  for (const std::uint64_t first : {0ull, 5ull, 64ull, (1ull << 35) + 3}) {
    const std::uint16_t* draws = cpu::fill_draws(key, first, 1000, buffer.data());
    const Draws16 reference(key, 0);
    for (std::uint64_t i = 0; i < 1000; ++i) CHECK(draws[i] == reference(first + i));
  }
  CHECK(bits_of(centred_noise(0)) == bits_of(-centred_noise(65535)));
}

}  // namespace
}  // namespace nibble
