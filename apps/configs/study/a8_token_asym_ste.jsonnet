{ recipe: 'a8_token_asym_ste' }
