{ recipe: 'w4_channel_ste' }
