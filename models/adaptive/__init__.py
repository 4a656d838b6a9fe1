"""The adaptive model: a frozen model, its meta networks, and how they are attached."""
