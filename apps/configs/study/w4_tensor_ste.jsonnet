{ recipe: 'w4_tensor_ste' }
