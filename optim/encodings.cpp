#include "optim/encodings.h"

#include "optim/kernels.h"

namespace nibble {
namespace {

bool is_vectorized(const Tensor& x) {
  return x.device().is_meta() || reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0;
}

// Codes of a byte whose step needs nothing but the largest magnitude of its tile.
std::string spec_refusal(const QuantSpec& s) {
  if (s.rounding == Rounding::Stochastic) return "noise, which is drawn step by step";
  if (s.packed) return "packed codes";
  if (!s.format.is_integer() && s.format != Format::floating(4, 3))
    return "formats other than integers and e4m3";
  if (!s.symmetric) return "zero points";
  if (s.scale != ScaleType::F32) return "scales other than f32";
  if (s.floor.relative) return "scales that know each other";
  if (s.arithmetic != Arithmetic::F32) return "bf16 arithmetic";
  if (s.calibration.kind != Calibration::Kind::AbsMax) return "calibration other than absmax";
  return "";
}

// Extents of a tile of x [rows, cols].
std::string tile_refusal(const Tile& tile, std::int64_t rows, std::int64_t cols) {
  const bool by_row = tile.rows == 1, by_col = tile.cols == 1;
  const bool whole_rows = tile.rows >= rows || tile.rows % kRecodeRows == 0;
  const bool whole_cols = tile.cols >= cols || tile.cols % kRecodeCols == 0;
  if ((by_row && by_col) || !(by_row || whole_rows) || !(by_col || whole_cols))
    return "tiles other than rows, columns and multiples of 128 x 64";
  return "";
}

std::string codes_refusal(const Tensor& x, const QTensor& codes, bool transposed) {
  if (x.dtype() != DType::F32 && x.dtype() != DType::BF16) return "weights other than f32 and bf16";
  const QuantSpec& spec = codes.spec();
  if (std::string why = spec_refusal(spec); !why.empty()) return to_string(spec) + ": " + why;
  const std::int64_t rows = x.rows(), cols = x.cols();
  if (rows == 0 || cols == 0 || rows % 16 != 0 || cols % 8 != 0 ||
      rows * cols >= std::int64_t{1} << 40)
    return "extents that are no multiples of 16 rows and 8 columns";
  const Tile tile = spec.resolve(codes.rows(), codes.cols());
  if (std::string why = tile_refusal(transposed ? tile.t() : tile, rows, cols); !why.empty())
    return to_string(spec) + ": " + why;
  if (!x.is_contiguous() || !is_vectorized(x) || !is_vectorized(codes.payload()))
    return "weights at addresses that are no multiples of 16 bytes";
  return "";
}

// What there is to do, in one call for all parameters.
class Rewrite {
 public:
  void add(const Value& value, Parameter::Form& form) {
    const auto& x = std::get<Tensor>(value);
    if (const auto* codes = std::get_if<QTensor>(&form.value)) {
      codes_.push_back({x.view({x.rows(), x.cols()}), *codes, form.transposed});
    } else {
      to_.push_back(std::get<Tensor>(form.value));
      from_.push_back(x);
    }
    form.stale = true;  // until it is written
    forms_.push_back(&form);
  }
  void run() {
    if (!codes_.empty()) NIBBLE_DISPATCH(codes_.front().x.device(), recode(codes_));
    if (!to_.empty()) NIBBLE_DISPATCH(to_.front().device(), cast_all(to_, from_));
    for (Recoded& r : codes_) r.codes.payload().bump_version(), r.codes.scales().bump_version();
    for (Tensor& t : to_) t.bump_version();
    for (Parameter::Form* f : forms_) f->used = f->stale = false;
  }

 private:
  std::vector<Recoded> codes_;
  std::vector<Tensor> to_, from_;
  std::vector<Parameter::Form*> forms_;
};

}  // namespace

std::string encoding_refusal(const Value& value, const Parameter::Form& form) {
  const auto* x = std::get_if<Tensor>(&value);
  if (!x) return "weights are codes";
  if (const auto* codes = std::get_if<QTensor>(&form.value))
    return codes_refusal(*x, *codes, form.transposed);
  const bool narrows =
      x->dtype() == DType::F32 && std::get<Tensor>(form.value).dtype() == DType::BF16;
  return narrows && x->is_contiguous() ? "" : "copies other than bf16 of f32";
}

void hold_encodings(const std::vector<Parameter*>& parameters) {
  for (Parameter* p : parameters) {
    if (p->forms_fixed()) continue;
    for (Parameter::Form& f : p->forms())
      f.kept = f.used && encoding_refusal(p->value(), f).empty();
  }
}

void refresh_encodings(const std::vector<Parameter*>& parameters) {
  Rewrite work;
  for (Parameter* p : parameters) {
    std::erase_if(p->forms(), [](const Parameter::Form& f) { return !f.kept; });
    for (Parameter::Form& f : p->forms()) work.add(p->value(), f);
    p->count_version();
  }
  work.run();
}

void keep_encodings(const std::vector<Parameter*>& parameters) {
  Rewrite work;
  for (Parameter* p : parameters) {
    std::erase_if(p->forms(), [](const Parameter::Form& f) { return !f.kept; });
    for (Parameter::Form& f : p->forms())
      if (f.stale) work.add(p->value(), f);
    p->fix_forms();
    p->count_version();
  }
  work.run();
}

std::vector<LazyEncoding> lazy_encodings(const std::vector<Parameter*>& parameters) {
  std::vector<LazyEncoding> out;
  for (Parameter* p : parameters)
    for (const Parameter::Form& f : p->forms())
      if (std::string why = encoding_refusal(p->value(), f); !why.empty())
        out.push_back({p->name, std::move(why)});
  return out;
}

}  // namespace nibble
