{ recipe: 'w8_channel' }
