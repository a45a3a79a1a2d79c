// Command probe tries, inside a container, what a sandbox should refuse, and prints one line for each: a name and what
// the kernel answered.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

// Numbers of calls that package syscall does not name, of amd64 and arm64.
var numbers = map[string]map[string]uintptr{
	"amd64": {"bpf": 321, "clone": 56, "clone3": 435, "fsopen": 430, "io_uring_setup": 425, "kexec_load": 246, "kexec_file_load": 320,
		"keyctl": 250, "add_key": 248, "request_key": 249, "mount": 165, "umount2": 166, "move_mount": 429, "open_by_handle_at": 304,
		"open_tree": 428, "perf_event_open": 298, "personality": 135, "pivot_root": 155, "ptrace": 101, "quotactl": 179, "reboot": 169,
		"setns": 308, "socket": 41, "swapon": 167, "syslog": 103, "unshare": 272, "userfaultfd": 323, "init_module": 175, "acct": 163,
		"settimeofday": 164, "iopl": 172},
	"arm64": {"bpf": 280, "clone": 220, "clone3": 435, "fsopen": 430, "io_uring_setup": 425, "kexec_load": 104, "kexec_file_load": 294,
		"keyctl": 219, "add_key": 217, "request_key": 218, "mount": 40, "umount2": 39, "move_mount": 429, "open_by_handle_at": 265,
		"open_tree": 428, "perf_event_open": 241, "personality": 92, "pivot_root": 41, "ptrace": 117, "quotactl": 60, "reboot": 142,
		"setns": 268, "socket": 198, "swapon": 224, "syslog": 116, "unshare": 97, "userfaultfd": 282, "init_module": 105, "acct": 89,
		"settimeofday": 170},
}

func main() {
	runtime.LockOSThread()
	call := func(name string, nr string, args ...uintptr) {
		n, known := numbers[runtime.GOARCH][nr]
		if !known {
			return
		}
		var a [6]uintptr
		copy(a[:], args)
		_, _, e := syscall.RawSyscall6(n, a[0], a[1], a[2], a[3], a[4], a[5])
		fmt.Println(name, answer(e))
	}
	const newUser, newNS = 0x10000000, 0x20000
	empty := uintptr(unsafe.Pointer(&[1]byte{}))
	call("keyctl", "keyctl", 0, ^uintptr(3), 0) // the ID of the session's ring
	call("add_key", "add_key", empty, empty)
	call("request_key", "request_key", empty, empty)
	call("bpf", "bpf", 0, 0, 0)
	call("perf_event_open", "perf_event_open", 0)
	call("userfaultfd", "userfaultfd", 0)
	call("io_uring_setup", "io_uring_setup", 1, empty)
	call("kexec_load", "kexec_load", 0, 0, 0, 0xffff0000)
	call("kexec_file_load", "kexec_file_load", 0, 0, 0, 0, 0xffff0000)
	call("init_module", "init_module", 0, 0, 0)
	call("open_by_handle_at", "open_by_handle_at", ^uintptr(0), empty)
	call("mount", "mount", empty, empty, empty)
	call("umount2", "umount2", empty)
	call("fsopen", "fsopen", empty)
	call("open_tree", "open_tree", ^uintptr(0), empty)
	call("move_mount", "move_mount", ^uintptr(0), empty, ^uintptr(0), empty)
	call("pivot_root", "pivot_root", empty, empty)
	call("setns", "setns", ^uintptr(0))
	call("quotactl", "quotactl", 0, empty)
	call("reboot", "reboot", 1, 2, 3)
	call("swapon", "swapon", empty)
	call("acct", "acct", empty)
	call("syslog", "syslog", 10)
	call("settimeofday", "settimeofday", empty, empty)
	call("iopl", "iopl", 3)
	call("personality of linux", "personality", 0)
	call("personality without random addresses", "personality", 0x0040000)
	call("socket of a virtual machine", "socket", 40, 1, 0)
	call("unshare of a mount namespace", "unshare", newNS)
	call("clone3", "clone3", 0, 0)
	// A child in a user namespace of its own has all capabilities there. SIGCHLD, and no other flag: it is a fork.
	if n := numbers[runtime.GOARCH]["clone"]; n != 0 {
		pid, _, e := syscall.RawSyscall6(n, newUser|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if e == 0 && pid == 0 {
			syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
		}
		if e == 0 {
			var st syscall.WaitStatus
			_, _ = syscall.Wait4(int(pid), &st, 0, nil)
		}
		fmt.Println("clone of a user namespace", answer(e))
	}
	call("ptrace", "ptrace", 0) // TRACEME, which Docker allows since Linux 4.8

	try := func(name string, err error) { fmt.Println(name, answer(err)) }
	opened := func(path string, flag int) error {
		f, err := os.OpenFile(path, flag, 0)
		if err == nil {
			f.Close()
		}
		return err
	}
	try("mknod of a disk", syscall.Mknod("/tmp/disk", syscall.S_IFBLK|0o600, 8<<8))
	try("open of that disk", opened("/tmp/disk", os.O_RDONLY))
	try("mknod of memory", syscall.Mknod("/tmp/mem", syscall.S_IFCHR|0o600, 1<<8|1))
	try("open of that memory", opened("/tmp/mem", os.O_RDWR))
	try("mknod of the kernel's log", syscall.Mknod("/tmp/kmsg", syscall.S_IFCHR|0o600, 1<<8|11))
	try("open of that log", opened("/tmp/kmsg", os.O_RDWR))
	try("mknod of null", syscall.Mknod("/tmp/null", syscall.S_IFCHR|0o600, 1<<8|3))
	try("open of that null", opened("/tmp/null", os.O_RDWR))
	for _, path := range []string{"/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger",
		"/proc/irq/default_smp_affinity", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		if _, err := os.Stat(path); err == nil {
			try("write to "+path, opened(path, os.O_WRONLY))
		}
	}
	for _, path := range []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"} {
		fmt.Println("sight of "+path, sight(path))
	}
	const nnp = 39 // PR_GET_NO_NEW_PRIVS
	v, _, _ := syscall.RawSyscall6(syscall.SYS_PRCTL, nnp, 0, 0, 0, 0, 0)
	fmt.Println("no new privileges", v)
	var files syscall.Rlimit
	try("files", syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	fmt.Println("hard files", files.Max)
}

// sight is whether anything of a file or folder can be read.
func sight(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return "nothing"
	}
	if st.IsDir() {
		if list, _ := os.ReadDir(path); len(list) > 0 {
			return "entries"
		}
		return "nothing"
	}
	f, err := os.Open(path)
	if err != nil {
		return "nothing"
	}
	defer f.Close()
	if n, _ := f.Read(make([]byte, 16)); n > 0 {
		return "bytes"
	}
	return "nothing"
}

func answer(err error) string {
	var e syscall.Errno
	switch {
	case err == nil:
		return "done"
	case !errors.As(err, &e):
		return err.Error()
	case e == 0:
		return "done"
	case e == syscall.EPERM:
		return "EPERM"
	case e == syscall.ENOSYS:
		return "ENOSYS"
	case e == syscall.EROFS:
		return "EROFS"
	case e == syscall.EACCES:
		return "EACCES"
	}
	return "E" + strconv.Itoa(int(e))
}
