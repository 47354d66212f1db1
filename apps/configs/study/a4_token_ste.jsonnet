{ recipe: 'a4_token_ste' }
