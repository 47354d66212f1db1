{ recipe: 'g4_tensor_tim' }
