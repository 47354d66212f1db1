{ recipe: 'g8_token' }
