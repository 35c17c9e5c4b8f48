"""What rules and attacks compute with: distances, order statistics, moments."""
