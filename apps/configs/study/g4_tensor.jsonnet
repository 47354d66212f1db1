{ recipe: 'g4_tensor' }
