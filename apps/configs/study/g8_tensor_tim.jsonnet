{ recipe: 'g8_tensor_tim' }
