"""The system calls that container runtimes withhold by default, as a filter for the kernel (seccomp(2)).

Runtimes list what they allow; a filter here lists what that leaves out, by the documentation of Docker's and
containerd's default profiles, for a container whose capabilities are those that concern the network.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import tempfile

from tests.lab.place import LabError

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_WITHHELD = (
    "acct add_key bpf clock_adjtime clock_settime create_module delete_module finit_module fsconfig "
    "fsmount fsopen fspick get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register "
    "io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount "
    "mount_setattr move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree "
    "perf_event_open pivot_root process_madvise query_module quotactl quotactl_fd reboot request_key "
    "set_mempolicy setdomainname sethostname setns settimeofday stime swapoff swapon sysfs umount umount2 "
    "unshare uselib userfaultfd ustat vhangup vm86 vm86old"
)
_NOT_THERE = ["clone3"]
"""Said not to exist, since its flags cannot be looked at: libc asks for clone then."""


@functools.cache
def runtime_default() -> bytes:
    """Return the filter's program. Raises LabError when libseccomp refuses it or is not there."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise LabError(f"libseccomp is not installed (Debian package libseccomp2): {error}") from None
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    try:
        for names, code in ((_WITHHELD.split(), errno.EPERM), (_NOT_THERE, errno.ENOSYS)):
            for name in names:
                number = library.seccomp_syscall_resolve_name(name.encode())
                # Below zero: this architecture has no such call.
                if number >= 0 and library.seccomp_rule_add_array(
                    context, ctypes.c_uint32(_ERRNO | code), number, 0, None
                ):
                    raise LabError(f"libseccomp takes no rule for {name}")
        with tempfile.TemporaryFile() as file:
            if library.seccomp_export_bpf(context, file.fileno()):
                raise LabError("libseccomp cannot export its filter")
            return os.pread(file.fileno(), 1 << 20, 0)
    finally:
        library.seccomp_release(context)
