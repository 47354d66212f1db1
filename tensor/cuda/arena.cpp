#include "tensor/cuda/arena.h"

#include <cudaTypedefs.h>

#include <vector>

#include "tensor/cuda/context.h"

namespace nibble::cuda {
namespace {

// Through the runtime, so that programs link without the driver's library.
template <class Function>
Function driver_function(const char* name) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
  NIBBLE_CUDA_CHECK(
      cudaGetDriverEntryPointByVersion(name, &entry, 12000, cudaEnableDefault, &found));
  NIBBLE_CHECK(found == cudaDriverEntryPointSuccess && entry, "cuda",
               "the driver has no {}; it needs CUDA 12.0 or later", name);
  return reinterpret_cast<Function>(entry);
}

struct Driver {
  PFN_cuMemAddressReserve_v10020 reserve =
      driver_function<PFN_cuMemAddressReserve_v10020>("cuMemAddressReserve");
  PFN_cuMemCreate_v10020 create = driver_function<PFN_cuMemCreate_v10020>("cuMemCreate");
  PFN_cuMemRelease_v10020 release = driver_function<PFN_cuMemRelease_v10020>("cuMemRelease");
  PFN_cuMemMap_v10020 map = driver_function<PFN_cuMemMap_v10020>("cuMemMap");
  PFN_cuMemUnmap_v10020 unmap = driver_function<PFN_cuMemUnmap_v10020>("cuMemUnmap");
  PFN_cuMemSetAccess_v10020 set_access =
      driver_function<PFN_cuMemSetAccess_v10020>("cuMemSetAccess");
};
const Driver& driver() {
  static const Driver d;
  return d;
}

void check(CUresult result, const char* what) {
  NIBBLE_CHECK(result == CUDA_SUCCESS, "cuda", "{} failed: driver error {}", what,
               static_cast<int>(result));
}

constexpr std::int64_t kPiece = kArenaPiece;
// Addresses cost nothing; more of them than memory, because what is given back in the middle leaves
// a hole that is not filled again.
constexpr std::int64_t kAddresses = 8;

class Arena : public BlockSource {
 public:
  Arena() : device_(current()) {
    const auto total = static_cast<std::int64_t>(memory_info().total);
    most_ = kAddresses * (total / kPiece + 1);
    CUdeviceptr begin = 0;
    check(driver().reserve(&begin, static_cast<std::size_t>(most_ * kPiece), kPiece, 0, 0),
          "reserving addresses");
    begin_ = begin;
  }

  std::byte* end() const override { return at(pieces()); }

  std::int64_t grow(std::int64_t bytes) override {
    const std::int64_t first = pieces(), count = (bytes + kPiece - 1) / kPiece;
    if (count > most_ - first) return 0;
    for (std::int64_t i = 0; i < count; ++i)
      if (!map_next()) {
        unmap(first, pieces());
        return 0;
      }
    CUmemAccessDesc access{};
    access.location = location();
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    check(driver().set_access(address(first), static_cast<std::size_t>(count * kPiece), &access, 1),
          "opening memory");
    return count * kPiece;
  }

  std::pair<std::byte*, std::int64_t> release(std::byte* from, std::int64_t bytes) override {
    const auto offset = static_cast<std::int64_t>(reinterpret_cast<CUdeviceptr>(from) - begin_);
    const std::int64_t first = (offset + kPiece - 1) / kPiece, last = (offset + bytes) / kPiece;
    if (last <= first) return {from, 0};
    std::byte* const gone = at(first);
    unmap(first, last);
    return {gone, (last - first) * kPiece};
  }

 private:
  std::int64_t pieces() const { return static_cast<std::int64_t>(handles_.size()); }
  CUdeviceptr address(std::int64_t piece) const {
    return begin_ + static_cast<CUdeviceptr>(piece * kPiece);
  }
  std::byte* at(std::int64_t piece) const { return reinterpret_cast<std::byte*>(address(piece)); }
  CUmemLocation location() const {
    CUmemLocation l{};
    l.type = CU_MEM_LOCATION_TYPE_DEVICE;
    l.id = device_;
    return l;
  }
  // False when the device has no memory left.
  bool map_next() {
    CUmemAllocationProp properties{};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = location();
    CUmemGenericAllocationHandle handle = 0;
    const CUresult created = driver().create(&handle, kPiece, &properties, 0);
    if (created == CUDA_ERROR_OUT_OF_MEMORY) return false;
    check(created, "taking memory");
    check(driver().map(address(pieces()), kPiece, 0, handle, 0), "mapping memory");
    handles_.push_back(handle);
    return true;
  }
  void unmap(std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      check(driver().unmap(address(i), kPiece), "unmapping memory");
      check(driver().release(handles_[static_cast<std::size_t>(i)]), "giving memory back");
      handles_[static_cast<std::size_t>(i)] = 0;
    }
    while (!handles_.empty() && handles_.back() == 0) handles_.pop_back();
  }

  int device_;
  CUdeviceptr begin_ = 0;
  std::int64_t most_ = 0;                              // pieces
  std::vector<CUmemGenericAllocationHandle> handles_;  // by place; 0: given back
};

}  // namespace

std::unique_ptr<BlockSource> make_arena() { return std::make_unique<Arena>(); }

}  // namespace nibble::cuda
