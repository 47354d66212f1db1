{ recipe: 'w4_channel' }
