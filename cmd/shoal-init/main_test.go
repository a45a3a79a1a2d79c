package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain is the program itself when a test runs it.
func TestMain(m *testing.M) {
	if os.Getenv("SHOAL_INIT_TEST") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func initOf(argv ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], argv...)
	cmd.Env = append(os.Environ(), "SHOAL_INIT_TEST=1")
	return cmd
}

func TestEndsAsTheCommand(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "text")
	if err := os.WriteFile(file, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		argv []string
		path string // "" is ours
		code int
		out  string // the end of what it says
	}{
		{"well", []string{"--", "sh", "-c", "echo a $1", "x", "b c"}, "", 0, "a b c\n"},
		{"badly", []string{"--", "sh", "-c", "exit 7"}, "", 7, ""},
		{"by a signal", []string{"--", "sh", "-c", "kill -TERM $$"}, "", 143, ""},
		{"without --", []string{"/bin/sh", "-c", "exit 8"}, "", 8, ""},
		{"an option of the command's", []string{"--", "sh", "-c", "echo $0", "--"}, "", 0, "--\n"},
		{"nothing to do", []string{"--"}, "", 1, "usage: docker-init -- COMMAND [ARG...]\n"},
		{"not there", []string{"--", "nothing"}, "", 127, "[FATAL docker-init] exec nothing failed: no such file or directory\n"},
		{"not there by its path", []string{"--", dir + "/nothing"}, "", 127, "failed: no such file or directory\n"},
		{"no program", []string{"--", file}, "", 126, "failed: permission denied\n"},
		{"no program in the path", []string{"--", "text"}, dir, 126, "failed: permission denied\n"},
		{"a folder", []string{"--", dir}, "", 126, "failed: permission denied\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := initOf(tc.argv...)
			if tc.path != "" {
				cmd.Env = append(cmd.Env, "PATH="+tc.path)
			}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != tc.code || !strings.HasSuffix(string(out), tc.out) {
				t.Errorf("exit code %d, %q", code, out)
			}
		})
	}
}

func TestPassesSignalsOn(t *testing.T) {
	cmd := initOf("--", "sh", "-c", `trap "echo usr1; exit 5" USR1; echo ready; while :; do sleep 0.05; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	said := make([]byte, 64)
	if n, err := out.Read(said); err != nil || string(said[:n]) != "ready\n" {
		t.Fatalf("%q, %v", said[:n], err)
	}
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(said); err != nil || string(said[:n]) != "usr1\n" {
		t.Errorf("%q, %v", said[:n], err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d", code)
	}
}
