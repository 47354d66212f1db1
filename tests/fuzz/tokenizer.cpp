#include "data/hf_tokenizer.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::run([&] {
    const auto tokenizer =
        read_tokenizer_file(fuzz::file_of(fuzz::text(data, size), "tokenizer.json"));
    const std::string text = "It is a truth, <|endoftext|> that\xc3\xa9 \xff 123's";
    const auto ids = tokenizer->encode(text);
    (void)tokenizer->decode(ids);
    write_hf_tokenizer(fuzz::folder(), *tokenizer);
  });
}
