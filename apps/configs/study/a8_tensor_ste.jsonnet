{ recipe: 'a8_tensor_ste' }
