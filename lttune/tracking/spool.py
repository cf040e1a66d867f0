"""The write-ahead file of events for MLflow: first on disk, then sent, so that no outage or crash loses one."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lttune.errors import StudyError
from lttune.tracking import lines


class Spool:
    """Events in `mlflow_spool.jsonl`, and beside it how many bytes of them are sent.

    One process at a time holds it; in that process one thread may append while another sends. The offset moves after
    an event is sent, so a crash in between sends that event again: sending must bear repetition.

    Args:
        folder: the study's folder, made where it does not exist.

    Raises:
        StudyError: another process holds the spool.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "mlflow_spool.jsonl"
        self._offset_file = folder / "mlflow_spool.offset"
        # The thread that sends gives the lock back, which another thread took.
        self._process_lock = FileLock(folder / "mlflow_spool.lock", thread_local=False)
        self._write_lock = threading.Lock()
        try:
            self._process_lock.acquire(timeout=0)
        except Timeout:
            raise StudyError(
                f"{self.file}: another process is sending this study's events to MLflow. Wait until the search or "
                "`lttune sync` that does so has ended."
            ) from None
        lines.repair(self.file)
        self._sent = self._saved_offset()
        self.compact()

    def append(self, event: Mapping[str, object]) -> None:
        """Keep one event.

        Raises:
            OSError: it could not be written.
            TypeError: it has no JSON form.
        """
        with self._write_lock:
            lines.append(self.file, event)

    def pending(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The events that are not sent yet, each with the offset that `mark_sent` takes."""
        return lines.read(self.file, self._sent)

    def num_pending(self) -> int:
        return sum(1 for _ in self.pending())

    def mark_sent(self, offset: int) -> None:
        """All events before the offset are sent; a reader of the offset file meets the old or the new value."""
        self._sent = offset
        fresh = self._offset_file.with_suffix(".tmp")
        fresh.write_text(str(offset))
        fresh.replace(self._offset_file)

    def compact(self) -> None:
        """Empty the files if every event is sent."""
        with self._write_lock:
            if not self.file.exists() or self.num_pending():
                return
            # In this order: an offset beyond the file's end counts as 0 when the next process opens the spool.
            with self.file.open("r+b") as stream:
                stream.truncate()
            self._sent = 0
            self._offset_file.unlink(missing_ok=True)

    def release(self) -> None:
        """Let another process hold the spool."""
        self._process_lock.release()

    def _saved_offset(self) -> int:
        """Bytes sent; 0, which sends everything again, where the offset file does not fit the events."""
        try:
            offset = int(self._offset_file.read_text())
            with self.file.open("rb") as stream:
                stream.seek(offset - 1)
                return offset if stream.read(1) == b"\n" else 0
        except (OSError, ValueError):
            return 0
