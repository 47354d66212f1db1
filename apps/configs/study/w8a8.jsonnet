{ recipe: 'w8a8' }
