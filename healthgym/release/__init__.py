"""Giving a trained system away: the release and its card, and the audits behind it."""
