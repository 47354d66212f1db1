#include "tensor/tensor.h"

#include "tensor/kernels.h"
#include "tensor/rng.h"

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#endif

namespace nibble {
namespace {

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

bool strides_are_contiguous(const Shape& shape, const Shape& strides) {
  std::int64_t expected = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

// fp8 payloads are bytes to the host.
bool readable_as(DType actual, DType wanted) {
  return actual == wanted ||
         (wanted == DType::U8 &&
          (actual == DType::E4M3 || actual == DType::E5M2 || actual == DType::U4x2));
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  for (const std::int64_t d : shape)
    NIBBLE_CHECK(d >= 0, "tensor", "negative extent: got shape {}", shape);
  auto impl = Ref<detail::TensorImpl>::make();
  impl->storage = Ref<Storage>::make(bytes_of(dtype, shape.numel()), device);
  impl->shape = shape;
  impl->strides = contiguous_strides(shape);
  impl->dtype = dtype;
  return Tensor(std::move(impl));
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  return full(shape, 0, dtype, device);
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor y = empty(shape, dtype, device);
  y.fill(value);
  return y;
}

Tensor Tensor::arange(std::int64_t n, DType dtype, Device device) {
  std::vector<double> values(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = static_cast<double>(i);
  return from(values, {n}).to(dtype).to(device);
}

template <class T>
Tensor Tensor::from(std::span<const T> values, const Shape& shape, Device device) {
  NIBBLE_CHECK(static_cast<std::int64_t>(values.size()) == shape.numel(), "tensor",
               "got {} values for shape {}, expected {}", values.size(), shape, shape.numel());
  Tensor y = empty(shape, dtype_of<T>, kCpu);
  std::copy(values.begin(), values.end(), y.data<T>());
  return y.to(device);
}
template Tensor Tensor::from(std::span<const double>, const Shape&, Device);
template Tensor Tensor::from(std::span<const float>, const Shape&, Device);
template Tensor Tensor::from(std::span<const bfloat16>, const Shape&, Device);
template Tensor Tensor::from(std::span<const std::int32_t>, const Shape&, Device);
template Tensor Tensor::from(std::span<const std::uint8_t>, const Shape&, Device);
template Tensor Tensor::from(std::span<const std::int8_t>, const Shape&, Device);

Tensor Tensor::uniform(const Shape& shape, double low, double high, const RngKey& key, DType dtype,
                       Device device) {
  Tensor y = empty(shape, DType::F32, device);
  NIBBLE_DISPATCH(device, random_uniform(y, low, high, key));
  return y.to(dtype);
}

Tensor Tensor::normal(const Shape& shape, double mean, double stddev, const RngKey& key,
                      DType dtype, Device device) {
  Tensor y = empty(shape, DType::F32, device);
  NIBBLE_DISPATCH(device, random_normal(y, mean, stddev, key));
  return y.to(dtype);
}

const void* Tensor::checked(DType expected) const {
  NIBBLE_CHECK(readable_as(dtype(), expected), "tensor", "got dtype {}, expected {}", dtype(),
               expected);
  return raw_pointer();
}

std::byte* Tensor::raw_pointer() const {
  NIBBLE_CHECK(!device().is_meta(), "tensor", "a meta tensor has no data: {}", describe(*this));
  return impl().storage->data() + bytes_of(dtype(), impl().offset);
}

Tensor Tensor::strided(const Shape& shape, const Shape& strides, std::int64_t offset) const {
  auto impl = Ref<detail::TensorImpl>::make();
  impl->storage = this->impl().storage;
  impl->offset = offset;
  impl->shape = shape;
  impl->strides = strides;
  impl->dtype = dtype();
  impl->contiguous = strides_are_contiguous(shape, strides);
  return Tensor(std::move(impl));
}

Tensor Tensor::view(const Shape& wanted) const {
  NIBBLE_CHECK(is_contiguous(), "view",
               "needs a contiguous tensor: got {} with strides {}; "
               "ops::contiguous() copies it first",
               describe(*this), strides());
  Shape shape = wanted;
  int inferred = -1;
  std::int64_t known = 1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] != -1) {
      known *= shape[i];
      continue;
    }
    NIBBLE_CHECK(inferred < 0, "view", "two extents are -1: got {}", wanted);
    inferred = i;
  }
  if (inferred >= 0) shape[inferred] = known == 0 ? 0 : numel() / known;
  NIBBLE_CHECK(shape.numel() == numel(), "view", "got shape {} for {} elements ({})", wanted,
               numel(), this->shape());
  return strided(shape, contiguous_strides(shape), impl().offset);
}

Tensor Tensor::transpose(int a, int b) const {
  NIBBLE_CHECK(dtype() != DType::U4x2, "transpose", "packed codes cannot be viewed transposed: {}",
               describe(*this));
  Shape shape = this->shape(), strides = this->strides();
  std::swap(shape[a], shape[b]);
  std::swap(strides[a], strides[b]);
  return strided(shape, strides, impl().offset);
}

Tensor Tensor::t() const {
  NIBBLE_CHECK(rank() == 2, "t", "got rank {}, expected a matrix: {}", rank(), describe(*this));
  return transpose(0, 1);
}

Tensor Tensor::permute(std::initializer_list<int> dims) const {
  NIBBLE_CHECK(static_cast<int>(dims.size()) == rank(), "permute", "got {} dimensions for {}",
               dims.size(), describe(*this));
  Shape shape, strides;
  unsigned seen = 0;
  for (const int d : dims) {
    shape.push_back(size(d));
    strides.push_back(this->strides()[d]);
    seen |= 1u << this->shape().index(d);
  }
  NIBBLE_CHECK(seen == (1u << rank()) - 1, "permute", "a dimension is named twice for {}",
               describe(*this));
  return strided(shape, strides, impl().offset);
}

Tensor Tensor::slice(int dim, std::int64_t begin, std::int64_t end) const {
  NIBBLE_CHECK(begin >= 0 && begin <= end && end <= size(dim), "slice",
               "got [{}, {}) along dimension {} of {}", begin, end, dim, describe(*this));
  Shape shape = this->shape();
  shape[dim] = end - begin;
  const std::int64_t offset = impl().offset + begin * strides()[dim];
  NIBBLE_CHECK(dtype() != DType::U4x2 || offset % 2 == 0, "slice",
               "packed codes can be cut at even places only: {}", describe(*this));
  return strided(shape, strides(), offset);
}

Tensor Tensor::select(int dim, std::int64_t index) const {
  return slice(dim, index, index + 1).squeeze(dim);
}

Tensor Tensor::expand(const Shape& wanted) const {
  NIBBLE_CHECK(broadcast_shapes("expand", shape(), wanted) == wanted, "expand", "got {} to {}",
               shape(), wanted);
  Shape strides = wanted;
  for (int i = 0; i < wanted.rank(); ++i) {
    const int own = i - (wanted.rank() - rank());
    strides[i] = own < 0 || (size(own) == 1 && wanted[i] != 1) ? 0 : this->strides()[own];
  }
  return strided(wanted, strides, impl().offset);
}

Tensor Tensor::squeeze(int dim) const {
  NIBBLE_CHECK(size(dim) == 1, "squeeze", "dimension {} is not 1: {}", dim, describe(*this));
  Shape shape, strides;
  for (int i = 0; i < rank(); ++i) {
    if (i == this->shape().index(dim)) continue;
    shape.push_back(size(i));
    strides.push_back(this->strides()[i]);
  }
  return strided(shape, strides, impl().offset);
}

Tensor Tensor::unsqueeze(int dim) const {
  const int at = dim < 0 ? dim + rank() + 1 : dim;
  NIBBLE_CHECK(at >= 0 && at <= rank(), "unsqueeze", "dimension {} is out of range for {}", dim,
               describe(*this));
  Shape shape, strides;
  for (int i = 0; i <= rank(); ++i) {
    if (i == at) {
      shape.push_back(1);
      strides.push_back(1);
    }
    if (i == rank()) break;
    shape.push_back(size(i));
    strides.push_back(this->strides()[i]);
  }
  return strided(shape, strides, impl().offset);
}

Tensor Tensor::clone() const {
  Tensor y = empty(shape(), dtype(), device());
  y.copy_from(*this);
  return y;
}

Tensor Tensor::to(DType wanted) const {
  if (dtype() == wanted) return *this;
  Tensor y = empty(shape(), wanted, device());
  y.copy_from(*this);
  return y;
}

Tensor Tensor::to(Device wanted) const {
  if (device() == wanted) return *this;
  check_available(wanted);
  Tensor y = empty(shape(), dtype(), wanted);
  if (wanted.is_meta()) return y;
  NIBBLE_CHECK(!device().is_meta(), "to", "a meta tensor has no data: cannot move {} to {}",
               describe(*this), wanted);
#ifdef NIBBLE_CUDA_BACKEND
  const Tensor x = is_contiguous() ? *this : clone();
  const auto bytes = static_cast<std::size_t>(x.bytes());
  if (bytes == 0) return y;
  if (device().is_cpu()) {
    cuda::use(wanted.index);
    cuda::copy_to_device(y.raw(), x.raw(), bytes);
  } else if (wanted.is_cpu()) {
    cuda::use(device().index);
    cuda::copy_to_host(y.raw(), x.raw(), bytes);
  } else {
    const Tensor host = x.to(kCpu);
    return host.to(wanted);
  }
#endif
  return y;
}

void Tensor::copy_from(const Tensor& source) {
  NIBBLE_CHECK(shape() == source.shape(), "copy", "got {} into {}", describe(source),
               describe(*this));
  if (device() != source.device()) return copy_from(source.to(device()));
  if (numel() > 0) NIBBLE_DISPATCH(device(), copy(*this, source));
  bump_version();
}

void Tensor::fill(double value) {
  if (numel() > 0) NIBBLE_DISPATCH(device(), fill(*this, value));
  bump_version();
}

double Tensor::item() const {
  NIBBLE_CHECK(numel() == 1, "item", "got {}, expected one element", describe(*this));
  return to_vector<double>()[0];
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  if (device().is_cuda()) return to(kCpu).template to_vector<T>();
  const Tensor x = (is_contiguous() && dtype() == dtype_of<T> ? *this : [&] {
    Tensor y = empty(shape(), dtype_of<T>, device());
    y.copy_from(*this);
    return y;
  }());
  const T* p = x.data<T>();
  return std::vector<T>(p, p + numel());
}
template std::vector<double> Tensor::to_vector() const;
template std::vector<float> Tensor::to_vector() const;
template std::vector<std::int32_t> Tensor::to_vector() const;
template std::vector<std::uint8_t> Tensor::to_vector() const;
template std::vector<std::int8_t> Tensor::to_vector() const;

std::string describe(const Tensor& x) {
  if (!x.defined()) return "undefined";
  return fmt::format("{}{} on {}", x.dtype(), x.shape(), x.device());
}

}  // namespace nibble
