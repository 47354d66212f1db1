{ recipe: 'w8_tensor' }
