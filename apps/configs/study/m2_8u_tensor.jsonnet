{ recipe: 'm2_8u_tensor' }
