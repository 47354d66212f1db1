{ recipe: 'm1_8_tensor' }
