{ recipe: 'g4_token' }
