{ recipe: 'a8_channel' }
