"""The kernel's word that something in a folder has changed, in an event loop. One handle serves a whole process."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_customjob.backends.base import EngineError

_MODIFY, _CLOSE_WRITE, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x8, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLY_FOLDERS = 0x01000000
_CHANGES = _MODIFY | _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLY_FOLDERS

_EVENT = struct.Struct("iIII")
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC

Told = Callable[[str], None]
"""Takes the name of what has changed in the folder; empty: it may be anything."""


class Inotify:
    """Listens to folders, on behalf of any number of listeners each.

    :raises EngineError: the kernel gives no handle.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(_NONBLOCK_CLOEXEC)
        if self._handle < 0:
            raise _error("fs.inotify.max_user_instances")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._handle, self._read)
        self._listeners: dict[int, list[Told]] = {}

    def close(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self._handle = -1  # its number may soon be another file's

    @contextmanager
    def listening(self, folder: Path, told: Told) -> Iterator[bool]:
        """Gives False, and hears nothing, if there is no such folder."""
        number = self._libc.inotify_add_watch(self._handle, os.fsencode(folder), _CHANGES)
        if number < 0:
            if ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR):
                yield False
                return
            raise _error("fs.inotify.max_user_watches")
        mine = self._listeners.setdefault(number, [])
        mine.append(told)
        try:
            yield True
        finally:
            mine.remove(told)
            if not mine and self._listeners.get(number) is mine:
                del self._listeners[number]
                self._libc.inotify_rm_watch(self._handle, number)

    def _read(self) -> None:
        data = os.read(self._handle, 65536)
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            name = data[at - length : at].rstrip(b"\0")
            if mask & _OVERFLOW:
                for told in [told for listeners in self._listeners.values() for told in listeners]:
                    told("")
            for told in tuple(self._listeners.get(number, ())):
                told(os.fsdecode(name))
            if mask & _IGNORED:
                self._listeners.pop(number, None)


def _error(limit: str) -> EngineError:
    why = os.strerror(ctypes.get_errno())
    return EngineError(f"changes of files cannot be listened to ({why}): raise {limit} with sysctl")
