#include "apps/run/events.h"

#include <chrono>

#include "apps/run/protobuf.h"
#include "apps/run/records.h"
#include "tensor/atomic_file.h"
#include "tensor/check.h"

namespace nibble::run {
namespace {

namespace fs = std::filesystem;

// Field numbers of TensorFlow's event.proto, summary.proto and tensor.proto.
namespace event {
enum { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5 };
}
namespace summary {
enum { kValue = 1 };
}
namespace value {
enum { kTag = 1, kSimpleValue = 2, kHistogram = 5, kTensor = 8, kMetadata = 9 };
}
namespace histogram_proto {
enum { kMin = 1, kMax = 2, kCount = 3, kSum = 4, kSumOfSquares = 5, kLimit = 6, kBucket = 7 };
}
namespace tensor {
enum { kDtype = 1, kShape = 2, kString = 8 };
constexpr std::uint64_t kDtypeString = 7;
}  // namespace tensor

std::string event_record(double wall_time, std::int64_t step, int field, std::string_view payload) {
  ProtoWriter message;
  message.real64(event::kWallTime, wall_time);
  if (step != 0) message.integer(event::kStep, static_cast<std::uint64_t>(step));
  message.bytes(field, payload);
  return frame_record(message.message());
}

std::string encode(const Histogram& h) {
  ProtoWriter message;
  const std::pair<int, double> reals[] = {{histogram_proto::kMin, h.min},
                                          {histogram_proto::kMax, h.max},
                                          {histogram_proto::kCount, h.count},
                                          {histogram_proto::kSum, h.sum},
                                          {histogram_proto::kSumOfSquares, h.sum_of_squares}};
  for (const auto& [field, real] : reals) {
    if (real != 0) message.real64(field, real);
  }
  message.packed(histogram_proto::kLimit, h.limit);
  message.packed(histogram_proto::kBucket, h.bucket);
  return message.message();
}

Histogram decode_histogram(std::string_view bytes) {
  Histogram h;
  for (ProtoReader reader(bytes); const auto field = reader.next();) {
    std::vector<double>* packed = nullptr;
    switch (field->number) {
      case histogram_proto::kMin: h.min = field->real64(); break;
      case histogram_proto::kMax: h.max = field->real64(); break;
      case histogram_proto::kCount: h.count = field->real64(); break;
      case histogram_proto::kSum: h.sum = field->real64(); break;
      case histogram_proto::kSumOfSquares: h.sum_of_squares = field->real64(); break;
      case histogram_proto::kLimit: packed = &h.limit; break;
      case histogram_proto::kBucket: packed = &h.bucket; break;
      default: break;
    }
    for (std::size_t at = 0; packed != nullptr && at + 8 <= field->bytes.size(); at += 8) {
      packed->push_back(std::bit_cast<double>(ProtoReader::fixed(field->bytes.substr(at), 8)));
    }
  }
  return h;
}

void decode_value(std::string_view bytes, EventValue& out) {
  for (ProtoReader reader(bytes); const auto field = reader.next();) {
    if (field->number == value::kTag) out.tag = field->bytes;
    if (field->number == value::kSimpleValue) out.scalar = field->real32();
    if (field->number == value::kHistogram) out.histogram = decode_histogram(field->bytes);
    if (field->number != value::kTensor) continue;
    for (ProtoReader inner(field->bytes); const auto part = inner.next();) {
      if (part->number == tensor::kString) out.text = std::string(part->bytes);
    }
  }
}

std::int64_t step_of(std::string_view record) {
  for (ProtoReader reader(record); const auto field = reader.next();) {
    if (field->number == event::kStep) return static_cast<std::int64_t>(field->bits);
  }
  return 0;
}

fs::path make_file(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  NIBBLE_CHECK(!error, "events", "cannot make {}: {}", folder.string(), error_text(error.value()));
  return EventWriter::file_in(folder);
}

}  // namespace

EventWriter::EventWriter(const fs::path& folder, Clock clock)
    : clock_(std::move(clock)), file_(make_file(folder), "events") {
  // A file begins with its version, which is what marks it as TensorBoard's.
  if (file_.empty()) file_.append(event_record(clock_(), 0, event::kFileVersion, "brain.Event:2"));
}

fs::path EventWriter::file_in(const fs::path& folder) {
  return folder / "events.out.tfevents.nibble";
}

EventWriter::Clock EventWriter::system_clock() {
  return [] {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration<double>(now).count();
  };
}

void EventWriter::write(std::int64_t step, std::string_view summary) {
  file_.append(event_record(clock_(), step, event::kSummary, summary));
}

void EventWriter::scalars(std::int64_t step,
                          std::span<const std::pair<std::string, double>> values) {
  ProtoWriter all;
  for (const auto& [tag, scalar] : values) {
    ProtoWriter one;
    one.bytes(value::kTag, tag);
    one.real32(value::kSimpleValue, static_cast<float>(scalar));
    all.bytes(summary::kValue, one.message());
  }
  write(step, all.message());
}

void EventWriter::scalar(std::int64_t step, const std::string& tag, double value) {
  const std::pair<std::string, double> one[] = {{tag, value}};
  scalars(step, one);
}

void EventWriter::histogram(std::int64_t step, const std::string& tag, const Histogram& histogram) {
  ProtoWriter one, all;
  one.bytes(value::kTag, tag);
  one.bytes(value::kHistogram, encode(histogram));
  all.bytes(summary::kValue, one.message());
  write(step, all.message());
}

void EventWriter::text(std::int64_t step, const std::string& tag, const std::string& text) {
  ProtoWriter dimension, shape, content, plugin, metadata, one, all;
  dimension.integer(/*size*/ 1, 1);
  shape.bytes(/*dim*/ 2, dimension.message());
  content.integer(tensor::kDtype, tensor::kDtypeString);
  content.bytes(tensor::kShape, shape.message());
  content.bytes(tensor::kString, text);
  plugin.bytes(/*plugin_name*/ 1, "text");
  metadata.bytes(/*plugin_data*/ 1, plugin.message());
  one.bytes(value::kTag, tag);
  one.bytes(value::kTensor, content.message());
  one.bytes(value::kMetadata, metadata.message());
  all.bytes(summary::kValue, one.message());
  write(step, all.message());
}

std::vector<EventValue> read_events(const fs::path& folder) {
  Records records;
  read_records(EventWriter::file_in(folder), records);
  std::vector<EventValue> values;
  for (const std::string_view record : records.payloads) {
    EventValue common;
    common.step = step_of(record);
    for (ProtoReader reader(record); const auto field = reader.next();) {
      if (field->number == event::kWallTime) common.wall_time = field->real64();
      if (field->number != event::kSummary) continue;
      for (ProtoReader inner(field->bytes); const auto part = inner.next();) {
        if (part->number == summary::kValue) decode_value(part->bytes, values.emplace_back(common));
      }
    }
  }
  return values;
}

Truncation truncate_events_after(const fs::path& folder, std::int64_t step) {
  Records records;
  read_records(EventWriter::file_in(folder), records);
  Truncation result;
  result.torn_bytes = records.torn_bytes;
  std::string kept;
  for (std::size_t i = 0; i < records.payloads.size(); ++i) {
    if (step_of(records.payloads[i]) > step) {
      ++result.removed;
    } else {
      ++result.kept;
      kept += records.framed[i];
    }
  }
  if (kept.size() != records.bytes.size()) {
    write_file_atomically(EventWriter::file_in(folder), kept, "events");
  }
  return result;
}

}  // namespace nibble::run
