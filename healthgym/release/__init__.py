"""Giving a trained system away: the release and its card, the audits behind it, and runs compared."""
