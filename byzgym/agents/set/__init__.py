"""The set aggregator: what it sees of workers, its network, and the agent."""
