{ recipe: 'm1_8_row' }
