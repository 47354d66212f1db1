nibble_test(profile SOURCES test_profile.cpp LINK nibble::profile nibble::quant)
