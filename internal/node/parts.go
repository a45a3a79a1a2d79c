package node

import (
	"context"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"
)

// parts are the versions of what the engine is made of, for `info` and `version`.
type parts struct {
	containerd string // of the module that is linked in
	runtime    string // as the OCI runtime says
}

// findParts asks the runtime; one that does not answer has no version.
func findParts(ctx context.Context, runtime string) parts {
	var p parts
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, m := range build.Deps {
			if m.Path == "github.com/containerd/containerd/v2" {
				p.containerd = m.Version
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// "runc version 1.1.5+ds1\ncommit: ...": the last word of the first line.
	out, err := exec.CommandContext(ctx, runtime, "--version").Output()
	if first := strings.Fields(firstLine(string(out))); err == nil && len(first) > 0 {
		p.runtime = first[len(first)-1]
	}
	return p
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// proxies are those that the daemon pulls through. Passwords in them are not shown.
func proxies() (http, https, no string) {
	get := func(name string) string {
		v := os.Getenv(name)
		if v == "" {
			v = os.Getenv(strings.ToLower(name))
		}
		return v
	}
	return withoutPassword(get("HTTP_PROXY")), withoutPassword(get("HTTPS_PROXY")), get("NO_PROXY")
}

// withoutPassword hides the user information of a URL as Docker does.
func withoutPassword(proxy string) string {
	scheme, rest, ok := strings.Cut(proxy, "://")
	if !ok {
		scheme, rest = "", proxy
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = "xxxxx:xxxxx@" + rest[at+1:]
	}
	if scheme != "" {
		return scheme + "://" + rest
	}
	return rest
}

// openFiles counts the daemon's file descriptors, 0 if it cannot.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
