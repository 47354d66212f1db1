{ recipe: 'g4_token_tim' }
