package compat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"shoal.dev/shoal/compat/transcript"
	"shoal.dev/shoal/lab"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"client": transcript.Record})
}

// unable skips a test that cannot run here, with the reason, or fails it where everything must run.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("SHOAL_REQUIRE_LAB") != "" {
		t.Fatalf("SHOAL_REQUIRE_LAB is set, and "+format, args...)
	}
	t.Skipf(format, args...)
}

// open returns the clone's lab, whose hosts beside it are used, if everything for them is there.
func open(t *testing.T) *lab.Lab {
	t.Helper()
	if testing.Short() {
		unable(t, "real containers take their time, and -short was asked for")
	}
	if os.Geteuid() != 0 {
		unable(t, "containers need root")
	}
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckBuilt(); err != nil {
		unable(t, "%v", err)
	}
	return l
}

// solo starts a host for a test, with the images hello:1, hello:2 and busybox in its registry.
func solo(t *testing.T, l *lab.Lab, settings map[string]any) *lab.Solo {
	t.Helper()
	name := fmt.Sprintf("%x", time.Now().UnixNano()&0xffffffffff)
	s, err := l.NewSolo(t.Context(), name, settings)
	t.Cleanup(func() {
		if t.Failed() {
			if log, err := os.ReadFile(s.Log); err == nil {
				t.Logf("shoald printed:\n%s", log)
			}
		}
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("removing the host: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// built returns a client that make clients builds from its own module.
func built(t *testing.T, l *lab.Lab, name string) string {
	t.Helper()
	path := filepath.Join(l.Root, "bin", "clients", name)
	if _, err := os.Stat(path); err != nil {
		unable(t, "%v (make clients builds it)", err)
	}
	return path
}

// TestDocker runs the scripts of testdata/docker with three clients, each against a daemon of its own, and compares
// what ours and the stock one of the same version print and how they end.
func TestDocker(t *testing.T) {
	l := open(t)
	scripts, err := filepath.Glob("testdata/docker/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txt"), func(t *testing.T) {
			ours, stock := filepath.Join(t.TempDir(), "ours"), filepath.Join(t.TempDir(), "stock")
			t.Run("shoal", func(t *testing.T) { play(t, l, script, filepath.Join(l.Root, "bin", "shoal"), ours) })
			t.Run("docker", func(t *testing.T) {
				play(t, l, script, built(t, l, "docker"), stock)
			})
			t.Run("same", func(t *testing.T) { compare(t, ours, stock) })
			t.Run("older docker", func(t *testing.T) {
				client, err := exec.LookPath("docker")
				if err != nil {
					t.Skip("there is no docker client on this machine")
				}
				play(t, l, script, client, "")
			})
		})
	}
}

// play runs one script with one client. What the client printed is added to the file, unless its name is empty.
func play(t *testing.T, l *lab.Lab, script, client, file string) {
	s := solo(t, l, nil)
	commands := transcript.Commands()
	// inside runs a command in the host's network.
	commands["inside"] = func(ts *testscript.TestScript, neg bool, args []string) {
		args = s.Command(args...)
		if err := ts.Exec(args[0], args[1:]...); (err == nil) == neg {
			ts.Fatalf("%v: %v", args, err)
		}
	}
	testscript.Run(t, testscript.Params{
		Files: []string{script},
		Cmds:  commands,
		// One fault hides no other.
		ContinueOnError: true,
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Vars = append(e.Vars, "GORACE=atexit_sleep_ms=0", "CLI=client", "PLAIN="+client, "HOME="+home,
				"DOCKER_HOST=unix://"+s.Socket, "SOCKET="+s.Socket, "REGISTRY="+s.Registry, "HOSTNAME="+s.Name, "IMAGES="+filepath.Join(l.Root, l.Images))
			e.Vars = append(e.Vars, transcript.Env(client, file)...)
			return os.Mkdir(home, 0o700)
		},
	})
}

func compare(t *testing.T, ours, stock string) {
	read := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("the script did not get far: %v", err)
		}
		return transcript.Same(strings.ReplaceAll(string(data), filepath.Dir(file), ""))
	}
	if d := cmp.Diff(strings.Split(read(stock), "\n"), strings.Split(read(ours), "\n")); d != "" {
		t.Errorf("shoal (+) is not what docker (-) is:\n%s", d)
	}
}
