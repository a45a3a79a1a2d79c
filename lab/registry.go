package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"shoal.dev/shoal/lab/images"
)

// Repositories returns the names under which the registry holds an image: its own, and the one under which a mirror of
// docker.io is asked for it.
func Repositories(image string) []string { return []string{image, "library/" + image} }

// ServeRegistry serves the images of a folder of OCI layouts on an address, over plain HTTP, until ctx ends. It keeps
// everything in memory; what is pushed to it is gone when it ends.
func ServeRegistry(ctx context.Context, addr, dir string) error {
	all, err := images.Read(dir)
	if err != nil {
		return err
	}
	quiet := log.New(io.Discard, "", 0)
	h := registry.New(registry.Logger(quiet))
	for _, i := range all {
		for _, r := range Repositories(i.Name) {
			ref, err := name.ParseReference(addr+"/"+r, name.Insecure)
			if err != nil {
				return err
			}
			// Straight into the handler: it does not listen before it has everything.
			if err := remote.Write(ref, i.Image, remote.WithContext(ctx), remote.WithTransport(direct{h})); err != nil {
				return fmt.Errorf("image %s: %w", r, err)
			}
		}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return srv.Close()
	}
}

// direct is a transport that calls a handler.
type direct struct{ h http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	d.h.ServeHTTP(w, r)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

// startRegistry starts the lab's registry in its namespace as a process of its own, and returns when it answers. That
// process is bin/lab, whoever the caller is.
func (l *Lab) startRegistry(ctx context.Context) error {
	dir, program := l.Images, filepath.Join(l.Root, "bin", "lab")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(l.Root, dir)
	}
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("no registry to start: %w (make build makes it)", err)
	}
	logFile := filepath.Join(l.Dir(), "registry.log")
	exited, err := l.spawn(RegistryNamespace, logFile, program, "registry", "-listen", Registry, "-images", dir,
		"-pidfile", filepath.Join(l.Dir(), "registry.pid"))
	if err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	client := HTTPClient(RegistryNamespace, 2*time.Second)
	err = Wait(ctx, "the registry answers", func(ctx context.Context) error {
		select {
		case err := <-exited:
			return GiveUp(fmt.Errorf("it ended: %v", err))
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+Registry+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w\nThe end of %s:\n%s", err, logFile, tail(logFile, 30))
	}
	return nil
}

// WritePIDFile writes the process id of the caller into a file.
func WritePIDFile(file string) error {
	return os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644)
}
