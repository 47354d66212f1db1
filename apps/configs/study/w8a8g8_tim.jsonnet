{ recipe: 'w8a8g8_tim' }
