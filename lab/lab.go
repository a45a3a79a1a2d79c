// Package lab makes hosts for Shoal on one machine: network namespaces that are joined by a bridge in a namespace of
// its own, with a shoald on each, an outside client and a registry. Nothing of it is in the machine's own network
// namespace, and nothing in it has a route to the outside.
//
// It decides the names, the addresses and the files of a lab, which scripts rely on, and what losing power and losing
// the link mean. It owns the namespaces shoal-fabric, shoal-client, shoal-registry and shoal-nodeN, the cgroups below
// /shoal-lab, /run/shoal-lab and the folder .lab of the clone. It
// never looks into shoald: it knows its configuration file, its socket and its process, as an operator does.
//
// There is one lab on a machine at a time, since the names are fixed; making one removes the one before, whichever
// clone it came from.
package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
)

// Names and addresses that scripts rely on. The addresses are those that RFC 2544 sets aside for tests of network
// devices; they are never routed.
const (
	// FabricNamespace holds the bridge that joins all others.
	FabricNamespace = prefix + "fabric"
	// ClientNamespace is a host outside of the swarm.
	ClientNamespace = prefix + "client"
	// ClientAddr is its address.
	ClientAddr = "198.18.0.250"
	// RegistryNamespace is where the registry runs.
	RegistryNamespace = prefix + "registry"
	// RegistryAddr is its address.
	RegistryAddr = "198.18.0.251"
	// Registry is the host and port of the registry, as in the name of an image.
	Registry = RegistryAddr + ":5000"
	// MaxNodes is how many hosts a lab may have: their numbers are the last byte of their addresses.
	MaxNodes = 240
)

// prefix begins the name of every network namespace of the lab.
const prefix = "shoal-"

// subnetBits is the length of the prefix of the lab's network 198.18.0.0/24.
const subnetBits = 24

// cgroupRoot is the parent of the cgroups of all hosts of the lab. It is not the /shoal of a shoald that runs on the
// machine itself: that one is not ours to kill.
const cgroupRoot = "/shoal-lab"

// runRoot holds, per clone, what a host loses with its power: sockets and the state of its containers. It is short
// because the path of a unix socket has at most 107 bytes (unix(7)), however deep the clone is.
const runRoot = "/run/shoal-lab"

// maxSocketPath is the longest path of a unix socket: sun_path has 108 bytes with its final zero, see unix(7).
const maxSocketPath = 107

// hostMarker is the environment variable by which a process of the lab is known even when its namespace has lost its
// name. Its value is the host's name.
const hostMarker = "SHOAL_LAB_HOST"

// Lab is the lab of one clone of the repository. Its methods need root, except those that only name things.
type Lab struct {
	// Root is the clone: an absolute path.
	Root string
	// Shoald is the daemon that is started on the hosts, absolute or below Root.
	Shoald string
	// Images is the folder of the OCI layouts that the registry serves.
	Images string
	// Out takes a line for each step; nil is silence.
	Out io.Writer
}

// Open returns the lab of the clone at root. It makes nothing.
func Open(root string) (*Lab, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return nil, err
	}
	return &Lab{Root: abs, Shoald: filepath.Join("bin", "shoald"), Images: filepath.Join("bin", "images")}, nil
}

// FindRoot returns the clone that the working directory is in: the nearest folder upwards with a go.mod.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not inside a clone of the repository", dir)
		}
	}
}

// Dir is the folder with the files of the hosts.
func (l *Lab) Dir() string { return filepath.Join(l.Root, ".lab") }

// runDir is where the hosts' exec-roots are.
func (l *Lab) runDir() string {
	sum := sha256.Sum256([]byte(l.Dir()))
	return filepath.Join(runRoot, hex.EncodeToString(sum[:4]))
}

// Host is one host of a lab and where its files are.
type Host struct {
	N         int
	Name      string // its hostname, nodeN
	Namespace string // its network namespace
	Addr      string
	Dir       string // its folder .lab/nodeN
	Socket    string // of the Engine API
	Log       string // what its shoald printed
	PIDFile   string
	Data      string // what it keeps without power
	Run       string // what it loses without power: the exec-root
	Config    string // its daemon.json
}

// Host returns host n. It says nothing about whether there is one.
func (l *Lab) Host(n int) Host {
	name := fmt.Sprintf("node%d", n)
	dir := filepath.Join(l.Dir(), name)
	return Host{
		N: n, Name: name, Namespace: prefix + name, Addr: nodeAddr(n).String(), Dir: dir,
		Socket: filepath.Join(dir, "shoal.sock"), Log: filepath.Join(dir, "shoald.log"),
		PIDFile: filepath.Join(dir, "shoald.pid"), Data: filepath.Join(dir, "data"),
		Run: filepath.Join(l.runDir(), name), Config: filepath.Join(dir, "daemon.json"),
	}
}

// bindPath is where the daemon makes its socket: Socket itself, or a path short enough that Socket then links to.
func (h Host) bindPath() string {
	if len(h.Socket) <= maxSocketPath {
		return h.Socket
	}
	return filepath.Join(h.Run, "shoal.sock")
}

// offFile marks a host that has no power.
func (h Host) offFile() string { return filepath.Join(h.Dir, "off") }

// cgroup is the parent of the cgroups of the host's containers.
func (h Host) cgroup() string { return cgroupRoot + "/" + h.Name }

// nodeAddr is the address of host n.
func nodeAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(n)}) }

// Hosts returns the hosts that the lab was made with, in order of their numbers.
func (l *Lab) Hosts() ([]Host, error) {
	var hosts []Host
	for n := 1; n <= MaxNodes; n++ {
		h := l.Host(n)
		if _, err := os.Stat(h.Config); os.IsNotExist(err) {
			break
		} else if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// host returns host n if the lab was made with it.
func (l *Lab) host(n int) (Host, error) {
	hosts, err := l.Hosts()
	if err != nil {
		return Host{}, err
	}
	if len(hosts) == 0 {
		return Host{}, fmt.Errorf("no lab in %s: make one with make lab NODES=3", l.Dir())
	}
	if n < 1 || n > len(hosts) {
		return Host{}, fmt.Errorf("no host %d in this lab: it has hosts 1 to %d", n, len(hosts))
	}
	return hosts[n-1], nil
}

func (l *Lab) say(format string, args ...any) {
	if l.Out != nil {
		fmt.Fprintf(l.Out, format+"\n", args...)
	}
}
