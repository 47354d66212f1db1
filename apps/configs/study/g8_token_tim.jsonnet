{ recipe: 'g8_token_tim' }
