"""Distils a U-Net's last stage into a small head: the preset turbo."""
