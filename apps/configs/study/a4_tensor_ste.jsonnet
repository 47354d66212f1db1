{ recipe: 'a4_tensor_ste' }
