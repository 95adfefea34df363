"""A user's Pod with ours merged over it: strategic merge, as far as a Pod needs it. Pure."""

from __future__ import annotations

from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "schedulingGates": "name",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists of named things, and what names them; other lists of ours replace the user's, but for those in :data:`_JOINED`."""
_JOINED = frozenset({"searches", "ownerReferences"})


def merged(base: Any, over: Any, name: str = "") -> Any:
    """``over`` laid over ``base``: mappings by key, lists of named things by name, anything else by replacement."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base[key], value, key) if key in base else value for key, value in over.items()}
    if not (isinstance(base, list) and isinstance(over, list)):
        return over
    if name in _JOINED:
        return [*over, *(item for item in base if item not in over)]
    key = MERGE_KEYS.get(name)
    if key is None:
        return over
    mine = {item[key]: item for item in over}
    kept = [merged(item, mine.pop(item.get(key), {})) for item in base]
    return [*kept, *mine.values()]
