// Package enginetest is what every implementation of engine.Engine must do, as tests. Package containerd runs it on
// real containers, package fake on its own, so that what agents are tested against is what they will meet.
package enginetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// Fixture is an engine under test. The suite removes the containers that it makes.
type Fixture struct {
	Engine engine.Engine
	// Image is the familiar name of a local image whose containers run what Command gives.
	Image string
	// Remote is the familiar name of an image, of the same kind, that is not local but can be pulled, on which no
	// container was ever made.
	Remote string
	// Command makes a command of steps: "print TEXT" and "warn TEXT" write a line to stdout and stderr, "exit N" ends,
	// "sleep" waits for a signal and ends by it, "sleep DURATION" waits, "stubborn" ignores SIGTERM from there on,
	// "cat" writes its input to stdout until that is over.
	Command func(steps ...string) []string
}

// TakenPort is the port of the host that the network of an engine under test refuses with Conflict and the words
// "port is already allocated". It gives whatever else is asked for.
const TakenPort = 666

// timeout bounds one test; it is long for the sake of slow machines.
const timeout = time.Minute

// Run runs the suite. open is called once a test; it may give the same engine every time.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	for _, test := range []struct {
		name string
		do   func(*suite)
	}{
		{"Lifecycle", lifecycle},
		{"ExitCodes", exitCodes},
		{"WaitConditions", waitConditions},
		{"WaitEndsWithItsContext", waitContext},
		{"Names", names},
		{"NameConflict", nameConflict},
		{"BadInput", badInput},
		{"Filters", filters},
		{"Limit", limit},
		{"Logs", logs},
		{"LogsFollow", logsFollow},
		{"LogsUntil", logsUntil},
		{"Kill", kill},
		{"Stop", stop},
		{"StopStubborn", stopStubborn},
		{"Restart", restart},
		{"RestartPolicies", restartPolicies},
		{"RestartEvents", restartEvents},
		{"StopWhileRestarting", stopWhileRestarting},
		{"StopEndsPolicy", stopEndsPolicy},
		{"UserRestart", userRestart},
		{"Pause", pause},
		{"Rename", rename},
		{"Top", top},
		{"Stats", stats},
		{"Update", update},
		{"Prune", prune},
		{"Size", size},
		{"Remove", remove},
		{"AutoRemove", autoRemove},
		{"Events", events},
		{"EventsRecalled", eventsRecalled},
		{"EventsAnnounced", eventsAnnounced},
		{"EventsTooSlow", eventsTooSlow},
		{"Exec", exec},
		{"ExecMissing", execMissing},
		{"ExecBroken", execBroken},
		{"ExecDetach", execDetach},
		{"ExecOutlives", execOutlives},
		{"AttachBefore", attachBefore},
		{"AttachStdin", attachStdin},
		{"AttachTwice", attachTwice},
		{"AttachDetach", attachDetach},
		{"AttachRemoved", attachRemoved},
		{"Archives", archives},
		{"ArchivesBadInput", archivesBadInput},
		{"Commit", commit},
		{"CommitBadInput", commitBadInput},
		{"Healthy", healthy},
		{"Unhealthy", unhealthy},
		{"HealthProbeHangs", probeHangs},
		{"HealthPaused", probePaused},
		{"HealthBadInput", healthBadInput},
		{"Volumes", volumes},
		{"VolumesOfContainers", volumesOfContainers},
		{"VolumesFrom", volumesFrom},
		{"VolumesPrune", volumesPrune},
		{"VolumesBadInput", volumesBadInput},
		{"Files", files},
		{"Ports", ports},
		{"Networks", networks},
		{"NetworksOfContainers", networksOfContainers},
		{"NetworksPrune", networksPrune},
		{"Join", join},
		{"BadOptions", badOptions},
		{"Pull", pull},
		{"ImageInUse", imageInUse},
		{"NoSuchImage", noSuchImage},
		{"TagImage", tagImage},
		{"ImageFilters", imageFilters},
		{"ImageHistory", imageHistory},
		{"ImagePlatforms", imagePlatforms},
		{"PruneImages", pruneImages},
		{"SaveAndLoad", saveAndLoad},
		{"ImportImage", importImage},
		{"Push", push},
		{"ImageEvents", imageEvents},
		{"DiskUsage", diskUsage},
		{"Usage", usage},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			f := open(t)
			test.do(&suite{T: t, Fixture: f, ctx: ctx})
		})
	}
}

// suite is one running test.
type suite struct {
	*testing.T
	Fixture
	ctx context.Context
}

func (s *suite) create(spec engine.Spec, steps ...string) string {
	s.Helper()
	if spec.Config == nil {
		spec.Config = &container.Config{}
	}
	if spec.Config.Image == "" {
		spec.Config.Image = s.Image
	}
	if spec.HostConfig == nil {
		spec.HostConfig = &container.HostConfig{}
	}
	if spec.HostConfig.NetworkMode == "" {
		spec.HostConfig.NetworkMode = "none"
	}
	spec.Config.Entrypoint, spec.Config.Cmd = []string{""}, s.Command(steps...)
	id, _, err := s.Engine.Create(s.ctx, spec)
	if err != nil {
		s.Fatalf("create: %v", err)
	}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := s.Engine.Remove(ctx, id, true); err != nil && !errdefs.IsNotFound(err) {
			s.Errorf("clean up: %v", err)
		}
	})
	return id
}

func (s *suite) start(id string) {
	s.Helper()
	if err := s.Engine.Start(s.ctx, id); err != nil {
		s.Fatalf("start: %v", err)
	}
}

func (s *suite) run(steps ...string) string {
	s.Helper()
	id := s.create(engine.Spec{}, steps...)
	s.start(id)
	return id
}

// sleeper starts a container that waits for signals, and waits until it does.
func (s *suite) sleeper(spec engine.Spec) string {
	s.Helper()
	id := s.create(spec, "print ready", "sleep")
	s.start(id)
	s.ready(id, 1)
	return id
}

// ready waits until the container has said something n times.
func (s *suite) ready(id string, n int) {
	s.Helper()
	s.until("the container is ready", func() bool { return len(s.lines(id, both)) == n })
}

func (s *suite) wait(id string) int {
	s.Helper()
	ch, err := s.Engine.Wait(s.ctx, id, container.WaitConditionNotRunning)
	if err != nil {
		s.Fatalf("wait: %v", err)
	}
	return s.result(ch)
}

func (s *suite) result(ch <-chan engine.WaitResult) int {
	s.Helper()
	r := <-ch
	if r.Err != nil {
		s.Fatalf("wait: %v", r.Err)
	}
	return r.ExitCode
}

func (s *suite) inspect(id string) *container.InspectResponse {
	s.Helper()
	i, err := s.Engine.Inspect(s.ctx, id)
	if err != nil {
		s.Fatalf("inspect: %v", err)
	}
	return i
}

// lines reads the log, "out: x" and "err: x" a line.
func (s *suite) lines(id string, o engine.LogOptions) []string {
	s.Helper()
	var got []string
	err := s.Engine.Logs(s.ctx, id, o, func(l engine.LogLine) error {
		got = append(got, map[string]string{"stdout": "out: ", "stderr": "err: "}[l.Stream]+strings.TrimSuffix(string(l.Line), "\n"))
		return nil
	})
	if err != nil {
		s.Fatalf("logs: %v", err)
	}
	return got
}

// cleanUp is a context for what has to be done after the test.
func (s *suite) cleanUp() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	s.Cleanup(cancel)
	return ctx
}

// refused checks an error's class and words.
func (s *suite) refused(err error, class func(error) bool, words string) {
	s.Helper()
	if err == nil || !class(err) || !strings.Contains(err.Error(), words) {
		s.Errorf("error = %v; want %q and its class", err, words)
	}
}

func (s *suite) list(all bool, filters map[string][]string) []string {
	s.Helper()
	list, err := s.Engine.List(s.ctx, engine.ListOptions{All: all, Filters: filters})
	if err != nil {
		s.Fatalf("list %v: %v", filters, err)
	}
	names := []string{}
	for _, c := range list {
		names = append(names, strings.TrimPrefix(c.Names[0], "/"))
	}
	return names
}

func (s *suite) same(what string, got, want any) {
	s.Helper()
	if d := cmp.Diff(want, got); d != "" {
		s.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// until waits for a condition.
func (s *suite) until(what string, is func() bool) {
	s.Helper()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for !is() {
		select {
		case <-t.C:
		case <-s.ctx.Done():
			s.Fatalf("never true: %s", what)
		}
	}
}

var both = engine.LogOptions{Stdout: true, Stderr: true, Tail: -1}
