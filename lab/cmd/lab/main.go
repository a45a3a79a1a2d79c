// Command lab makes, breaks, mends and removes a lab of Shoal hosts on this machine. The Makefile calls it; package
// lab says what it does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"shoal.dev/shoal/lab"
	"shoal.dev/shoal/lab/images"
)

// command is a subcommand: its flags are set before it runs.
type command struct {
	name, help string
	setup      func(*flag.FlagSet) func(context.Context, *lab.Lab) error
}

var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, errUsage), errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	all := commands()
	if len(args) == 0 {
		return usage(all)
	}
	i := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] })
	if i < 0 {
		return usage(all)
	}
	fs := flag.NewFlagSet("lab "+all[i].name, flag.ContinueOnError)
	action := all[i].setup(fs)
	if err := fs.Parse(args[1:]); err != nil {
		return errUsage
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%s takes no arguments, only flags: %q", all[i].name, fs.Args())
	}
	root, err := lab.FindRoot()
	if err != nil && all[i].name != "registry" { // which serves any folder
		return err
	}
	l, err := lab.Open(root)
	if err != nil {
		return err
	}
	l.Out = os.Stdout
	return action(ctx, l)
}

func usage(all []command) error {
	fmt.Fprintln(os.Stderr, "usage: lab COMMAND [flags]")
	for _, c := range all {
		fmt.Fprintf(os.Stderr, "  %-11s %s\n", c.name, c.help)
	}
	return errUsage
}

func commands() []command {
	return []command{
		{"up", "make hosts with a shoald each and no swarm, in place of the lab before", up},
		{"down", "remove everything of every lab on this machine", down},
		{"kill", "take the power from a host: first its link, then all it runs", host((*lab.Lab).Kill, "is off")},
		{"start", "boot a host that is off, with its data, or start its shoald if only that has died", host((*lab.Lab).Start, "is up")},
		{"cut", "cut a host's link", host((*lab.Lab).Cut, "has no link")},
		{"heal", "mend a host's link", host((*lab.Lab).Heal, "has its link")},
		{"shell", "a shell on a host; 0 is the outside client", shell},
		{"status", "the hosts and their state", status},
		{"env", "what to evaluate so that shoal and docker talk to a host", env},
		{"quickstart", "the first session of the README, on a new lab", quickstart},
		{"images", "make the images of the registry as OCI layouts", makeImages},
		{"registry", "serve the images over HTTP; the lab starts it", registry},
	}
}

func up(fs *flag.FlagSet) func(context.Context, *lab.Lab) error {
	nodes := fs.Int("nodes", 3, "how many hosts")
	level := fs.String("log-level", "info", "of the daemons: debug, info, warn or error")
	return func(ctx context.Context, l *lab.Lab) error {
		start := time.Now()
		if err := l.Up(ctx, lab.Options{Nodes: *nodes, LogLevel: *level}); err != nil {
			return err
		}
		if err := printStatus(ctx, l); err != nil {
			return err
		}
		fmt.Printf("Registry http://%s; client 198.18.0.250 in namespace %s. (%.1f s)\n", lab.Registry, lab.ClientNamespace, time.Since(start).Seconds())
		return nil
	}
}

func down(*flag.FlagSet) func(context.Context, *lab.Lab) error {
	return func(ctx context.Context, l *lab.Lab) error { return l.Down(ctx) }
}

// host is a subcommand that does something to one host.
func host(do func(*lab.Lab, context.Context, int) error, done string) func(*flag.FlagSet) func(context.Context, *lab.Lab) error {
	return func(fs *flag.FlagSet) func(context.Context, *lab.Lab) error {
		n := fs.Int("node", 0, "number of the host")
		return func(ctx context.Context, l *lab.Lab) error {
			if *n == 0 {
				return fmt.Errorf("which host? -node N, or NODE=N with make")
			}
			if err := do(l, ctx, *n); err != nil {
				return err
			}
			fmt.Printf("node%d %s\n", *n, done)
			return nil
		}
	}
}

func shell(fs *flag.FlagSet) func(context.Context, *lab.Lab) error {
	n := fs.Int("node", 1, "number of the host; 0 is the outside client")
	return func(ctx context.Context, l *lab.Lab) error {
		name, vars := "client", os.Environ()
		if *n > 0 {
			h := l.Host(*n)
			if _, err := os.Stat(h.Config); err != nil {
				return fmt.Errorf("no host %d: make lab NODES=3 makes hosts 1 to 3", *n)
			}
			name = h.Name
			vars = append(vars, "DOCKER_HOST=unix://"+h.Socket)
		}
		sh := []string{"sh", "-i"}
		if _, err := exec.LookPath("bash"); err == nil {
			sh = []string{"bash", "--norc", "-i"}
		}
		cmd := l.Command(ctx, *n, sh...)
		vars = append(vars, "PS1="+name+`:\w\$ `, "PATH="+filepath.Join(l.Root, "bin")+":"+os.Getenv("PATH"))
		program, err := exec.LookPath(cmd.Path)
		if err != nil {
			return err
		}
		// The shell takes this process's place, so that the terminal's signals are its own.
		return syscall.Exec(program, cmd.Args, vars)
	}
}

func status(*flag.FlagSet) func(context.Context, *lab.Lab) error { return printStatus }

func printStatus(ctx context.Context, l *lab.Lab) error {
	all, err := l.Status(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Println("no lab: make lab NODES=3 makes one")
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "HOST\tADDRESS\tSTATE\tSHOALD\tSOCKET")
	for _, s := range all {
		pid := "-"
		if s.PID != 0 {
			pid = fmt.Sprint(s.PID)
		}
		socket, err := filepath.Rel(l.Root, s.Host.Socket)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Host.Name, s.Host.Addr, s.State, pid, socket)
	}
	return w.Flush()
}

func env(fs *flag.FlagSet) func(context.Context, *lab.Lab) error {
	n := fs.Int("node", 1, "number of the host")
	return func(_ context.Context, l *lab.Lab) error {
		fmt.Printf("export DOCKER_HOST=%s\nexport PATH=%s:$PATH\n", quote("unix://"+l.Host(*n).Socket), quote(filepath.Join(l.Root, "bin")))
		return nil
	}
}

// quote is a word for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func quickstart(*flag.FlagSet) func(context.Context, *lab.Lab) error {
	return func(ctx context.Context, l *lab.Lab) error { return l.Quickstart(ctx) }
}

func makeImages(fs *flag.FlagSet) func(context.Context, *lab.Lab) error {
	hello := fs.String("hello", filepath.Join("bin", "hello"), "the programs of hello:1 and hello:2 are this `path` with -1 and -2")
	busybox := fs.String("busybox", "/bin/busybox", "the static busybox")
	return func(_ context.Context, l *lab.Lab) error {
		var all []images.Image
		for _, v := range []string{"1", "2"} {
			i, err := images.Hello(v, *hello+"-"+v)
			if err != nil {
				return err
			}
			all = append(all, i)
		}
		i, err := images.Busybox(*busybox)
		if err != nil {
			return err
		}
		for _, i := range append(all, i) {
			if err := images.Write(filepath.Join(l.Root, l.Images), i); err != nil {
				return fmt.Errorf("image %s: %w", i.Name, err)
			}
		}
		return nil
	}
}

func registry(fs *flag.FlagSet) func(context.Context, *lab.Lab) error {
	addr := fs.String("listen", lab.Registry, "`address` to listen on")
	dir := fs.String("images", filepath.Join("bin", "images"), "folder of the OCI layouts")
	pidfile := fs.String("pidfile", "", "file for the process id")
	return func(ctx context.Context, _ *lab.Lab) error {
		if *pidfile != "" {
			if err := lab.WritePIDFile(*pidfile); err != nil {
				return err
			}
		}
		return lab.ServeRegistry(ctx, *addr, *dir)
	}
}
