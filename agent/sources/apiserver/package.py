"""The kubernetes package, of which only the modules are loaded that read a configuration.

Each of its packages loads all there is in it, and what OpenID Connect needs besides: 300 modules, which take
15 MB for as long as the agent runs. Here the modules wanted are loaded without that. What else they may need
later, they load then.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

_PACKAGES = ("kubernetes", "kubernetes.config")
"""Loaded as directories of modules alone."""
_LATER = ("oauthlib", "oauthlib.oauth2", "requests_oauthlib")
"""What a kubeconfig's user of OpenID Connect needs; nobody else does."""
_CLIENT, _OF_CLIENT = "kubernetes.client", "ApiClient"
"""What renewing such a user's token needs, and 40 modules with it."""

_lock = threading.Lock()


def load(name: str) -> Any:
    """Return a module of the package. Raises ImportError."""
    with _lock:
        if name not in sys.modules:
            with _alone():
                importlib.import_module(name)
        return sys.modules[name]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Have modules of the package load no more than they name themselves, and what is for later not at all.

    Whoever loads any of that afterwards gets it whole.
    """
    ours: dict[str, types.ModuleType] = {}
    try:
        for name in _PACKAGES:
            if name not in sys.modules:
                ours[name] = sys.modules[name] = _directory(name)
        for name in _LATER:
            if name not in sys.modules:
                ours[name] = sys.modules[name] = _Later(name)
        client = importlib.import_module(_CLIENT)
        wanted_later = _OF_CLIENT not in vars(client)
        if wanted_later:
            setattr(client, _OF_CLIENT, _called_later(f"{_CLIENT}.api_client", _OF_CLIENT))
        try:
            yield
        finally:
            if wanted_later:
                delattr(client, _OF_CLIENT)
    finally:
        for name, module in ours.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _directory(name: str) -> types.ModuleType:
    """Return a package in which modules are found, and nothing else."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"there is no package {name}")
    module = types.ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    module.__spec__ = spec
    return module


class _Later(types.ModuleType):
    """In place of a module: has what that has, once it is used."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if sys.modules.get(self.__name__) is self:
            return _called_later(self.__name__, attribute)
        found = importlib.import_module(self.__name__)
        if not hasattr(found, attribute):
            importlib.import_module(f"{self.__name__}.{attribute}")
        return getattr(found, attribute)


def _called_later(module: str, function: str) -> Callable[..., Any]:
    """Return what loads a module when it is called, and calls a function of it."""

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(module), function)(*arguments, **named)

    return call
