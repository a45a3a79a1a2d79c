package placement

import (
	"slices"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// The kinds of plugins in a node's description.
const (
	pluginVolume = "Volume"
	pluginLog    = "Log"
)

// builtIn are the drivers that every node has, whatever it says.
var builtIn = []swarm.PluginDescription{
	{Type: pluginVolume, Name: "local"}, {Type: pluginLog, Name: "json-file"}, {Type: pluginLog, Name: "local"}, {Type: pluginLog, Name: "none"},
}

// plugins are the drivers of volumes and logs that a task needs beyond those that every node has. Those of networks are
// checked when a network is made.
func plugins(spec *swarm.TaskSpec) []swarm.PluginDescription {
	var out []swarm.PluginDescription
	need := func(kind, name string) {
		if p := (swarm.PluginDescription{Type: kind, Name: name}); name != "" && !slices.Contains(builtIn, p) && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	if c := spec.ContainerSpec; c != nil {
		for _, m := range c.Mounts {
			if m.Type == mount.TypeVolume && m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil {
				need(pluginVolume, m.VolumeOptions.DriverConfig.Name)
			}
		}
	}
	if l := spec.LogDriver; l != nil {
		need(pluginLog, l.Name)
	}
	return out
}

// missingPlugins are those of the plugins that the node does not have.
func missingPlugins(need []swarm.PluginDescription, n *cluster.Node) []swarm.PluginDescription {
	var out []swarm.PluginDescription
	for _, p := range need {
		if !slices.ContainsFunc(n.Description.Engine.Plugins, func(have swarm.PluginDescription) bool {
			return have.Type == p.Type && (have.Name == p.Name || have.Name == p.Name+":latest")
		}) {
			out = append(out, p)
		}
	}
	return out
}
