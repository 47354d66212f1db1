{ recipe: 'a4_channel' }
