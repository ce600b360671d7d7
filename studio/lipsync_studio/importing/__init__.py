"""Import of networks that were trained elsewhere: SyncTalk_2D checkpoints and exports."""
