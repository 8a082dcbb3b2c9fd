"""Make componentize-py's build depend on our seed alone.

While it takes its snapshot, CPython draws its hash seed (and `random` its state) from the system and reads the clock, so no two
builds would be equal. componentize-py has no option for it; its extension module finds libc's getrandom and clock_gettime
through its global offset table and dlsym, and those entries are pointed to functions that answer from the seed. They are machine
code, because the extension calls them from threads without the GIL. On other processors the seed cannot be set; `seed_process`
then says so.
"""

import ctypes
import mmap
import platform
import struct
from collections.abc import Iterator
from pathlib import Path

PAGE = mmap.PAGESIZE
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_PT_DYNAMIC = 2
_STRTAB, _SYMTAB, _RELA, _RELASZ, _PLTRELSZ, _JMPREL = 5, 6, 7, 8, 2, 23
_SYMBOL_BYTES = 24
_RELOCATION_BYTES = 24
MULTIPLIER = 6364136223846793005
INCREMENT = 1442695040888963407
MOMENT = 1_700_000_000
"""What time it is while a snapshot is taken."""
_kept: list[object] = []
"""Memory that must live as long as the process."""


def generator_code(seed: int) -> bytes:
    """x86-64: ssize_t getrandom(void *buffer, size_t length, unsigned flags), the same stream at every call.

    Every call starts anew, so the order in which threads call does not matter.
    """
    state = (seed * MULTIPLIER + INCREMENT) % 2**64
    return b"".join(
        (
            b"\x48\x89\xf0",  # mov rax, rsi
            b"\x49\xb8" + struct.pack("<Q", state),  # mov r8, state
            b"\x49\xb9" + struct.pack("<Q", MULTIPLIER),  # mov r9, multiplier
            b"\x49\xba" + struct.pack("<Q", INCREMENT),  # mov r10, increment
            b"\x48\x85\xf6",  # next: test rsi, rsi
            b"\x74\x18",  # jz done
            b"\x4d\x0f\xaf\xc1",  # imul r8, r9
            b"\x4d\x01\xd0",  # add r8, r10
            b"\x4c\x89\xc1",  # mov rcx, r8
            b"\x48\xc1\xe9\x38",  # shr rcx, 56
            b"\x88\x0f",  # mov [rdi], cl
            b"\x48\xff\xc7",  # inc rdi
            b"\x48\xff\xce",  # dec rsi
            b"\xeb\xe3",  # jmp next
            b"\xc3",  # done: ret
        )
    )


def lookup_code(generator: int, lookup: int) -> bytes:
    """x86-64: void *dlsym(void *handle, const char *name), which answers `generator` to "getrandom"."""
    return b"".join(
        (
            b"\x48\xb8getrando",  # mov rax, "getrando"
            b"\x48\x39\x06",  # cmp [rsi], rax
            b"\x75\x12",  # jne other
            b"\x66\x83\x7e\x08\x6d",  # cmp word [rsi + 8], "m"
            b"\x75\x0b",  # jne other
            b"\x48\xb8" + struct.pack("<Q", generator),  # mov rax, generator
            b"\xc3",  # ret
            b"\x48\xb8" + struct.pack("<Q", lookup),  # other: mov rax, lookup
            b"\xff\xe0",  # jmp rax
        )
    )


def clock_code() -> bytes:
    """x86-64: int clock_gettime(clockid_t, struct timespec *), at which it is always the same moment."""
    return b"".join(
        (
            b"\x48\xc7\x06" + struct.pack("<i", MOMENT),  # mov qword [rsi], moment
            b"\x48\xc7\x46\x08" + bytes(4),  # mov qword [rsi + 8], 0
            b"\x31\xc0\xc3",  # xor eax, eax; ret
        )
    )


def seed_process(library: Path, seed: int) -> bool:
    """Point `getrandom` of a loaded library to our generator; False if that cannot be done here."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return False
    base = _load_address(library)
    if base is None:
        return False
    generator = executable(generator_code(seed))
    content = library.read_bytes()
    done = [_point(base + offset, generator) for offset in got_entries(content, "getrandom")]
    clock = executable(clock_code())
    done += [_point(base + offset, clock) for offset in got_entries(content, "clock_gettime")]
    for offset in got_entries(content, "dlsym"):
        lookup = ctypes.c_uint64.from_address(base + offset).value
        done.append(_point(base + offset, executable(lookup_code(generator, lookup))))
    return bool(done) and all(done)


def _point(address: int, target: int) -> bool:
    """Write an entry of the table, which the dynamic linker has made read-only."""
    page = address // PAGE * PAGE
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), _READ_WRITE) != 0:
        return False
    ctypes.c_uint64.from_address(address).value = target
    return True


def executable(code: bytes) -> int:
    """The address of a copy of `code` that can be called."""
    memory = mmap.mmap(-1, PAGE, prot=_READ_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    _kept.append(memory)
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def got_entries(elf: bytes, symbol: str) -> Iterator[int]:
    """Offsets, from the load address, of the entries that hold the address of an imported function (ELF64, little-endian)."""
    segments, count = struct.unpack_from("<Q", elf, 32)[0], struct.unpack_from("<H", elf, 56)[0]
    headers = [struct.unpack_from("<IIQQQQQQ", elf, segments + 56 * number) for number in range(count)]

    def file_offset(address: int) -> int:
        for kind, _, offset, virtual, _, size, _, _ in headers:
            if kind == 1 and virtual <= address < virtual + size:
                return int(address - virtual + offset)
        raise ValueError(f"address {address:#x} is not in the file")

    dynamic = next(header for header in headers if header[0] == _PT_DYNAMIC)
    entries = dict(struct.iter_unpack("<QQ", elf[dynamic[2] : dynamic[2] + dynamic[5]]))
    names, symbols = file_offset(entries[_STRTAB]), file_offset(entries[_SYMTAB])
    wanted = symbol.encode() + b"\0"
    for table, size in ((_RELA, _RELASZ), (_JMPREL, _PLTRELSZ)):
        if table not in entries:
            continue
        start = file_offset(entries[table])
        for at in range(start, start + entries[size], _RELOCATION_BYTES):
            offset, info, _ = struct.unpack_from("<QQq", elf, at)
            name = names + struct.unpack_from("<I", elf, symbols + _SYMBOL_BYTES * (info >> 32))[0]
            if info >> 32 and elf[name : name + len(wanted)] == wanted:
                yield offset


def _load_address(library: Path) -> int | None:
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] == str(library) and int(parts[2], 16) == 0:
            return int(parts[0].partition("-")[0], 16)
    return None
