// Package doctor examines a host for what Shoal needs of it: the kernel, cgroups, programs, ports, other programs' packet
// filters, the clock, the disk.
//
// It decides what is well, what is worth knowing and what does not work, and which command helps. It works with and
// without a daemon: what only a running daemon knows comes in [Facts]. It changes nothing and owns nothing.
package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network/firewall"
	"shoal.dev/shoal/internal/network/sockets"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"      // as it should be
	Warning Level = "warning" // works, and somebody should know
	Failure Level = "failure" // something of Shoal does not work
)

// Finding is one line of a report.
type Finding struct {
	// Check is what was looked at: "kernel", "port 2377/tcp".
	Check string
	Level Level
	// Found is what was found, in words.
	Found string
	// Remedy is a command that helps; "" if all is well.
	Remedy string
}

// Report is what was found, in the order in which it is looked at.
type Report struct{ Findings []Finding }

// Failed says whether something does not work.
func (r *Report) Failed() bool {
	for _, f := range r.Findings {
		if f.Level == Failure {
			return true
		}
	}
	return false
}

// Clock is how far another clock is ahead of this host's.
type Clock struct {
	Of     string // "manager node2"
	Offset time.Duration
}

// Facts are what a host is examined for. [DefaultFacts] has a plain host's, without a daemon.
type Facts struct {
	// Running says that a daemon runs here, and Member that it is in a swarm.
	Running, Member bool
	// Port is the swarm's own, Tunnels that of the tunnels.
	Port, Tunnels uint16
	// Runtime is the OCI runtime's program, DataRoot the folder of the daemon's data.
	Runtime, DataRoot string
	// Cleanup and Full are percent of DataRoot's disk: see daemon.json's disk-cleanup and disk-full. 0: never.
	Cleanup, Full int
	// Relief is how many percent below Full a node takes tasks again.
	Relief int
	// Clocks are those of managers that were compared with this host's.
	Clocks []Clock
	// MaxOffset is how far clocks may be apart.
	MaxOffset time.Duration
	// Peers are host:port of the swarm's port on other nodes.
	Peers []string
	// Managed says that the daemon opens other programs' chains.
	Managed bool
}

// DefaultFacts are those of a host without a daemon and with the default configuration.
func DefaultFacts() Facts {
	return Facts{
		Port: 2377, Tunnels: 4789, Runtime: "runc", DataRoot: "/var/lib/shoal", Cleanup: 80, Full: 90, Relief: 5, MaxOffset: 30 * time.Second,
	}
}

// Disk is the room below a folder.
type Disk struct {
	Used         int    // percent
	UsedInodes   int    // percent
	Free, Blocks uint64 // bytes
}

// Host is how a host is looked at. [ThisHost] is the real one.
type Host struct {
	// Root has proc, sys and lib.
	Root fs.FS
	// Release is the kernel's.
	Release string
	// Run runs a program and gives what it prints.
	Run func(ctx context.Context, input, name string, args ...string) ([]byte, error)
	// Owner is [sockets.Owner].
	Owner func(protocol string, ip netip.Addr, port uint16) (owner string, held bool)
	Disk  func(dir string) (Disk, error)
	// Synced says whether the clock is kept by NTP or the like.
	Synced func() (bool, error)
	// MTU is that of an interface, in bytes.
	MTU func(name string) (int, error)
	// Dial is [net.Dialer.DialContext].
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Superuser says that it may look at everything.
	Superuser bool
}

// runTimeout bounds one program.
const runTimeout = 20 * time.Second

// ThisHost is the host on which the process runs.
func ThisHost() *Host {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // cannot fail with a valid pointer
	return &Host{
		Root: os.DirFS("/"), Release: unix.ByteSliceToString(uts.Release[:]), Run: run, Owner: sockets.Owner, Disk: DiskOf, Synced: synced, MTU: mtuOf,
		Dial: (&net.Dialer{Timeout: dialTimeout}).DialContext, Superuser: os.Geteuid() == 0,
	}
}

// Examine looks at everything. It takes a few seconds at most.
func (h *Host) Examine(ctx context.Context, f Facts) *Report {
	r := &Report{Findings: []Finding{}}
	for _, look := range []func(context.Context, *Facts) []Finding{
		h.kernel, h.cgroups, h.programs, h.ports, h.firewall, h.forwarding, h.conntrack, h.mtu, h.clock, h.disk, h.peers,
	} {
		r.Findings = append(r.Findings, look(ctx, &f)...)
	}
	return r
}

// one is a report of one finding.
func one(check string, level Level, remedy, format string, args ...any) []Finding {
	return []Finding{{Check: check, Level: level, Found: fmt.Sprintf(format, args...), Remedy: remedy}}
}

// read is the content of a small file below the root, without spaces around; ok is false if it cannot be read.
func (h *Host) read(name string) (text string, ok bool) {
	data, err := fs.ReadFile(h.Root, name)
	return strings.TrimSpace(string(data)), err == nil
}

func run(ctx context.Context, input, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// Nft runs nft on this host.
func Nft(ctx context.Context, input string, args ...string) ([]byte, error) {
	return run(ctx, input, "nft", args...)
}

// Question is what to ask of the packet filter of a host.
func (h *Host) Question(f *Facts) firewall.Question {
	bridged, _ := h.read("proc/sys/net/bridge/bridge-nf-call-iptables")
	return firewall.Question{Uplink: h.uplink(), Bridged: bridged == "1", Ports: &firewall.Ports{Swarm: f.Port, Tunnels: f.Tunnels}}
}

// DiskOf is the room on the disk of a folder, as others than root may use it.
func DiskOf(dir string) (Disk, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Disk{}, err
	}
	percent := func(used, left uint64) int {
		if used+left == 0 {
			return 0
		}
		return int((used*100 + used + left - 1) / (used + left)) // rounded up, as df does
	}
	return Disk{
		Used: percent(s.Blocks-s.Bfree, s.Bavail), UsedInodes: percent(s.Files-s.Ffree, s.Ffree),
		Free: s.Bavail * uint64(s.Bsize), Blocks: s.Blocks * uint64(s.Bsize),
	}, nil
}

// synced asks the kernel, which whoever keeps the clock tells (adjtimex(2)).
func synced() (bool, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, err
	}
	return t.Status&unix.STA_UNSYNC == 0, nil
}

func mtuOf(name string) (int, error) {
	l, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return l.MTU, nil
}
