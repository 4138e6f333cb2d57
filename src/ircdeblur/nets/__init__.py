"""Networks: Motion-Net and their weights."""
