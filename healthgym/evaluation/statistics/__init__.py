"""What the sections share: patients as arrays, sums over them, distances, rankings and conditions."""
