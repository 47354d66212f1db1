{ recipe: 'a4_token' }
