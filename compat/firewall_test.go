package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shoal.dev/shoal/lab"
)

// dockerd's forward chain, as its own program puts it, and a table of somebody else.
const othersRules = `
iptables-nft -P FORWARD DROP
iptables-nft -N DOCKER-USER
iptables-nft -N DOCKER-FORWARD
iptables-nft -A DOCKER-USER -j RETURN
iptables-nft -A FORWARD -j DOCKER-USER
iptables-nft -A FORWARD -j DOCKER-FORWARD
iptables-nft -A DOCKER-FORWARD -i docker0 -j ACCEPT
nft 'table ip kube-proxy { chain filter-forward { type filter hook forward priority -110; policy accept; ip daddr 10.96.0.0/12 reject; }; }'
`

// inHost runs a line of shell in a host's network, with the host's own shoal, and gives what it prints and how it ends.
func inHost(t *testing.T, l *lab.Lab, s *lab.Solo, line string) (string, error) {
	t.Helper()
	args := s.Command("sh", "-ec", line)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+s.Socket, "HOME="+t.TempDir(), "PATH="+filepath.Join(l.Root, "bin")+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestBesideDockerd sees what a user sees of a packet filter that drops what containers get: the chain's name and the
// command, in the doctor's report and in the task's status; and that the daemon opens it where it is told to, and only then.
func TestBesideDockerd(t *testing.T) {
	t.Parallel()
	l := open(t)
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		unable(t, "%v (make prereqs installs iptables)", err)
	}
	s := solo(t, l, nil)
	sh := func(line string) string {
		t.Helper()
		out, err := inHost(t, l, s, line)
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		return out
	}
	says := func(line, text string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s says %q", line, text), func() error {
			if out, _ := inHost(t, l, s, line); !strings.Contains(out, text) {
				return fmt.Errorf("it says\n%s", out)
			}
			return nil
		})
	}
	const (
		chain    = "chain FORWARD of table ip filter (docker) drops what containers send and what is sent to published ports"
		remedy   = "; run: iptables -I DOCKER-USER -i shoal+ -j ACCEPT && iptables -I DOCKER-USER -o shoal+ -j ACCEPT"
		doctor   = "shoal doctor"
		status   = "shoal service ps --no-trunc --format '{{.CurrentState}}: {{.Error}}' web"
		filter   = "nft -s list table ip filter"
		ours     = `"shoal*" counter accept comment "shoal: firewall=manage"`
		allsWell = "nobody drops what is forwarded"
	)
	sh("shoal swarm init --advertise-addr eth0")
	sh("shoal service create --quiet --name web --publish 8080:80 busybox sleep 1000")
	says(doctor, allsWell)
	says(status, "Running")

	sh(othersRules)
	before := sh("nft -s list table ip filter; nft list table ip kube-proxy")
	says(doctor, chain)
	says(doctor, remedy)
	says(status, chain)
	says(status, remedy)
	if out, err := inHost(t, l, s, doctor); err == nil || !strings.Contains(out, "firewall") {
		t.Errorf("the doctor's exit code is 0:\n%s", out)
	}
	if got := sh("nft -s list table ip filter; nft list table ip kube-proxy"); got != before {
		t.Errorf("others' tables were changed unasked:\n%s\nbefore\n%s", got, before)
	}

	manage := func(settings map[string]any) {
		t.Helper()
		if err := s.Configure(settings); err != nil {
			t.Fatal(err)
		}
		if err := s.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	manage(map[string]any{"firewall": "manage"})
	says(filter, ours)
	says(doctor, allsWell+`; "firewall" is "manage"`)
	eventually(t, "the task's status says nothing any more", func() error {
		if out := sh(status); strings.Contains(out, "chain") {
			return fmt.Errorf("it says %s", out)
		}
		return nil
	})
	sh("iptables-nft -F DOCKER-USER") // a reload
	says(filter, ours)
	manage(nil)
	says(doctor, chain)
	if out := sh(filter); strings.Contains(out, "shoal") {
		t.Errorf("rules of ours are left:\n%s", out)
	}

	sh("nft flush ruleset")
	says("nft list table ip shoal", "chain forward")
	says("nft list table ip shoal", "tcp . 8080")
	says(doctor, allsWell)
}
