{ recipe: 'm1_4_row' }
