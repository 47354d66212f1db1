#include "data/shard.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <memory>

#include "tensor/check.h"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "shards hold little-endian integers");

constexpr const char* kOp = "data";
constexpr std::size_t kHeaderFields = 256;
using Header = std::array<std::int32_t, kHeaderFields>;

struct Form {
  std::int32_t magic;
  std::int32_t version;
};
constexpr Form kForm16{20240520, 1};
constexpr Form kForm32{20240801, 7};
constexpr Form form_of(TokenWidth width) { return width == TokenWidth::U16 ? kForm16 : kForm32; }

// 0 for a file too short to have one.
std::int32_t magic_of(std::span<const std::byte> bytes) {
  std::int32_t magic = 0;
  if (bytes.size() >= sizeof(magic)) std::memcpy(&magic, bytes.data(), sizeof(magic));
  return magic;
}

// Checks everything but the tokens; returns width and count.
std::pair<TokenWidth, std::int64_t> read_header(const std::string& path,
                                                std::span<const std::byte> bytes) {
  NIBBLE_CHECK(!bytes.empty(), kOp, "{} is empty", path);
  // The magic first: a short foreign file is better called foreign than cut off.
  const std::int32_t magic = magic_of(bytes);
  NIBBLE_CHECK(
      is_llmc_shard(bytes), kOp,
      "{} is not a token file: got magic {} expected {} or {}; hint: nibble tokenize makes "
      "them",
      path, magic, kForm16.magic, kForm32.magic);
  NIBBLE_CHECK(bytes.size() >= sizeof(Header), kOp,
               "{} is cut off: got {} bytes expected a header of {}", path, bytes.size(),
               sizeof(Header));
  Header header;
  std::memcpy(header.data(), bytes.data(), sizeof(header));
  const TokenWidth width = magic == kForm16.magic ? TokenWidth::U16 : TokenWidth::U32;
  NIBBLE_CHECK(header[1] == form_of(width).version, kOp, "{}: got version {} expected {}", path,
               header[1], form_of(width).version);
  NIBBLE_CHECK(header[2] > 0, kOp, "{}: the header declares {} tokens expected at least 1", path,
               header[2]);
  const std::size_t expected =
      sizeof(Header) + static_cast<std::size_t>(header[2]) * static_cast<std::size_t>(width);
  NIBBLE_CHECK(bytes.size() >= expected, kOp,
               "{} is cut off: the header declares {} tokens: got {} bytes expected {}", path,
               header[2], bytes.size(), expected);
  NIBBLE_CHECK(bytes.size() == expected, kOp,
               "{} is longer than it says: the header declares {} tokens: got {} bytes expected {}",
               path, header[2], bytes.size(), expected);
  return {width, header[2]};
}

}  // namespace

TokenWidth token_width_for(std::int64_t vocab_size) {
  return vocab_size <= 65536 ? TokenWidth::U16 : TokenWidth::U32;
}

bool is_llmc_shard(std::span<const std::byte> bytes) {
  return magic_of(bytes) == kForm16.magic || magic_of(bytes) == kForm32.magic;
}

Shard::Shard(std::filesystem::path path) : path_(std::move(path)), file_(path_) {
  std::tie(width_, size_) = read_header(path_.string(), file_.bytes());
}

void Shard::read(std::int64_t begin, std::span<std::int32_t> out) const {
  NIBBLE_CHECK(
      begin >= 0 && begin <= size_ && static_cast<std::int64_t>(out.size()) <= size_ - begin, kOp,
      "{}: got tokens {} to {} expected them within {}", path_.string(), begin,
      begin + static_cast<std::int64_t>(out.size()), size_);
  const std::byte* tokens =
      file_.bytes().data() + sizeof(Header) + begin * static_cast<std::int64_t>(width_);
  if (width_ == TokenWidth::U32) {
    if (!out.empty()) std::memcpy(out.data(), tokens, out.size_bytes());
    return;
  }
  // The header is 1024 bytes into a page, so the tokens are aligned.
  const auto* narrow = reinterpret_cast<const std::uint16_t*>(tokens);
  std::copy(narrow, narrow + out.size(), out.begin());
}

struct ShardWriter::Hash {
  XXH64_state_t state;
};

ShardWriter::ShardWriter(std::filesystem::path folder, std::string split, TokenWidth width,
                         std::int64_t tokens_per_shard)
    : folder_(std::move(folder)),
      split_(std::move(split)),
      width_(width),
      tokens_per_shard_(tokens_per_shard),
      hash_(std::make_unique<Hash>()) {
  NIBBLE_CHECK(tokens_per_shard > 0 && tokens_per_shard <= std::numeric_limits<std::int32_t>::max(),
               kOp, "got {} tokens a shard expected 1 to {}", tokens_per_shard,
               std::numeric_limits<std::int32_t>::max());
  XXH64_reset(&hash_->state, 0);
}

ShardWriter::~ShardWriter() = default;

std::uint64_t ShardWriter::content_hash() const { return XXH64_digest(&hash_->state); }

void ShardWriter::write(std::span<const std::int32_t> tokens) {
  while (!tokens.empty()) {
    if (!file_) open_shard();
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(
        static_cast<std::int64_t>(tokens.size()), tokens_per_shard_ - in_shard_));
    const std::size_t width = static_cast<std::size_t>(width_);
    bytes_.resize(count * width);
    // Little-endian: the low bytes of a token come first.
    for (std::size_t i = 0; i < count; ++i) std::memcpy(&bytes_[i * width], &tokens[i], width);
    file_->write(bytes_.data(), bytes_.size());
    XXH64_update(&hash_->state, bytes_.data(), bytes_.size());
    tokens_ += static_cast<std::int64_t>(count);
    in_shard_ += static_cast<std::int64_t>(count);
    tokens = tokens.subspan(count);
    if (in_shard_ == tokens_per_shard_) close_shard();
  }
}

void ShardWriter::finish() {
  if (file_) close_shard();
}

void ShardWriter::open_shard() {
  file_.emplace(folder_ / fmt::format("{}_{:06}.bin", split_, names_.size()), kOp);
  const Header blank{};
  file_->write(blank.data(), sizeof(blank));
  in_shard_ = 0;
}

void ShardWriter::close_shard() {
  const Header header{form_of(width_).magic, form_of(width_).version,
                      static_cast<std::int32_t>(in_shard_)};
  file_->overwrite(0, header.data(), sizeof(header));
  file_->commit();
  names_.push_back(file_->path().filename().string());
  file_.reset();
}

}  // namespace nibble
