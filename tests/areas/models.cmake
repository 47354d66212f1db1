nibble_test(models
  SOURCES test_gpt2.cpp
  LINK nibble::models nibble::optim nlohmann_json::nlohmann_json)
