// Command shoal-init is the first process of a container that was asked for one (--init). It is mounted where Docker
// has its own, at /sbin/docker-init, and called in the same way: docker-init -- COMMAND [ARG…].
//
// It runs the command in a process group of its own, and in the foreground if there is a terminal; it passes on the
// signals that it gets, reaps processes that lost their parents, and ends as the command ended: with its exit code, or
// 128 and the number of the signal. It decides nothing else and opens no file. It is a binary of its own, with as
// little in it as can be, because it stays in memory with every container that has it.
//
// Three signals are not passed on although they could be: SIGURG, which Go's runtime sends to itself, and 32 to 34,
// which C libraries keep for themselves and Go does not tell of.
package main

import (
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// foreground is the first argument of the second one of us, which a terminal needs; see inForeground.
const foreground = "--foreground"

func main() {
	argv := os.Args[1:]
	if len(argv) > 2 && argv[0] == foreground {
		inForeground(argv[1], argv[2:])
	}
	// First of all, lest a signal finds only Go's runtime, and before the command runs, lest one is missed.
	told, ended := make(chan os.Signal, 128), make(chan os.Signal, 1)
	signal.Notify(told, forwarded()...)
	signal.Notify(ended, syscall.SIGCHLD)
	runtime.GOMAXPROCS(1) // each thread counts for the container's limit of processes
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		die(1, "usage: docker-init -- COMMAND [ARG...]")
	}
	path, err := find(argv[0])
	if err != 0 {
		failed(argv[0], err)
	}
	pid := start(path, argv)
	for {
		select {
		case s := <-told:
			_ = syscall.Kill(pid, s.(syscall.Signal)) // it may have ended, which is told next
		case <-ended:
			reap(pid)
		}
	}
}

// forwarded are the signals that are passed on: all but those that cannot be caught, that mean a fault of our own, or
// that a terminal sends to who is in the background.
func forwarded() []os.Signal {
	own := func(s syscall.Signal) bool {
		switch s {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV,
			syscall.SIGBUS, syscall.SIGABRT, syscall.SIGTRAP, syscall.SIGSYS, syscall.SIGTTIN, syscall.SIGTTOU:
			return true
		}
		return false
	}
	const last = 64
	var list []os.Signal
	for s := syscall.Signal(1); s <= last; s++ {
		if !own(s) {
			list = append(list, s)
		}
	}
	return list
}

// start runs the command and returns its process ID.
func start(path string, argv []string) int {
	attr := &syscall.ProcAttr{Env: syscall.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	name := path
	var group int32
	if _, _, err := syscall.RawSyscall(syscall.SYS_IOCTL, 0, syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group))); err == 0 {
		name, argv = "/proc/self/exe", append([]string{os.Args[0], foreground, path}, argv...)
	}
	pid, err := syscall.ForkExec(name, argv, attr)
	if err != nil {
		failed(path, err.(syscall.Errno))
	}
	return pid
}

// inForeground takes the terminal for our process group and becomes the command. A process of Go cannot do that between
// fork and exec, and from the parent it would come too late for a command that reads at once.
func inForeground(path string, argv []string) {
	signal.Ignore(syscall.SIGTTOU) // whoever takes the terminal from the background would be stopped
	group := int32(syscall.Getpid())
	_, _, _ = syscall.RawSyscall(syscall.SYS_IOCTL, 0, syscall.TIOCSPGRP, uintptr(unsafe.Pointer(&group)))
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTTOU) // for the command it is as it was: exec resets handlers
	failed(path, syscall.Exec(path, argv, syscall.Environ()).(syscall.Errno))
}

// reap takes in all processes that have ended, and ends as the command if it is one of them.
func reap(command int) {
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case pid <= 0:
			return
		case pid == command && st.Signaled():
			const signalled = 128 // a shell's
			os.Exit(signalled + int(st.Signal()))
		case pid == command:
			os.Exit(st.ExitStatus())
		}
	}
}

// find looks a command up as execvp(3) does.
func find(name string) (string, syscall.Errno) {
	if strings.Contains(name, "/") {
		return name, 0
	}
	path, ok := syscall.Getenv("PATH")
	if !ok {
		path = "/bin:/usr/bin"
	}
	err := syscall.ENOENT
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		file := dir + "/" + name
		var st syscall.Stat_t
		if syscall.Stat(file, &st) != nil {
			continue
		}
		const executable = 1
		if st.Mode&syscall.S_IFMT == syscall.S_IFREG && syscall.Access(file, executable) == nil {
			return file, 0
		}
		err = syscall.EACCES
	}
	return "", err
}

// failed ends with a shell's exit code for a command that does not run.
func failed(name string, err syscall.Errno) {
	code := 126
	if err == syscall.ENOENT {
		code = 127
	}
	die(code, "exec "+name+" failed: "+err.Error())
}

func die(code int, text string) {
	_, _ = os.Stderr.WriteString("[FATAL docker-init] " + text + "\n")
	os.Exit(code)
}
