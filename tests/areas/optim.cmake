nibble_test(optim
  SOURCES test_encodings.cpp test_in_backward.cpp test_optim.cpp test_optim_state.cpp test_optim_step.cpp test_sentinels.cpp
  LINK nibble::models nibble::optim nlohmann_json::nlohmann_json)
