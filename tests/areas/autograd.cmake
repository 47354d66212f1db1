nibble_test(autograd
  SOURCES op_support.cpp op_support_matrix.cpp
          test_op_table.cpp test_op_sentinels.cpp test_op_support.cpp test_gradcheck.cpp test_op_edges.cpp
          test_tape.cpp test_tape_gradients.cpp test_checkpoint.cpp
  LINK nibble_op_table nibble::autograd)
nibble_test(linear
  SOURCES test_linear.cpp test_linear_operands.cpp test_producers.cpp test_linear_cross_entropy.cpp
          test_delayed_scaling.cpp
  LINK nibble::autograd)
