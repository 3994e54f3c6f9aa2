"""Everything that trains and samples: networks, optimisers, latent memory."""
