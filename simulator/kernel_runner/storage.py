"""Reads and writes of a drive past the page cache (O_DIRECT), in blocks, alone or several at a time."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hardware_profiles.errors import UserError
from simulator.kernel_runner.backend import Prepared, Unsupported
from simulator.kernel_runner.kernel import Kernel

FILE_BYTES = 256 << 20
"""Size of the temporary file: more than the write buffer of consumer drives in DRAM, less than a minute on slow ones."""
TINY_FILE_BYTES = 1 << 20
BLOCK = 1 << 20


class Storage:
    """A temporary file in a folder that the user named, gone when closed (it has no name from the start)."""

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES) -> None:
        self.folder, self.file_bytes = folder, file_bytes
        self._file: int | None = None

    def __enter__(self) -> Storage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def prepare(self, kernel: Kernel) -> Prepared:
        """``depth`` threads, each with its own aligned buffer; a call is one block."""
        file = self._opened()
        block, depth, reads = min(kernel["bytes"], self.file_bytes), kernel["depth"], kernel.op == "read"
        buffers = [_aligned(block) for _ in range(depth)]
        blocks = self.file_bytes // block
        stride = max(1, blocks // depth)

        def transfer(worker: int, number: int) -> None:
            offset = ((worker * stride + number) % blocks) * block
            done = os.preadv(file, [buffers[worker]], offset) if reads else os.pwritev(file, [buffers[worker]], offset)
            if done != block:
                raise OSError(errno.EIO, f"moved {done} of {block} bytes")

        def stream(worker: int, rounds: int) -> None:
            for number in range(rounds):
                transfer(worker, number)

        def run(rounds: int) -> float:
            start = time.perf_counter()
            if depth == 1:
                stream(0, rounds)
            else:
                with ThreadPoolExecutor(depth) as pool:
                    for done in [pool.submit(stream, worker, rounds) for worker in range(depth)]:
                        done.result()
            return (time.perf_counter() - start) / (rounds * depth)

        return Prepared(run, depth, f"O_DIRECT, {depth} at a time")

    def _opened(self) -> int:
        """Create and fill the file at the first use."""
        if self._file is not None:
            return self._file
        if not hasattr(os, "O_DIRECT"):
            raise Unsupported("this system has no O_DIRECT")
        handle, name = tempfile.mkstemp(prefix=".apex-sim-", dir=self.folder)
        os.close(handle)
        try:
            file = os.open(name, os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            raise Unsupported(f"{self.folder}: no O_DIRECT there ({error.strerror})") from None
        finally:
            with suppress(OSError):
                os.unlink(name)
        try:
            size = min(BLOCK, self.file_bytes)
            buffer = _aligned(size)
            for offset in range(0, self.file_bytes, size):
                os.pwritev(file, [buffer], offset)
        except OSError as error:
            os.close(file)
            raise Unsupported(
                f"{self.folder}: cannot write {self.file_bytes >> 20} MiB there ({error.strerror})"
            ) from None
        self._file = file
        return file


def check_folder(folder: Path) -> Path:
    """A folder that can be written, checked before the long work."""
    if not folder.is_dir():
        raise UserError(f"--scratch {folder}: there is no such folder; name one on the drive to be measured")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--scratch {folder}: cannot write there: {error.strerror}; choose another folder") from None
    return folder


def _aligned(size: int) -> mmap.mmap:
    """Page-aligned memory with bytes that do not compress."""
    buffer = mmap.mmap(-1, size)
    buffer.write(os.urandom(size))
    return buffer
