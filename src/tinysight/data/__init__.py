"""Datasets: Tiny ImageNet, your own folders, drawn shapes, and views of them."""
