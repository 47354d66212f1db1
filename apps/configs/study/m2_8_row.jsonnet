{ recipe: 'm2_8_row' }
