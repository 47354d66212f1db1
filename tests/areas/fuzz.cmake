include(${CMAKE_CURRENT_SOURCE_DIR}/fuzz/fuzz.cmake)
