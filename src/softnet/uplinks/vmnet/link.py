"""The Link of a vmnet interface. Frames go between vmnet and the batch's arena without a copy.

`receive` gives at most what vmnet hands over in one call. It leaves `pending` set until a read has
found the interface empty: the wake-up comes once a burst, not once a batch.

`send` cannot trust a batch to be refused for a reason that concerns all of it. BUFFER_EXHAUSTED and
MEM_FAILURE are busy. A packet that vmnet finds wrong makes it refuse the whole call, without saying
which; then the frames go one a call, and the one that is refused alone becomes busy. So nothing that
a VM sends can end the link. Any other status means that the interface is broken, and is raised.
"""

from time import sleep

from softnet.core.frames import Batch
from softnet.core.reasons import PASS_LIMIT
from softnet.links import RETRIES, RETRY_SECONDS
from softnet.uplinks.vmnet import api as vmnet
from softnet.uplinks.vmnet.api import VmnetError
from softnet.uplinks.vmnet.batch import PacketTable
from softnet.uplinks.vmnet.interface import Interface

MIN_FRAME = 14  # vmnet takes whole Ethernet frames only
BUSY = frozenset({vmnet.BUFFER_EXHAUSTED, vmnet.MEM_FAILURE})
WRONG_PACKET = frozenset({vmnet.INVALID_ARGUMENT, vmnet.PACKET_TOO_BIG, vmnet.TOO_MANY_PACKETS})


class VmnetLink:
    """See `softnet.links` for the contract. Owns the interface: `close` stops it."""

    unsent = False
    needs_alive_check = False

    def __init__(self, interface: Interface) -> None:
        self.pending = False
        self._interface = interface
        self._longest = interface.parameters.max_packet_size
        self._incoming: PacketTable | None = None
        self._outgoing: PacketTable | None = None
        self._narrow: Batch | None = None
        self._budget = RETRIES
        self._stalled = False

    def fileno(self) -> int:
        return self._interface.fileno()

    def alive(self) -> bool:
        return self._interface.running

    def close(self) -> None:
        self._interface.stop()

    def receive(self, batch: Batch) -> int:
        if batch.slot < self._longest:
            return self._receive_narrow(batch)
        if self._incoming is None or self._incoming.batch is not batch:
            self._incoming = PacketTable(batch, self._interface.parameters.read_max_packets)
        batch.clear()
        count = self._interface.read(self._incoming)
        self._incoming.received(count)
        self.pending = count > 0
        return count

    def _receive_narrow(self, batch: Batch) -> int:
        """Slots too small for vmnet, which wants room for its longest frame: one copy more."""
        if self._narrow is None or self._narrow.capacity != batch.capacity:
            self._narrow = Batch(batch.capacity, self._longest)
        count = self.receive(self._narrow)
        batch.clear()
        for index in range(count):
            batch.append(self._narrow.frame(index))
        return count

    def send(self, batch: Batch, busy: int) -> int:
        if self._outgoing is None or self._outgoing.batch is not batch:
            self._outgoing = PacketTable(batch, self._interface.parameters.write_max_packets)
        table = self._outgoing
        frames: list[int] = []
        lost: list[int] = []
        for index, verdict in enumerate(table.verdicts[: batch.count].tolist()):
            if verdict < PASS_LIMIT:
                (frames if self._sendable(table, index) else lost).append(index)
        self._budget = 0 if self._stalled else RETRIES
        for start in range(0, len(frames), table.capacity):
            lost += self._write(table, frames[start : start + table.capacity])
        for index in lost:
            table.verdicts[index] = busy
        return len(lost)

    def _sendable(self, table: PacketTable, index: int) -> bool:
        """Whole, inside the arena, and of a length that vmnet takes."""
        length = table.lengths[index]
        return (
            MIN_FRAME <= length <= self._longest
            and length <= table.batch.slot
            and table.offsets[index] + length <= table.size
        )

    def _write(self, table: PacketTable, frames: list[int]) -> list[int]:
        """The frames that vmnet did not take. `step` falls to one frame a call after a refusal."""
        table.point_at(frames)
        at, step, refused = 0, len(frames), []
        while at < len(frames):
            asked = min(step, len(frames) - at)
            status, taken = self._interface.write(table, at, asked)
            at += taken
            if taken:
                self._stalled = False
            if status in WRONG_PACKET:
                if step == 1:
                    refused.append(frames[at])
                    at += 1
                step = 1
            elif status != vmnet.SUCCESS and status not in BUSY:
                raise VmnetError("vmnet_write", status)
            elif taken < asked and not self._wait():
                break
        return refused + frames[at:]

    def _wait(self) -> bool:
        """A pause before another try, while the batch's budget lasts; without one, vmnet is stalled."""
        if self._budget == 0:
            self._stalled = True
            return False
        self._budget -= 1
        sleep(RETRY_SECONDS)
        return True
