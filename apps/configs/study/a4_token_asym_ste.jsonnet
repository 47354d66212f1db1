{ recipe: 'a4_token_asym_ste' }
