{ recipe: 'a8_token_ste' }
