{ recipe: 'a8_token_asym' }
