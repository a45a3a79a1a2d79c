// Command shoald is Shoal's daemon: the Engine API, the container engine, the agent and, on managers, the control
// plane. It turns flags and daemon.json into a configuration and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"shoal.dev/shoal/internal/node"
)

// version is set by the linker.
var version = "0.0.0-dev"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "shoald:", err)
		os.Exit(1)
	}
}

// list is a flag that may be given several times. The first replaces what the file said.
type list struct {
	values *[]string
	set    bool
}

func (l *list) String() string {
	if l.values == nil {
		return ""
	}
	return strings.Join(*l.values, ",")
}

func (l *list) Set(v string) error {
	if !l.set {
		*l.values, l.set = nil, true
	}
	*l.values = append(*l.values, v)
	return nil
}

func run(args []string) error {
	c, err := load(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.showVersion {
		fmt.Println("shoald version", version)
		return nil
	}
	if c.validate {
		fmt.Println("configuration OK")
		return nil
	}
	var level slog.LevelVar
	level.Set(c.Level())
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	return node.Run(ctx, c.Config, version, log, node.Reloader{Wanted: hup, Level: &level, Load: func() (node.Config, error) {
		c, err := load(args)
		return c.Config, err
	}})
}

// command is what the command line asks for. The configuration is valid unless the version is asked for.
type command struct {
	node.Config
	showVersion, validate bool
}

// load reads the command line, and the file that it names.
func load(args []string) (c command, err error) {
	const defaultFile = "/etc/shoal/daemon.json"
	cfg := &c.Config
	*cfg = node.DefaultConfig()
	var file string
	// The file is read before the flags are, so that flags win: its name is looked for first.
	find := flag.NewFlagSet("shoald", flag.ContinueOnError)
	define := func(fs *flag.FlagSet) {
		fs.StringVar(&file, "config-file", defaultFile, "daemon configuration `file`")
		fs.Var(&list{values: &cfg.Hosts}, "host", "`address` to serve the Engine API on, unix://PATH or tcp://ADDRESS:PORT (repeatable)")
		fs.Var(&list{values: &cfg.Hosts}, "H", "short for -host")
		fs.StringVar(&cfg.DataRoot, "data-root", cfg.DataRoot, "`folder` of images, containers and the swarm's state")
		fs.StringVar(&cfg.ExecRoot, "exec-root", cfg.ExecRoot, "`folder` of sockets and mounts; keep its path short")
		fs.StringVar(&cfg.Pidfile, "pidfile", cfg.Pidfile, "`file` for the daemon's process ID")
		fs.StringVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error")
		for _, name := range []string{"debug", "D"} {
			fs.BoolVar(&cfg.Debug, name, cfg.Debug, "log everything, whatever -log-level is")
		}
		fs.BoolFunc("tls", "secure the API on TCP; implied by -tlsverify; -tls=false opens it to everybody", func(v string) error {
			on, err := strconv.ParseBool(v)
			cfg.TLS = &on
			return err
		})
		fs.BoolVar(&cfg.TLSVerify, "tlsverify", cfg.TLSVerify, "serve the API on TCP only to clients with a certificate of -tlscacert")
		fs.StringVar(&cfg.TLSCACert, "tlscacert", cfg.TLSCACert, "`file` of the certificates that clients' are signed by, PEM")
		fs.StringVar(&cfg.TLSCert, "tlscert", cfg.TLSCert, "`file` of the certificate for TCP, PEM")
		fs.StringVar(&cfg.TLSKey, "tlskey", cfg.TLSKey, "`file` of its key, PEM")
		fs.Var(&list{values: &cfg.Labels}, "label", "engine label `KEY=VALUE` (repeatable)")
		fs.Var(&list{values: &cfg.GenericResources}, "node-generic-resource", "what the node has for tasks to reserve, `KIND=NUMBER` or KIND=NAME (repeatable)")
		fs.IntVar(&cfg.DiskCleanup, "disk-cleanup", cfg.DiskCleanup, "`percent` of the disk that may be used before images that no container has used for a day are removed, 0: never")
		fs.IntVar(&cfg.DiskFull, "disk-full", cfg.DiskFull, "`percent` of the disk above which the node takes no new tasks, 0: never")
		fs.Var(&list{values: &cfg.InsecureRegistries}, "insecure-registry", "`HOST[:PORT]` of a registry without TLS (repeatable)")
		fs.Var(&list{values: &cfg.RegistryMirrors}, "registry-mirror", "`URL` of a mirror of docker.io (repeatable)")
		fs.StringVar(&cfg.CgroupParent, "cgroup-parent", cfg.CgroupParent, "`cgroup` or systemd slice in which those of containers are made (default shoal.slice with systemd, else /shoal)")
		fs.StringVar(&cfg.Runtime, "runtime", cfg.Runtime, "OCI runtime `program`")
		fs.StringVar(&cfg.LogDriver, "log-driver", cfg.LogDriver, "`driver` of containers' logs that name none: json-file, local or none (default json-file)")
		fs.Func("log-opt", "`KEY=VALUE`, an option of that driver (repeatable)", func(v string) error {
			key, value, ok := strings.Cut(v, "=")
			if !ok || key == "" {
				return fmt.Errorf("bad attribute format: %s: a log option is KEY=VALUE", v)
			}
			cfg.LogOpts = maps.Clone(cfg.LogOpts)
			if cfg.LogOpts == nil {
				cfg.LogOpts = map[string]string{}
			}
			cfg.LogOpts[key] = value
			return nil
		})
		fs.StringVar(&cfg.Firewall, "firewall", cfg.Firewall, "`manage` to let containers' packets through the chains of dockerd, firewalld and ufw (default: only say which drops them)")
		fs.StringVar(&cfg.SocketGroup, "group", cfg.SocketGroup, "`group` that may use the socket")
		fs.BoolVar(&c.showVersion, "version", false, "print the version and quit")
		fs.BoolVar(&c.validate, "validate", false, "check the configuration and quit")
	}
	define(find)
	if err := find.Parse(args); err != nil {
		return c, err
	}
	if find.NArg() > 0 {
		return c, fmt.Errorf("unknown argument %q; run 'shoald -help' for what there is", find.Arg(0))
	}
	if c.showVersion {
		return c, nil
	}
	name := file
	*cfg = node.DefaultConfig()
	if err := cfg.LoadFile(name); err != nil && (name != defaultFile || !errors.Is(err, os.ErrNotExist)) {
		return c, err
	}
	flags := flag.NewFlagSet("shoald", flag.ContinueOnError)
	define(flags)
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	return c, cfg.Validate()
}
