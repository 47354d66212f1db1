{ recipe: 'g8_tensor' }
