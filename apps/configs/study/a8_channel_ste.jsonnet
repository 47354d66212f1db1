{ recipe: 'a8_channel_ste' }
