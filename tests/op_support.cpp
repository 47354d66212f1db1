#include "op_support.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <exception>
#include <optional>
#include <regex>
#include <sstream>

#include "autograd/context.h"
#include "tests/in_sample.h"

namespace nibble::testing {
namespace {

bool lists(const std::string& words, std::string_view word) {
  std::istringstream stream(words);
  for (std::string w; stream >> w;)
    if (w == word) return true;
  return false;
}

Tensor placed(const Tensor& x, Placement placement) {
  if (x.rank() == 0 || placement == Placement::Dense) return x;
  const auto into = [&](Tensor y) {
    y.copy_from(x);
    return y;
  };
  Shape shape = x.shape();
  switch (placement) {
    case Placement::Transposed:
      if (x.rank() > 1) {
        std::swap(shape[-1], shape[-2]);
        return into(Tensor::zeros(shape, x.dtype(), x.device()).transpose(-1, -2));
      }
      [[fallthrough]];
    case Placement::Strided:
      shape.push_back(2);
      return into(Tensor::zeros(shape, x.dtype(), x.device()).select(-1, 1));
    case Placement::Expanded: return x.slice(0, 0, 1).clone().expand(shape);
    default:
      return into(Tensor::zeros({x.numel() + 3}, x.dtype(), x.device())
                      .slice(0, 3, x.numel() + 3)
                      .view(shape));
  }
}

// The arguments of one call; parameters have addresses, so it stays where it is.
struct Arguments {
  std::vector<Tensor> x;
  std::deque<Parameter> parameters;

  void add_parameter(Tensor value) {
    parameters.emplace_back(std::move(value)).name = fmt::format("p{}", parameters.size() - 1);
  }
  OpArgs with(std::vector<Var> inputs, Device device) {
    OpArgs args{std::move(inputs), {}, device};
    for (Parameter& p : parameters) args.p.push_back(&p);
    return args;
  }
};

Tensor drawn(const ArgSpec& a, std::uint32_t site, DType dtype, Device device) {
  return Tensor::uniform(a.shape, a.low, a.high, RngKey{11, site}).to(dtype).to(device);
}

void make(Arguments& out, const OpRow& row, const Cell& c) {
  std::uint32_t site = 100;
  for (const ArgSpec& a : row.inputs)
    out.x.push_back(placed(drawn(a, ++site, c.dtype, c.device), c.inputs));
  for (const ArgSpec& a : row.parameters)
    out.add_parameter(placed(drawn(a, ++site, c.dtype, c.device), c.parameters));
}

// The same numbers in f64, dense, on the CPU.
Tensor widened(const Tensor& x) { return x.to(kCpu).to(DType::F64).clone(); }

Tensor value(const OpRow& row, Arguments& a, Device device) {
  std::vector<Var> inputs;
  for (const Tensor& x : a.x) inputs.emplace_back(x);
  return row.fn(a.with(inputs, device)).tensor();
}

// Of every input, then every parameter; undefined where there is none. Integers and codes get ones
// from above: a draw below 1 would be cut to nothing.
std::vector<Tensor> gradients(const OpRow& row, Arguments& a, Device device, DType dtype) {
  Tape tape;
  const Tape::Recording recording(tape);
  std::vector<Var> watched;
  for (const Tensor& x : a.x) watched.push_back(tape.watch(x));
  const Var y = row.fn(a.with(watched, device));
  const Tensor dy = is_float(dtype)
                        ? Tensor::uniform(y.shape(), -1, 1, RngKey{3, 9}).to(DType::BF16)
                        : Tensor::full(y.shape(), 1);
  tape.backward(y, dy.to(y.dtype()).to(device));
  std::vector<Tensor> all;
  for (const Var& x : watched) all.push_back(tape.gradient(x));
  for (Parameter& p : a.parameters) all.push_back(p.has_grad() ? p.grad() : Tensor());
  return all;
}

std::string difference(const Tensor& got, const Tensor& expected, double tolerance) {
  if (got.shape() != expected.shape())
    return fmt::format("got shape {}, expected {}", got.shape(), expected.shape());
  if (got.device().is_meta()) return "";
  const std::vector<double> g = got.to_vector<double>(), e = expected.to_vector<double>();
  for (std::size_t i = 0; i < g.size(); ++i)
    if (!(std::fabs(g[i] - e[i]) <= tolerance * (std::fabs(e[i]) + 1)))
      return fmt::format("{} element {}: got {}, expected {}", describe(got), i, g[i], e[i]);
  return "";
}

// Few ulp, or the order of a sum: op_table.h's tiers, by dtype.
double tolerance_of(const OpRow& row, DType dtype) {
  if (dtype == DType::F64) return 1e-12;
  if (dtype == DType::BF16) return 0.03;
  if (dtype != DType::F32) return 0;
  return row.tier == Tier::Reduction ? 4e-6 : 2e-6;
}

// The message of what f throws, none when it throws nothing; `wrong` for what no op may throw.
template <class F>
std::optional<std::string> thrown_by(F&& f, std::string& wrong) {
  try {
    f();
    return std::nullopt;
  } catch (const Error& e) {
    if (!has_house_form(e.what()))
      wrong = fmt::format("threw '{}', expected the form 'op: what: got … expected …'", e.what());
    return e.what();
  } catch (const std::exception& e) {
    wrong = fmt::format("threw '{}', expected a nibble::Error", e.what());
    return e.what();
  }
}

// What is wrong with f, which must throw when `refused`; f gives "" or what is wrong with results.
template <class F>
std::string verdict(bool refused, const char* what, F&& f) {
  std::string wrong, result;
  const std::optional<std::string> message = thrown_by([&] { result = f(); }, wrong);
  if (!wrong.empty()) return fmt::format("{}: {}", what, wrong);
  if (refused && !message) return fmt::format("{}: works, declared unsupported", what);
  if (!refused && message) return fmt::format("{}: declared supported, threw '{}'", what, *message);
  return result.empty() ? "" : fmt::format("{}: {}", what, result);
}

std::string check_values(const OpRow& row, const Cell& c, bool refused) {
  return verdict(refused, "value", [&] {
    Arguments a;
    make(a, row, c);
    const Tensor y = value(row, a, c.device);
    if (refused || c.device.is_meta()) return std::string();
    RefArgs reference;
    for (const Tensor& x : a.x) reference.x.push_back(widened(x));
    for (Parameter& p : a.parameters) reference.p.push_back(widened(p.storage()));
    return difference(y, row.reference(reference), tolerance_of(row, c.dtype));
  });
}

std::string check_gradients(const OpRow& row, const Cell& c, bool refused) {
  return verdict(refused, "gradient", [&] {
    Arguments a;
    make(a, row, c);
    const std::vector<Tensor> got = gradients(row, a, c.device, c.dtype);
    if (refused || c.device.is_meta()) return std::string();
    Arguments wide;
    for (const Tensor& x : a.x) wide.x.push_back(widened(x));
    for (Parameter& p : a.parameters) wide.add_parameter(widened(p.storage()));
    const std::vector<Tensor> expected = gradients(row, wide, kCpu, c.dtype);
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (got[i].defined() != expected[i].defined()) return fmt::format("{} is there or not", i);
      if (!got[i].defined()) continue;
      const std::string wrong = difference(got[i], expected[i], tolerance_of(row, c.dtype));
      if (!wrong.empty()) return fmt::format("{}: {}", i, wrong);
    }
    return std::string();
  });
}

}  // namespace

const Support* support_of(const std::string& function) {
  for (const Support& s : support_matrix())
    if (lists(s.functions, function)) return &s;
  return nullptr;
}

std::string to_string(Placement placement) {
  constexpr const char* kNames[] = {"dense", "offset", "strided", "transposed", "expanded"};
  return kNames[static_cast<int>(placement)];
}

std::string to_string(const Cell& c) {
  return fmt::format("{} on {}, inputs {}, parameters {}", c.dtype, c.device, to_string(c.inputs),
                     to_string(c.parameters));
}

bool has_house_form(const std::string& message) {
  static const std::regex form(R"([a-z][a-z0-9_ ]*: ([^:]+: )?got .+)");
  return std::regex_match(message, form);
}

std::string check_cell(const OpRow& row, const Support& s, const Cell& c) {
  const bool cuda = c.device.is_cuda();
  const bool placed = row.parameters.empty() || lists(s.parameters, to_string(c.parameters));
  const auto works = [&](const std::string& dtypes) {
    return placed && lists(dtypes, to_string(c.dtype));
  };
  const std::string wrong = check_values(row, c, !works(cuda ? s.values_cuda : s.values_cpu));
  return wrong.empty() ? check_gradients(row, c, !works(cuda ? s.gradients_cuda : s.gradients_cpu))
                       : wrong;
}

std::vector<std::string> check_mixtures(const OpRow& row, const Support& s, Device device,
                                        Device other) {
  std::vector<std::string> problems;
  // Arguments after the first of their kind are `second`'s, parameters all of them.
  const auto check = [&](const char* what, bool refused, const Cell& x, const Cell& second,
                         const Cell& p) {
    const std::string wrong = verdict(refused, what, [&] {
      Arguments a;
      std::uint32_t site = 100;
      for (const ArgSpec& spec : row.inputs) {
        const Cell& c = a.x.empty() ? x : second;
        a.x.push_back(drawn(spec, ++site, c.dtype, c.device));
      }
      for (const ArgSpec& spec : row.parameters)
        a.add_parameter(drawn(spec, ++site, p.dtype, p.device));
      value(row, a, device);
      if (!refused) gradients(row, a, device, x.dtype);
      return std::string();
    });
    if (!wrong.empty()) problems.push_back(wrong);
  };
  const Cell f32{.device = device}, bf16{.dtype = DType::BF16, .device = device},
      away{.device = other};
  if (row.inputs.size() > 1) {
    check("bf16 beside f32", true, f32, bf16, f32);
    check("f32 beside bf16", true, bf16, f32, f32);
    check("inputs on two devices", true, f32, away, f32);
  }
  if (!row.parameters.empty()) {
    if (!row.inputs.empty()) {
      check("bf16 parameters of f32 inputs", !s.mixed_parameters, f32, f32, bf16);
      check("f32 parameters of bf16 inputs", !s.mixed_parameters, bf16, bf16, f32);
    }
    check("parameters on another device", true, f32, f32, away);
  }
  return problems;
}

std::string check_support(Device device, Device other) {
  const ForwardScope scope({.training = true, .seed = 5});
  std::vector<std::string> problems;
  for (const OpRow& row : op_table()) {
    const std::string name = fmt::format("{} ({})", row.name, row.variant);
    const Support* support = support_of(row.name);
    if (!support) {
      problems.push_back(name + ": not in the matrix");
      continue;
    }
    const auto check = [&](const Cell& cell) {
      if (!in_sample()) return;
      const std::string wrong = check_cell(row, *support, cell);
      if (!wrong.empty())
        problems.push_back(fmt::format("{}, {}: {}", name, to_string(cell), wrong));
    };
    for (const DType dtype : kDTypes)
      for (const Placement placement : kPlacements) {
        check({dtype, device, placement, Placement::Dense});
        if (!row.parameters.empty() && placement != Placement::Dense)
          check({dtype, device, Placement::Dense, placement});
      }
    for (const std::string& wrong : check_mixtures(row, *support, device, other))
      problems.push_back(name + ": " + wrong);
  }
  constexpr std::size_t kShown = 20;
  const auto shown =
      problems.begin() + static_cast<std::ptrdiff_t>(std::min(problems.size(), kShown));
  if (problems.empty()) return "";
  return fmt::format("{} cells are not as declared, first of them:\n{}", problems.size(),
                     fmt::join(problems.begin(), shown, "\n"));
}

}  // namespace nibble::testing
