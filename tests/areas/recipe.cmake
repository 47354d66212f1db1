nibble_test(recipe
  SOURCES test_fp8_gemm.cpp test_int_gemm.cpp test_segments.cpp test_product_route.cpp test_qmatmul.cpp test_recipe.cpp test_recipe_text.cpp
  LINK nibble::quant)
