#include "data/byte_source.h"

#include <lzma.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <system_error>

#include "tensor/check.h"

namespace nibble {
namespace {

constexpr const char* kOp = "data";

class PlainSource final : public ByteSource {
 public:
  explicit PlainSource(const std::filesystem::path& path) : path_(path.string()) {
    NIBBLE_CHECK(!std::filesystem::is_directory(path), kOp, "{} is a folder, expected a file",
                 path_);
    file_.reset(std::fopen(path_.c_str(), "rb"));
    NIBBLE_CHECK(file_, kOp, "cannot open {}: {}", path_, std::generic_category().message(errno));
  }
  std::size_t read(char* bytes, std::size_t count) override {
    const std::size_t got = std::fread(bytes, 1, count, file_.get());
    NIBBLE_CHECK(got == count || std::ferror(file_.get()) == 0, kOp, "cannot read {}: {}", path_,
                 std::generic_category().message(errno));
    return got;
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

// A decompressor fed from a file: what .gz and .xz have in common.
class CompressedSource : public ByteSource {
 public:
  explicit CompressedSource(const std::filesystem::path& path)
      : path_(path.string()), file_(path) {}

 protected:
  // The next compressed bytes; `ended` is set with the last ones.
  std::size_t refill() {
    const std::size_t got = file_.read(input_.data(), input_.size());
    ended_ = got < input_.size();
    return got;
  }
  [[noreturn]] void cut_off() const { fail(kOp, "{} is cut off", path_); }
  [[noreturn]] void damaged(std::string_view kind) const {
    fail(kOp, "{} is not a {} file, or damaged", path_, kind);
  }

  std::string path_;
  PlainSource file_;
  std::array<char, 1 << 16> input_;
  bool ended_ = false;
};

class GzipSource final : public CompressedSource {
 public:
  explicit GzipSource(const std::filesystem::path& path) : CompressedSource(path) {
    // 15 + 16: the largest window, gzip framing only.
    NIBBLE_CHECK(inflateInit2(&stream_, 15 + 16) == Z_OK, kOp, "out of memory reading {}", path_);
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  std::size_t read(char* bytes, std::size_t count) override {
    std::size_t done = 0;
    while (done < count && !finished_) {
      if (stream_.avail_in == 0 && !ended_) {
        stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
        stream_.avail_in = static_cast<uInt>(refill());
      }
      if (stream_.avail_in == 0 && between_members_) {
        if (!any_member_) damaged("gzip");
        finished_ = true;
        break;
      }
      if (stream_.avail_in == 0) cut_off();
      inflate_some(bytes, count, done);
    }
    return done;
  }

 private:
  void inflate_some(char* bytes, std::size_t count, std::size_t& done) {
    const std::size_t room = std::min<std::size_t>(count - done, std::numeric_limits<uInt>::max());
    stream_.next_out = reinterpret_cast<Bytef*>(bytes + done);
    stream_.avail_out = static_cast<uInt>(room);
    between_members_ = false;
    const int status = inflate(&stream_, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) damaged("gzip");
    done += room - stream_.avail_out;
    if (status == Z_STREAM_END) {
      between_members_ = any_member_ = true;
      inflateReset(&stream_);
    }
  }

  z_stream stream_{};
  bool between_members_ = true;
  bool any_member_ = false;
  bool finished_ = false;
};

class XzSource final : public CompressedSource {
 public:
  explicit XzSource(const std::filesystem::path& path) : CompressedSource(path) {
    // No memory limit: the largest preset needs 65 MiB.
    const lzma_ret status =
        lzma_stream_decoder(&stream_, std::numeric_limits<std::uint64_t>::max(), LZMA_CONCATENATED);
    NIBBLE_CHECK(status == LZMA_OK, kOp, "out of memory reading {}", path_);
  }
  ~XzSource() override { lzma_end(&stream_); }

  std::size_t read(char* bytes, std::size_t count) override {
    stream_.next_out = reinterpret_cast<std::uint8_t*>(bytes);
    stream_.avail_out = count;
    while (stream_.avail_out > 0 && !finished_) {
      if (stream_.avail_in == 0 && !ended_) {
        stream_.next_in = reinterpret_cast<const std::uint8_t*>(input_.data());
        stream_.avail_in = refill();
      }
      const lzma_ret status = lzma_code(&stream_, ended_ ? LZMA_FINISH : LZMA_RUN);
      if (status == LZMA_BUF_ERROR) cut_off();
      if (status != LZMA_OK && status != LZMA_STREAM_END) damaged("xz");
      finished_ = status == LZMA_STREAM_END;
    }
    return count - stream_.avail_out;
  }

 private:
  lzma_stream stream_ = LZMA_STREAM_INIT;
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<ByteSource> open_bytes(const std::filesystem::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipSource>(path);
  if (path.extension() == ".xz") return std::make_unique<XzSource>(path);
  return std::make_unique<PlainSource>(path);
}

std::string read_whole_file(const std::filesystem::path& path) {
  PlainSource file(path);
  std::string text;
  std::array<char, 1 << 16> block;
  while (const std::size_t got = file.read(block.data(), block.size())) {
    text.append(block.data(), got);
  }
  return text;
}

}  // namespace nibble
