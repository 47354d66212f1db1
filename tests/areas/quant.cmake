nibble_test(quant
  SOURCES test_quant.cpp test_quant_formats.cpp test_quant_golden.cpp
    test_quant_qtensor.cpp test_quant_rows.cpp test_quant_scales.cpp test_quant_spec.cpp
  LINK nibble::quant)
