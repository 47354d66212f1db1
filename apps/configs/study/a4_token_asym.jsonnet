{ recipe: 'a4_token_asym' }
