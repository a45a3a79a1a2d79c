package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"shoal.dev/shoal/internal/cluster"
)

// Config is what a daemon is started with: daemon.json's keys are Docker's where Docker has the key. The swarm's own
// settings are not here; they live in the store.
type Config struct {
	// Hosts are the addresses that the Engine API is served on: unix://PATH and tcp://ADDRESS:PORT.
	Hosts []string `json:"hosts"`
	// TLS secures the API on TCP with TLSCert and TLSKey; TLSVerify does too, and serves only clients with a certificate
	// of TLSCACert. An explicit false for TLS is how somebody says that he wants it open.
	TLS       *bool  `json:"tls"`
	TLSVerify bool   `json:"tlsverify"`
	TLSCACert string `json:"tlscacert"`
	TLSCert   string `json:"tlscert"`
	TLSKey    string `json:"tlskey"`
	// DataRoot keeps images, containers and the swarm's state.
	DataRoot string `json:"data-root"`
	// ExecRoot keeps what ends with a reboot: sockets, mounts, namespaces. Sockets live in it, so keep it short.
	ExecRoot string `json:"exec-root"`
	// Pidfile is written at start and removed at the end; "" for none.
	Pidfile string `json:"pidfile"`
	// LogLevel is debug, info, warn or error; Debug stands for the first and is shown by `info`.
	LogLevel string `json:"log-level"`
	Debug    bool   `json:"debug"`
	// Labels are the engine's, as key=value.
	Labels []string `json:"labels"`
	// GenericResources are what the node has for tasks to reserve, as KIND=NUMBER or KIND=NAME.
	GenericResources []string `json:"node-generic-resources"`
	// DiskCleanup is how many percent of the disk of DataRoot may be used before images that no container has used for a day
	// are removed, and DiskFull with how many the node takes no new tasks. 0: never. Both are for members of a swarm.
	DiskCleanup int `json:"disk-cleanup"`
	DiskFull    int `json:"disk-full"`
	// InsecureRegistries are host[:port] of registries that are spoken to without TLS.
	InsecureRegistries []string `json:"insecure-registries"`
	// RegistryMirrors are URLs that are asked before docker.io.
	RegistryMirrors []string `json:"registry-mirrors"`
	// CgroupParent is the cgroup that containers' cgroups are made in: a path, made by runc itself, or the name of a
	// slice, made by systemd. By default it is shoal.slice where systemd runs the machine, else /shoal.
	CgroupParent string `json:"cgroup-parent"`
	// Runtime is the OCI runtime's program.
	Runtime string `json:"runtime"`
	// Shim is the path of containerd-shim-shoal-v1; by default it is looked for beside shoald.
	Shim string `json:"shim"`
	// LogDriver and LogOpts are those of containers that name no driver; "" is json-file.
	LogDriver string            `json:"log-driver"`
	LogOpts   map[string]string `json:"log-opts"`
	// Init gives containers that do not say an init process, and InitPath is its program; by default shoal-init is looked
	// for beside shoald.
	Init     bool   `json:"init"`
	InitPath string `json:"init-path"`
	// Firewall is "manage" for accepts of Shoal in the chains that dockerd, firewalld and ufw leave to the host's user, where
	// they would drop what containers send and get; "" for none.
	Firewall string `json:"firewall"`
	// SocketGroup owns the API's socket.
	SocketGroup string `json:"group"`
}

// DefaultConfig is a plain machine's.
func DefaultConfig() Config {
	return Config{
		Hosts: []string{"unix:///run/shoal.sock"}, DataRoot: "/var/lib/shoal", ExecRoot: "/run/shoal", Pidfile: "/run/shoal.pid",
		LogLevel: "info", Runtime: "runc", SocketGroup: "shoal", DiskCleanup: 80, DiskFull: 90,
	}
}

// LoadFile reads daemon.json over c. Unknown keys are refused by name; then c is as it was.
func (c *Config) LoadFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("unable to configure shoald with file %s: %w", path, err) }
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	given := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &given); err != nil {
		return fail(err)
	}
	byKey(c, func(key string, _ any) { delete(given, key) })
	if len(given) > 0 {
		return fail(fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(slices.Sorted(maps.Keys(given)), ", ")))
	}
	next := *c
	if err := json.Unmarshal(data, &next); err != nil {
		return fail(err)
	}
	*c = next
	return nil
}

// Validate says what cannot be. It makes relative paths absolute and finds the shim.
func (c *Config) Validate() error {
	if len(c.Hosts) == 0 {
		return errors.New(`no hosts to listen on: set "hosts", for example to ["unix:///run/shoal.sock"]`)
	}
	for _, h := range c.Hosts {
		if strings.HasPrefix(h, "tcp://") {
			if _, err := c.tcpAddr(h); err != nil {
				return err
			}
		} else if path, ok := strings.CutPrefix(h, "unix://"); !ok || path == "" {
			return fmt.Errorf("host %q: give it as unix://PATH or tcp://ADDRESS:PORT", h)
		}
	}
	if _, err := c.serverTLS(); err != nil {
		return err
	}
	for _, p := range []*string{&c.DataRoot, &c.ExecRoot} {
		if *p == "" {
			return errors.New("data-root and exec-root must not be empty")
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	for _, l := range c.Labels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			return fmt.Errorf("bad attribute format: %s: a label is KEY=VALUE", l)
		}
	}
	if _, err := cluster.ParseGenericResources(c.GenericResources); err != nil {
		return err
	}
	for key, v := range map[string]int{"disk-cleanup": c.DiskCleanup, "disk-full": c.DiskFull} {
		if v < 0 || v > 100 {
			return fmt.Errorf("%s: %d: give percent of the disk, or 0 for never", key, v)
		}
	}
	if c.Firewall != "" && c.Firewall != manageFirewall {
		return fmt.Errorf("firewall: %q: give %q, or nothing", c.Firewall, manageFirewall)
	}
	for _, m := range c.RegistryMirrors {
		if u, err := url.Parse(m); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("invalid mirror: %q is not an http or https URL", m)
		}
	}
	for _, r := range c.InsecureRegistries {
		if host, _, err := net.SplitHostPort(r); strings.Contains(r, "://") || err == nil && host == "" {
			return fmt.Errorf("insecure registry %q: give it as HOST or HOST:PORT", r)
		}
	}
	if err := new(slog.Level).UnmarshalText([]byte(c.LogLevel)); err != nil {
		return fmt.Errorf("log level %q: choose debug, info, warn or error", c.LogLevel)
	}
	if c.CgroupParent == "" {
		c.CgroupParent = "/shoal"
		if _, err := os.Stat("/run/systemd/system"); err == nil { // sd_booted(3)
			c.CgroupParent = "shoal.slice"
		}
	}
	for path, name := range map[*string]string{&c.Shim: "containerd-shim-shoal-v1", &c.InitPath: "shoal-init"} {
		if *path != "" {
			continue
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		*path = filepath.Join(filepath.Dir(self), name)
	}
	if _, err := os.Stat(c.Shim); err != nil {
		return fmt.Errorf("the shim is missing: %w: install it beside shoald or set \"shim\"", err)
	}
	return nil
}

// systemdCgroup says whether systemd makes the containers' cgroups.
func (c *Config) systemdCgroup() bool { return strings.HasSuffix(c.CgroupParent, ".slice") }

// Level is that of the daemon's own log. The configuration is valid.
func (c *Config) Level() slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.LogLevel)); err != nil || c.Debug {
		return slog.LevelDebug
	}
	return l
}

// logDriver is that of containers that name none.
func (c *Config) logDriver() string {
	if c.LogDriver == "" {
		return "json-file"
	}
	return c.LogDriver
}

func (c *Config) labels() map[string]string {
	m := map[string]string{}
	for _, l := range c.Labels {
		k, v, _ := strings.Cut(l, "=")
		m[k] = v
	}
	return m
}

// certsDirs are the folders of registries' certificates: Docker's, so that what is there goes on to count, and ours.
func certsDirs() []string { return []string{"/etc/docker/certs.d", "/etc/shoal/certs.d"} }
