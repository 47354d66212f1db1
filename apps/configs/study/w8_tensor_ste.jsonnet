{ recipe: 'w8_tensor_ste' }
