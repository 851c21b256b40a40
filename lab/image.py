"""The guest: Debian's cloud kernel, unpacked and never installed, and an initramfs with busybox.

The kernel is taken out of its bzImage, because QEMU enters an ELF kernel directly (PVH) and nothing
has to be decompressed under emulation. Modules lose their appended signature, so that the guest
does not check RSA at boot. Everything is kept in `.cache/vm`: the kernel until the folder is
removed, the initramfs and the measuring tool until one of their inputs changes.

Needs apt-get, dpkg-deb, lz4, busybox-static, gcc and libc6-dev
(`scripts/setup.sh demo`).
"""

import fcntl
import hashlib
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOTFS = HERE / "rootfs"
CACHE = HERE.parent / ".cache" / "vm"
BUSYBOX = Path("/bin/busybox")
META_PACKAGE = "linux-image-cloud-amd64"
# In the order in which they have to be loaded.
MODULES = ("virtio_ring", "virtio", "virtio_mmio", "failover", "net_failover", "virtio_net")
SIGNATURE_MAGIC = b"~Module signature appended~\n"
LZ4_LEGACY_MAGIC = bytes.fromhex("02214c18")


class ImageError(Exception):
    """The guest cannot be built on this machine; one line that says what to do."""


class Image(NamedTuple):
    """What QEMU is started with, and the rate of this machine's time stamp counter.

    The guest is told the rate: calibrating it against emulated timers hangs now and then.
    """

    kernel: Path
    initramfs: Path
    tsc_khz: int


def build() -> Image:
    """Whatever is missing of the image; safe to call from several processes at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with _only_one(CACHE / "lock"):
        kernel = _kernel()
        tsc_khz = int(_run(str(_compiled(ROOTFS / "tsc_khz.c", static=False))))
        return Image(kernel / "vmlinux", _initramfs(kernel), tsc_khz)


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kernel() -> Path:
    """The folder with `vmlinux` and the modules, downloaded on first use."""
    ready = sorted(CACHE.glob("kernel-*/vmlinux"))
    if ready:
        return ready[-1].parent
    work = CACHE / "kernel.new"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        archive = _download(work)
    except ImageError:
        _run("apt-get", "-qq", "update")  # the package lists were missing, or older than the archive
        archive = _download(work)
    folder = CACHE / f"kernel-{archive.name.partition('_')[0]}"
    _unpack_kernel(archive, work)
    archive.unlink()
    work.rename(folder)
    return folder


def _download(folder: Path) -> Path:
    """The package that the meta package stands for today."""
    found = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", META_PACKAGE))
    if not found:
        raise ImageError(f"apt knows no {META_PACKAGE}: the guest is built on Debian, amd64")
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", found[1], cwd=folder)
    return next(folder.glob("*.deb"))


def _unpack_kernel(archive: Path, folder: Path) -> None:
    """Only the kernel and the handful of modules come out of the package, as a stream."""
    wanted = {f"{name}.ko" for name in MODULES}
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpacker,
        tarfile.open(fileobj=unpacker.stdout, mode="r|") as tar,
    ):
        for member in tar:
            name = Path(member.name).name
            content = tar.extractfile(member) if member.isfile() else None
            if content and name in wanted:
                (folder / name).write_bytes(without_signature(content.read()))
            elif content and name.startswith("vmlinuz-"):
                (folder / "vmlinux").write_bytes(uncompressed_kernel(content.read()))
    missing = [name for name in (*wanted, "vmlinux") if not (folder / name).exists()]
    if missing:
        raise ImageError(f"{archive.name} lacks {', '.join(missing)}: not a kernel this lab knows")


def uncompressed_kernel(image: bytes) -> bytes:
    """The ELF inside a bzImage, by the boot header's payload fields (x86 boot protocol 2.08)."""
    if image[0x202:0x206] != b"HdrS":
        raise ImageError("the kernel is not a bzImage: remove .cache/vm and try again")
    setup_sectors = (image[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup_sectors * 512 + offset :][:length]
    if not payload.startswith(LZ4_LEGACY_MAGIC):
        raise ImageError("the kernel is not compressed with LZ4, as Debian's cloud kernels are")
    # The last four bytes are the uncompressed size, which the kernel's build appends; not LZ4's.
    tool = subprocess.run(["lz4", "-dc"], input=payload[:-4], capture_output=True, check=True)
    return tool.stdout


def without_signature(module: bytes) -> bytes:
    """A module without the PKCS #7 signature behind it (struct module_signature, then a magic)."""
    if not module.endswith(SIGNATURE_MAGIC):
        return module
    trailer = len(module) - len(SIGNATURE_MAGIC) - 12
    [length] = struct.unpack_from(">I", module, trailer + 8)
    return module[: trailer - length]


def _compiled(source: Path, static: bool) -> Path:
    """The program, named after the content it was compiled from."""
    program = CACHE / f"{source.stem}-{_digest(source.read_bytes())}"
    if not program.exists():
        new = program.with_suffix(".new")
        _run("gcc", "-O2", "-Wall", "-s", *(["-static"] if static else []), "-o", str(new), str(source))
        new.rename(program)
    return program


def _initramfs(kernel: Path) -> Path:
    if not BUSYBOX.exists():
        raise ImageError(f"{BUSYBOX} is missing: install busybox-static, or run scripts/setup.sh demo")
    files = {
        "init": (ROOTFS / "init").read_bytes(),
        "bin/busybox": BUSYBOX.read_bytes(),
        "bin/frames": _compiled(ROOTFS / "frames.c", static=True).read_bytes(),
        "etc/modules": " ".join(MODULES).encode(),
        "etc/udhcpc/default.script": (ROOTFS / "udhcpc.script").read_bytes(),
        **{f"modules/{name}.ko": (kernel / f"{name}.ko").read_bytes() for name in MODULES},
    }
    archive = cpio(files, folders=("bin", "dev", "etc", "etc/udhcpc", "modules", "proc", "sys", "tmp"))
    path = CACHE / f"initramfs-{_digest(archive)}.cpio"
    if not path.exists():
        for old in CACHE.glob("initramfs-*"):
            old.unlink()
        new = path.with_suffix(".new")
        new.write_bytes(archive)
        new.rename(path)
    return path


def cpio(files: dict[str, bytes], folders: tuple[str, ...]) -> bytes:
    """A "newc" archive, the format an initramfs has; every file is executable, and root's."""
    members = [(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    members += [(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    members.append(("TRAILER!!!", 0, b""))
    out = bytearray()
    for inode, (name, mode, content) in enumerate(members, start=1):
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ImageError(f"{command[0]} is missing: run scripts/setup.sh demo") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ImageError(f"{' '.join(command)}: {last}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(*build(), sep="\n")
    except ImageError as error:
        sys.exit(f"lab.image: {error}")
