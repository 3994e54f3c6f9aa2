"""Building blocks of networks. Depends only on torch."""
