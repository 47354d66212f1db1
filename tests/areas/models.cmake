nibble_test(models
  SOURCES test_gpt2.cpp test_gpt2_fused.cpp
  LINK nibble::models nibble::optim nlohmann_json::nlohmann_json)
