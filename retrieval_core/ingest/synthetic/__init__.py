"""Draws apparel-like products: what a product is, its cut, its cloth, where it is shown, and the finished picture."""
