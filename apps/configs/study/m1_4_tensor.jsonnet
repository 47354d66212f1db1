{ recipe: 'm1_4_tensor' }
