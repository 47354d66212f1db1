{ recipe: 'a4_tensor' }
