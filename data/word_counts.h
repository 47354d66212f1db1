// How often each word occurs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

class WordCounts {
 public:
  void add(std::string_view word, std::uint64_t count = 1);
  void add(const WordCounts& other);

  // Distinct words, and their bytes together.
  std::size_t size() const { return entries_.size(); }
  std::size_t text_bytes() const { return text_.size(); }
  // visit(word, count) for each word, in the order in which they first came.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const Entry& entry : entries_) visit(word(entry), entry.count);
  }

  // Drops every word that came at most `count` times.
  void drop_rare(std::uint64_t count);

 private:
  struct Entry {
    std::uint64_t hash;
    std::uint64_t count;
    std::size_t begin;  // in text_
    std::uint32_t length;
  };

  std::string_view word(const Entry& entry) const {
    return std::string_view(text_).substr(entry.begin, entry.length);
  }
  void add(std::string_view word, std::uint64_t hash, std::uint64_t count);
  void grow();

  std::string text_;  // the words, one after the other
  std::vector<Entry> entries_;
  std::vector<std::uint32_t> slots_;  // open addressing, at most half full: index + 1, 0: empty
};

}  // namespace nibble
