{ recipe: 'none' }
