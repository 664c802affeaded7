"""The method: towers, levels, games and losses."""
