package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"shoal.dev/shoal/lab"
)

// proxyPackages are Debian's packages of the proxies that the mesh is compared with, and of what a usual system lacks of
// theirs.
var proxyPackages = []string{"haproxy", "nginx", "libnginx-mod-stream", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"}

// proxy is one that a user would put before a service where there is no mesh.
type proxy struct {
	name   string
	port   int
	config string // with PORT, SERVER and ROOT, the folder of the unpacked packages
	args   []string
}

var proxies = []proxy{
	{"HAProxy", 9001, `global
  nbthread 2
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
frontend f
  bind :PORT
  default_backend b
backend b
  server s SERVER
`, []string{"usr/sbin/haproxy", "-db", "-f"}},
	{"nginx stream", 9002, `load_module ROOT/usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 2;
daemon off;
error_log stderr;
pid /dev/null;
events { worker_connections 4096; }
stream { server { listen PORT reuseport; proxy_pass SERVER; } }
`, []string{"usr/sbin/nginx", "-e", "stderr", "-c"}},
}

// fetchProxies unpacks the proxies into a folder, if they are not there yet. Nothing is installed.
func fetchProxies(ctx context.Context, dir string) (root string, err error) {
	root = filepath.Join(dir, "root")
	stamp := filepath.Join(dir, "done")
	if _, err := os.Stat(stamp); err == nil {
		return root, nil
	}
	if _, err := fetch(ctx, dir, root, proxyPackages); err != nil {
		return "", fmt.Errorf("fetch the proxies: %w", err)
	}
	return root, os.WriteFile(stamp, nil, 0o644)
}

// startProxies starts all before the server on the first host, and returns once they listen.
func (r *rig) startProxies(ctx context.Context, server string) (_ []proxy, _ func(), err error) {
	dir := filepath.Join(r.lab.Root, "bin", "proxies")
	root, err := fetchProxies(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	libs, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	if err != nil || len(libs) == 0 {
		return nil, nil, fmt.Errorf("the libraries in %s: %q, %w", root, libs, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var ends []func() error
	stop := func() {
		cancel()
		for _, end := range ends {
			_ = end() // killed
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	for _, p := range proxies {
		file := filepath.Join(dir, strconv.Itoa(p.port)+".conf")
		if err := os.WriteFile(file, []byte(strings.NewReplacer("PORT", strconv.Itoa(p.port), "SERVER", server, "ROOT", root).Replace(p.config)), 0o644); err != nil {
			return nil, nil, err
		}
		args := append([]string{"env", "LD_LIBRARY_PATH=" + libs[0], filepath.Join(root, p.args[0])}, p.args[1:]...)
		cmd := r.lab.Command(ctx, r.base+1, append(args, file)...)
		log, err := os.Create(file + ".log")
		if err != nil {
			return nil, nil, err
		}
		cmd.Stdout, cmd.Stderr = log, log
		err = cmd.Start()
		log.Close()
		if err != nil {
			return nil, nil, err
		}
		ends = append(ends, cmd.Wait)
		to := net.JoinHostPort(r.host(1).Addr, strconv.Itoa(p.port))
		up, done := context.WithTimeout(ctx, 10*time.Second)
		err = lab.Wait(up, p.name+" answers", func(ctx context.Context) error {
			return lab.Within("/run/netns/"+lab.ClientNamespace, func() error { return ask(ctx, to) })
		})
		done()
		if err != nil {
			text, rerr := os.ReadFile(file + ".log")
			return nil, nil, fmt.Errorf("%w: %s", errors.Join(err, rerr), text)
		}
	}
	return proxies, stop, nil
}
