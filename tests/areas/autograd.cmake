nibble_test(autograd
  SOURCES op_table.cpp op_table_shapes.cpp op_table_nn.cpp test_op_table.cpp test_gradcheck.cpp
          test_tape.cpp
  LINK nibble::autograd)
