package enginetest

import (
	"encoding/json"
	"io/fs"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// files are given for one run: the container starts with them once, and nothing that the engine shows has their bytes.
func files(s *suite) {
	for name, bad := range map[string][]engine.File{
		"a relative target":  {{Target: "run/secrets/a"}},
		"the root":           {{Target: "/"}},
		"a way up":           {{Target: "/run/../a"}},
		"one target twice":   {{Target: "/a"}, {Target: "/a"}},
		"a negative owner":   {{Target: "/a", UID: -1}},
		"a mode with setuid": {{Target: "/a", Mode: 0o444 | fs.ModeSetuid}},
	} {
		_, _, err := s.Engine.Create(s.ctx, engine.Spec{
			Config: &container.Config{Image: s.Image}, HostConfig: &container.HostConfig{NetworkMode: "none"}, Files: bad,
		})
		if !errdefs.IsInvalidArgument(err) {
			s.Errorf("%s: %v", name, err)
		}
	}
	id := s.create(engine.Spec{Files: []engine.File{
		{Target: "/run/secrets/pass", Mode: 0o400, Data: []byte("canary-31f0")}, {Target: "/etc/deep/in/conf", UID: 7, GID: 8, Mode: 0o444, Data: []byte("x")},
	}}, "print started", "exit 0")
	s.start(id)
	s.same("exit code", s.wait(id), 0)
	in, err := s.Engine.Inspect(s.ctx, id)
	if err != nil {
		s.Fatal(err)
	}
	b, err := json.Marshal(in)
	if err != nil || strings.Contains(string(b), "canary") {
		s.Errorf("inspect shows a file: %s, %v", b, err)
	}
	if err := s.Engine.Start(s.ctx, id); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "were in memory only and are gone") {
		s.Errorf("a second start: %v", err)
	}
}
