package compat

// The source of both tables is the API's version history, docs/version-history.md in github.com/moby/moby/api, and
// what Docker 29's daemon was seen to answer at each version.

var responseRules = []Rule{
	{Below: v(46), Route: "GET /info", Do: Drop, Path: "Containerd"},
	{Below: v(44), Route: "GET /info", Do: Drop, Path: "Runtimes.*.status"},
	{Below: v(47), Route: "GET /info", Do: Default, Path: "RegistryConfig.AllowNondistributableArtifactsCIDRs"},
	{Below: v(47), Route: "GET /info", Do: Default, Path: "RegistryConfig.AllowNondistributableArtifactsHostnames"},
	{Below: v(49), Route: "GET /info", Do: Drop, Path: "FirewallBackend"},
	{Below: v(49), Route: "GET /info", Do: Copy, Path: "ContainerdCommit.Expected", From: "ID"},
	{Below: v(49), Route: "GET /info", Do: Copy, Path: "RuncCommit.Expected", From: "ID"},
	{Below: v(49), Route: "GET /info", Do: Copy, Path: "InitCommit.Expected", From: "ID"},
	{Below: v(50), Route: "GET /info", Do: Drop, Path: "DiscoveredDevices"},
	{Below: v(50), Route: "GET /info", Do: Set, Path: "BridgeNfIptables", With: false},
	{Below: v(50), Route: "GET /info", Do: Set, Path: "BridgeNfIp6tables", With: false},
	{Below: v(53), Route: "GET /info", Do: Drop, Path: "NRI"},

	{Below: v(46), Route: "GET /containers/json", Do: Drop, Path: "*.HostConfig.Annotations"},
	{Below: v(48), Route: "GET /containers/json", Do: Drop, Path: "*.ImageManifestDescriptor"},
	{Below: v(52), Route: "GET /containers/json", Do: Drop, Path: "*.Health"},

	{Below: v(48), Route: "GET /containers/{name*}/json", Do: Drop, Path: "ImageManifestDescriptor"},
	// Until 1.51 the default bridge's settings stood beside the networks, too.
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Copy, Path: "NetworkSettings.EndpointID", From: "Networks.bridge.EndpointID"},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Copy, Path: "NetworkSettings.Gateway", From: "Networks.bridge.Gateway"},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Copy, Path: "NetworkSettings.GlobalIPv6Address", From: "Networks.bridge.GlobalIPv6Address"},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Copy, Path: "NetworkSettings.GlobalIPv6PrefixLen", From: "Networks.bridge.GlobalIPv6PrefixLen"},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Copy, Path: "NetworkSettings.IPAddress", From: "Networks.bridge.IPAddress"},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Copy, Path: "NetworkSettings.IPPrefixLen", From: "Networks.bridge.IPPrefixLen"},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Copy, Path: "NetworkSettings.IPv6Gateway", From: "Networks.bridge.IPv6Gateway"},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Copy, Path: "NetworkSettings.MacAddress", From: "Networks.bridge.MacAddress"},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Default, Path: "GraphDriver", With: map[string]any{"Data": nil, "Name": "overlayfs"}},
	{Below: v(52), Route: "GET /containers/{name*}/json", Do: Drop, Path: "Storage"},

	{Below: v(44), Route: "GET /images/json", Do: Copy, Path: "*.VirtualSize", From: "Size"},
	{Below: v(48), Route: "GET /images/json", Do: Drop, Path: "*.Descriptor"},
	{Below: v(51), Route: "GET /images/json", Do: Set, Path: "*.Containers", With: -1},

	{Below: v(44), Route: "GET /images/{name*}/json", Do: Copy, Path: "VirtualSize", From: "Size"},
	{Below: v(44), Route: "GET /images/{name*}/json", Do: Default, Path: "Created", With: "0001-01-01T00:00:00Z"},
	{Below: v(45), Route: "GET /images/{name*}/json", Do: Default, Path: "Container", With: ""},
	{Below: v(45), Route: "GET /images/{name*}/json", Do: Default, Path: "ContainerConfig", With: map[string]any{}},
	{Below: v(48), Route: "GET /images/{name*}/json", Do: Drop, Path: "Descriptor"},
	{Below: v(52), Route: "GET /images/{name*}/json", Do: Default, Path: "Parent", With: ""},
	{Below: v(52), Route: "GET /images/{name*}/json", Do: Default, Path: "Comment", With: ""},
	{Below: v(52), Route: "GET /images/{name*}/json", Do: Default, Path: "DockerVersion", With: ""},
	{Below: v(52), Route: "GET /images/{name*}/json", Do: Default, Path: "Author", With: ""},
	{Below: v(53), Route: "GET /images/{name*}/json", Do: Drop, Path: "Identity"},

	{Below: v(52), Route: "GET /networks/{id}", Do: Drop, Path: "Status"},

	// Clients up to Docker 24 crash without these three.
	{Below: v(52), Route: "GET /events", Do: Copy, Path: "status", From: "Action"},
	{Below: v(52), Route: "GET /events", Do: Copy, Path: "id", From: "Actor.ID"},
	{Below: v(52), Route: "GET /events", Do: Copy, Path: "from", From: "Actor.Attributes.image"},
}

var requestRules = join(
	[]Rule{
		{Below: v(39), Route: "POST /swarm/init", Do: Drop, Path: "DefaultAddrPool"},
		{Below: v(39), Route: "POST /swarm/init", Do: Drop, Path: "SubnetSize"},
		{Below: v(40), Route: "POST /swarm/init", Do: Drop, Path: "DataPathPort"},
		{Below: v(25), Route: "POST /containers/create", Do: Drop, Path: "HostConfig.AutoRemove"},
		{Below: v(43), Route: "POST /containers/create", Do: Drop, Path: "HostConfig.Annotations"},
		{Below: v(44), Route: "POST /containers/create", Do: Drop, Path: "Healthcheck.StartInterval"},
	},
	service("POST /services/create"),
	service("POST /services/{id}/update"),
)

// service are the fields of a service's specification by the version that brought them.
func service(route string) []Rule {
	var rules []Rule
	for minor, paths := range map[int][]string{
		40: {"TaskTemplate.ContainerSpec.Sysctls", "TaskTemplate.Placement.MaxReplicas"},
		41: {
			"TaskTemplate.ContainerSpec.CapabilityAdd", "TaskTemplate.ContainerSpec.CapabilityDrop",
			"TaskTemplate.ContainerSpec.Ulimits", "TaskTemplate.Resources.Limits.Pids",
			"Mode.ReplicatedJob", "Mode.GlobalJob",
		},
		44: {
			"TaskTemplate.ContainerSpec.Healthcheck.StartInterval", "TaskTemplate.ContainerSpec.Privileges.Seccomp",
			"TaskTemplate.ContainerSpec.Privileges.AppArmor", "TaskTemplate.ContainerSpec.Privileges.NoNewPrivileges",
		},
		46: {"TaskTemplate.ContainerSpec.OomScoreAdj"},
		52: {"TaskTemplate.Resources.SwapBytes", "TaskTemplate.Resources.MemorySwappiness"},
	} {
		for _, p := range paths {
			rules = append(rules, Rule{Below: v(minor), Route: route, Do: Drop, Path: p})
		}
	}
	return rules
}

func v(minor int) Version { return Version{1, minor} }

func join(rules ...[]Rule) []Rule {
	var all []Rule
	for _, r := range rules {
		all = append(all, r...)
	}
	return all
}
