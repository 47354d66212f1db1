nibble_test(cli SOURCES test_cli_parts.cpp test_generate.cpp test_memory_plan.cpp LINK nibble::cli)
# Scripts that run the built programs.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME cli_commands COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_cli.py $<TARGET_FILE:nibble>)
add_test(NAME cli_input COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_cli_input.py $<TARGET_FILE:nibble>)
add_test(NAME inspect COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_inspect.py $<TARGET_FILE:nibble>)
add_test(NAME bad_device COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_bad_device.py $<TARGET_FILE:nibble>)
add_test(NAME bench COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_bench.py $<TARGET_FILE:nibble>)
add_test(NAME inspect_dump COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_inspect_dump.py $<TARGET_FILE:nibble>)
add_test(NAME examples COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/test_examples.py
  $<TARGET_FILE:example_mlp_int8> $<TARGET_FILE:example_gpt2_loop>)
if(NOT NIBBLE_SANITIZE)  # a user's project has no sanitizer
  add_test(NAME extension COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/test_extension.sh ${PROJECT_BINARY_DIR})
endif()
