#include "tensor/kernel_trace.h"

#include "tensor/check.h"

#ifdef NIBBLE_HAS_CUPTI
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "tensor/cuda/context.h"
#endif

namespace nibble {

#ifndef NIBBLE_HAS_CUPTI

KernelTrace::KernelTrace(Device device) : device_(device) {
  NIBBLE_CHECK(device.is_cuda(), "kernels", "got device {}, expected a GPU", device);
  fail("kernels",
       "this build has no CUPTI; install it with the CUDA Toolkit (extras/CUPTI) and configure "
       "again");
}
KernelTrace::~KernelTrace() = default;
void KernelTrace::start() {}
std::vector<KernelRun> KernelTrace::stop() { return {}; }

#else

namespace {

constexpr const char* kOp = "kernels";
#if CUPTI_API_VERSION >= 130000
using KernelRecord = CUpti_ActivityKernel10;
#else
using KernelRecord = CUpti_ActivityKernel9;
#endif
using CopyRecord = CUpti_ActivityMemcpy6;
using FillRecord = CUpti_ActivityMemset4;
constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

// CUPTI's functions, found at run time: linked, a machine without it could not start the program.
struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks;
  decltype(&cuptiActivityEnable) enable;
  decltype(&cuptiActivityDisable) disable;
  decltype(&cuptiActivityFlushAll) flush;
  decltype(&cuptiActivityGetNextRecord) next;
  decltype(&cuptiActivityGetNumDroppedRecords) dropped;
  decltype(&cuptiGetResultString) text;

  void check(CUptiResult status, const char* call) const {
    if (status == CUPTI_SUCCESS) return;
    const char* words = nullptr;
    (void)text(status, &words);
    fail(kOp, "{}: {}", call, words ? words : "unknown error");
  }
};

void* open_library() {
  const std::string name = fmt::format("libcupti.so.{}", CUDART_VERSION / 1000);
  // The loader's paths (LD_LIBRARY_PATH), then where it lay when this was built.
  for (const std::string& file : {name, std::string(NIBBLE_CUPTI_FOLDER "/") + name})
    if (void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  fail(kOp, "{} was not found; install CUPTI (CUDA Toolkit) or name its folder in LD_LIBRARY_PATH",
       name);
}

const Cupti& cupti() {
  static const Cupti loaded = [] {
    void* library = open_library();
    const auto find = [&](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)> >(dlsym(library, name));
      NIBBLE_CHECK(function, kOp, "libcupti has no {}: it is older than this build expects", name);
    };
    Cupti c{};
    find(c.register_callbacks, "cuptiActivityRegisterCallbacks");
    find(c.enable, "cuptiActivityEnable");
    find(c.disable, "cuptiActivityDisable");
    find(c.flush, "cuptiActivityFlushAll");
    find(c.next, "cuptiActivityGetNextRecord");
    find(c.dropped, "cuptiActivityGetNumDroppedRecords");
    find(c.text, "cuptiGetResultString");
    return c;
  }();
  return loaded;
}

// What CUPTI's callbacks, on threads of its own, leave for stop(). Names are still mangled.
struct Records {
  std::mutex mutex;
  std::vector<KernelRun> runs;
  std::int64_t untimed = 0;
};
Records& records() {
  static Records all;
  return all;
}
std::atomic<bool> g_alive{false};

const char* copy_name(std::uint8_t kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD: return "copy host to device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH: return "copy device to host";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD: return "copy on the device";
    default: return "copy";
  }
}

void keep(const CUpti_Activity* record) {
  Records& all = records();
  const auto add = [&](const char* name, std::uint64_t begin, std::uint64_t end) {
    if (end == 0)
      ++all.untimed;
    else
      all.runs.push_back({name, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)});
  };
  if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
    const auto* r = reinterpret_cast<const KernelRecord*>(record);
    add(r->name ? r->name : "unnamed", r->start, r->end);
  } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const auto* r = reinterpret_cast<const CopyRecord*>(record);
    add(copy_name(r->copyKind), r->start, r->end);
  } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
    const auto* r = reinterpret_cast<const FillRecord*>(record);
    add("fill", r->start, r->end);
  }
}

constexpr std::size_t kBufferBytes = std::size_t{4} << 20, kAlignment = 64;

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* most) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(kAlignment, kBufferBytes));
  *size = *buffer ? kBufferBytes : 0;
  *most = 0;  // as many as fit
}
void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t,
                          std::size_t valid) {
  const std::unique_ptr<std::uint8_t, decltype(&std::free)> owner(buffer, &std::free);
  const std::lock_guard lock(records().mutex);
  CUpti_Activity* record = nullptr;
  while (valid > 0 && cupti().next(buffer, valid, &record) == CUPTI_SUCCESS) keep(record);
}

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
  return status == 0 && text ? text.get() : name;
}

void enable() {
  for (const CUpti_ActivityKind kind : kKinds) cupti().check(cupti().enable(kind), "enable");
}
void disable() {
  for (const CUpti_ActivityKind kind : kKinds) (void)cupti().disable(kind);
}

}  // namespace

KernelTrace::KernelTrace(Device device) : device_(device) {
  NIBBLE_CHECK(device.is_cuda(), kOp, "got device {}, expected a GPU", device);
  cuda::use(device.index);
  (void)cupti();
  NIBBLE_CHECK(!g_alive.exchange(true), kOp, "a trace is being taken already");
  try {
    cupti().check(cupti().register_callbacks(&give_buffer, &take_buffer), "register callbacks");
    enable();  // once, so that it sees every module and graph that is loaded from here on
    disable();
  } catch (...) {
    g_alive = false;
    throw;
  }
}
KernelTrace::~KernelTrace() {
  disable();
  g_alive = false;
}

void KernelTrace::start() {
  cuda::use(device_.index);
  cuda::wait();
  cupti().check(cupti().flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "flush");
  {
    const std::lock_guard lock(records().mutex);
    records().runs.clear();
    records().untimed = 0;
  }
  enable();
}

std::vector<KernelRun> KernelTrace::stop() {
  cuda::use(device_.index);
  cuda::wait();
  disable();
  cupti().check(cupti().flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "flush");
  std::size_t dropped = 0;
  cupti().check(cupti().dropped(nullptr, 0, &dropped), "count dropped records");
  std::vector<KernelRun> runs;
  {
    const std::lock_guard lock(records().mutex);
    runs = std::exchange(records().runs, {});
    NIBBLE_CHECK(dropped == 0 && records().untimed == 0, kOp,
                 "CUPTI lost {} records and could not time {}", dropped, records().untimed);
  }
  std::unordered_map<std::string, std::string> known;
  for (KernelRun& run : runs) {
    std::string& name = known[run.name];
    if (name.empty()) name = demangled(run.name);
    run.name = name;
  }
  std::ranges::sort(runs, {}, &KernelRun::begin);
  return runs;
}

#endif

}  // namespace nibble
