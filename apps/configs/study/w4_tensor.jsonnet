{ recipe: 'w4_tensor' }
