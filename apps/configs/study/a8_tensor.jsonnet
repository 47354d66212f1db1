{ recipe: 'a8_tensor' }
