nibble_test(io SOURCES test_io.cpp)
