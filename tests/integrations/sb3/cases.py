"""What several tests of policies need."""


def permuted(observation, order):
    """The observation with the workers in another order."""
    if not isinstance(observation, dict):
        return observation[[*order, len(order)]]
    moved = dict(observation)
    for name in moved.keys() - {"pooled", "loss", "age", "progress"}:
        moved[name] = moved[name][order]
    if "similarity" in moved:
        moved["similarity"] = moved["similarity"][:, order]
    if "pooled" in moved:
        moved["pooled"] = permuted(moved["pooled"], order)
    return moved
