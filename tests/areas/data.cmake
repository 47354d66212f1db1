nibble_test(data
  SOURCES test_data_tokenizer.cpp test_data_text.cpp test_data_shard.cpp test_data_tokenize.cpp
          test_data_loader.cpp test_data_bpe_trainer.cpp test_data_hf_tokenizer.cpp test_data_import.cpp
  LINK nibble::data ZLIB::ZLIB LibLZMA::LibLZMA)
