package httpapi

import "strings"

// absentTable is every route of API 1.56 that Shoal does not have, and what it would do; docs/unsupported.md has the reasons. "Not supported" is part
// of the sentence because the docker client's `inspect`, which tries one kind of object after the other, goes on to
// the next kind when it reads these words.
const absentTable = `
GET    /containers/{name*}/attach/ws    attaching to a container by websocket
POST   /containers/{name*}/copy         copying from a container
GET    /containers/{name*}/checkpoints  listing checkpoints
POST   /containers/{name*}/checkpoints  making a checkpoint
POST   /build                           building an image
POST   /build/cancel                    stopping a build
POST   /session                         a build session
POST   /grpc                            a build session
GET    /images/{name*}/attestations     an image's attestations
GET    /images/search                   searching a registry
PUT    /volumes/{name*}                 updating a cluster volume
GET    /plugins                         listing plugins
GET    /plugins/privileges              a plugin's privileges
POST   /plugins/pull                    installing a plugin
POST   /plugins/create                  creating a plugin
GET    /plugins/{name*}/json            inspecting a plugin
POST   /plugins/{name*}/enable          enabling a plugin
POST   /plugins/{name*}/disable         disabling a plugin
POST   /plugins/{name*}/upgrade         upgrading a plugin
POST   /plugins/{name*}/push            pushing a plugin
POST   /plugins/{name*}/set             configuring a plugin
DELETE /plugins/{name*}                 removing a plugin
`

func absentRoutes() []route {
	var routes []route
	for line := range strings.Lines(absentTable) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		text := strings.Join(f[2:], " ") + " is not supported: " + f[0] + " " + strings.ReplaceAll(f[1], "*", "") + " is not implemented by Shoal yet"
		routes = append(routes, route{f[0], f[1], RequestTime, func(*call) error { return absent("%s", text) }})
	}
	return routes
}

// need fails with a sentence if the node was built without a backend.
func need(have bool, what string) error {
	if have {
		return nil
	}
	return absent("%s are not supported by this node", what)
}
