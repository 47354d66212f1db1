{ recipe: 'a8_token' }
