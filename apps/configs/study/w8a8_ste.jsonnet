{ recipe: 'w8a8_ste' }
