"""v1, v2 and v2.5: Wasserstein GANs, with an autoencoder and a Mean_Container."""
