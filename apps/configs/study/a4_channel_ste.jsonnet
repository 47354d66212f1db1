{ recipe: 'a4_channel_ste' }
