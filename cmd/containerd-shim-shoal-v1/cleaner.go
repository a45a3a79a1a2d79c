package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
)

// cleaner is the shim manager with a short way for `delete`. containerd calls that after every container, also when
// all went well and there is nothing left to clean; then it need not run runc once more.
type cleaner struct{ shim.Shim }

// Stop cleans up what a shim left, as the manager does, unless runc knows no such container any more.
func (c cleaner) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	defer removeSocket(id)
	if st, ok := cleanAlready(ctx, id); ok {
		return st, nil
	}
	return c.Shim.Stop(ctx, id)
}

// removeSocket removes the socket of a container's shim, which one that was killed leaves.
func removeSocket(id string) {
	cwd, err := os.Getwd()
	if err != nil {
		return
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(cwd), id, "bootstrap.json"))
	var at struct {
		Address string `json:"address"`
	}
	if err != nil || json.Unmarshal(b, &at) != nil || at.Address == "" {
		return
	}
	_ = shim.RemoveSocket(at.Address) // it is gone if all went well
}

func cleanAlready(ctx context.Context, id string) (st shim.StopStatus, ok bool) {
	cwd, err := os.Getwd()
	if err != nil {
		return st, false
	}
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return st, false
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	opts, err := runc.ReadOptions(bundle)
	if err != nil || opts.GetRoot() == "" {
		return st, false
	}
	if _, err := os.Stat(filepath.Join(opts.Root, ns, id)); !os.IsNotExist(err) {
		return st, false
	}
	e, err := runc.ReadExitStatus(bundle)
	if err != nil {
		return st, false // it never ran, or was killed with its shim: the long way
	}
	if err := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0); err != nil {
		return st, false
	}
	if e.Timestamp.IsZero() {
		e.Timestamp = time.Now()
	}
	return shim.StopStatus{Pid: e.Pid, ExitStatus: e.Status, ExitedAt: e.Timestamp}, true
}
