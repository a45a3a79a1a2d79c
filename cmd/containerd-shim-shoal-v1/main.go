// Command containerd-shim-shoal-v1 keeps one container: it is runc's parent, writes the container's log and how it
// ended to files, and tells containerd about both. It outlives shoald, which is why it is a process of its own, and
// it is small because its start is paid with every container.
//
// It is containerd's runc shim with two things added: a log writer inside it (no process a container for logs) and
// an exit record that is on disk before anybody is told. It decides nothing about containers.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

func main() {
	// shim.RunShim starts whatever the packages linked in registered in their init; ours is the only plugin wanted.
	registry.Reset()
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			pub, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			stop, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			k := &keeper{kept: map[string]*kept{}}
			k.TTRPCTaskService, err = task.NewTaskService(ic.Context, recorder{pub.(shim.Publisher), k}, stop.(shutdown.Service))
			return k, err
		},
	})
	shim.RunShim(context.Background(), cleaner{manager.NewShimManager("io.containerd.runc.v2")})
}
