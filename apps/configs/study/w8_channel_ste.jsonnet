{ recipe: 'w8_channel_ste' }
