package httpapi_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

// serve answers on a Unix socket until the test ends and returns its address.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "unix://" + path
}

// dial is the stock Go client, which negotiates its version.
func dial(t *testing.T, h http.Handler, o ...client.Opt) (*client.Client, context.Context) {
	t.Helper()
	c, err := client.New(append([]client.Opt{client.WithHost(serve(t, h))}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c, ctx
}

func TestClientSystem(t *testing.T) {
	s := apitest.NewSwarm()
	s.Active = true
	c, ctx := dial(t, handler(apitest.NewEngine(), s))
	p, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil || p.APIVersion != "1.56" || p.OSType != "linux" || p.SwarmStatus == nil || !p.SwarmStatus.ControlAvailable {
		t.Errorf("ping %+v, %v", p, err)
	}
	v, err := c.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil || v.Version != "0.1.0" || v.APIVersion != "1.56" || v.MinAPIVersion != "1.24" {
		t.Errorf("version %+v, %v", v, err)
	}
	i, err := c.Info(ctx, client.InfoOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if i.Info.Name != "node1" || i.Info.Containers != 3 || i.Info.ContainersRunning != 1 || i.Info.Images != 3 || i.Info.ServerVersion != "0.1.0" || i.Info.Swarm.NodeID != "node1id" {
		t.Errorf("info %+v", i.Info)
	}
}

// TestClientRun is the calls of `docker run -d` and what follows, wait before start among them.
func TestClientRun(t *testing.T) {
	e := apitest.NewEngine()
	e.Lines = []engine.LogLine{
		{Stream: "stdout", Time: time.Unix(1, 5), Line: []byte("out\n")},
		{Stream: "stderr", Time: time.Unix(2, 0), Line: []byte("err\n")},
	}
	c, ctx := dial(t, handler(e, apitest.NewSwarm()))
	config := client.ContainerCreateOptions{Name: "a", Config: &container.Config{Image: "other:1"}}
	_, err := c.ContainerCreate(ctx, config)
	if !errdefs.IsNotFound(err) {
		t.Fatalf("an image that is not there: %v", err)
	}
	pull, err := c.ImagePull(ctx, "other:1", client.ImagePullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := pull.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerCreate(ctx, config); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerCreate(ctx, config); !errdefs.IsConflict(err) {
		t.Errorf("a name that is taken: %v", err)
	}

	// The answer to wait must begin before the container has started, let alone ended.
	wait := c.ContainerWait(ctx, "a", client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := c.ContainerStart(ctx, "a", client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	ls, err := c.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("name", "a")})
	if err != nil || len(ls.Items) != 1 || ls.Items[0].Names[0] != "/a" {
		t.Errorf("list %+v, %v", ls, err)
	}
	follow, err := c.ContainerLogs(ctx, "a", client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true, Timestamps: true, Tail: "5", Since: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerKill(ctx, "a", client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-wait.Result:
		if r.StatusCode != 137 || r.Error != nil {
			t.Errorf("wait gives %+v", r)
		}
	case err := <-wait.Error:
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errOut, follow); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1970-01-01T00:00:01.000000005Z out\n", "1970-01-01T00:00:02.000000000Z err\n"}, []string{out.String(), errOut.String()}); diff != "" {
		t.Errorf("logs: %s", diff)
	}
	if _, err := c.ContainerRemove(ctx, "a", client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerInspect(ctx, "a", client.ContainerInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("a removed container: %v", err)
	}
}

// TestLogsArriveSoon is a follower that must see a line while the container runs on.
func TestLogsArriveSoon(t *testing.T) {
	e := apitest.NewEngine()
	e.Lines = []engine.LogLine{{Stream: "stdout", Line: []byte("one\n")}}
	c, ctx := dial(t, handler(e, apitest.NewSwarm()))
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "a", Config: &container.Config{Image: "hello:1", Tty: true}}); err != nil {
		t.Fatal(err)
	}
	r, err := c.ContainerLogs(ctx, "a", client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "one\n" { // raw, as it is a terminal
		t.Errorf("%q, %v", b, err)
	}
	r.Close()
}

func TestClientImages(t *testing.T) {
	e := apitest.NewEngine()
	c, ctx := dial(t, handler(e, apitest.NewSwarm()))
	l, err := c.ImageList(ctx, client.ImageListOptions{})
	if err != nil || len(l.Items) != 1 || l.Items[0].Size != 1<<40 || l.Items[0].RepoDigests == nil {
		t.Errorf("list %+v, %v", l, err)
	}
	i, err := c.ImageInspect(ctx, "hello:1")
	if err != nil || i.Size != 1<<40 {
		t.Errorf("inspect %+v, %v", i, err)
	}
	load, err := c.ImageLoad(ctx, strings.NewReader("given:1"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(load)
	if err != nil || !strings.Contains(string(b), `{"stream":"Loaded image: given:1\n"}`) {
		t.Errorf("load: %s, %v", b, err)
	}
	if _, err := c.DistributionInspect(ctx, "registry.example:5000/a/b:1", client.DistributionInspectOptions{}); err != nil {
		t.Error(err)
	}
	d, err := c.ImageRemove(ctx, "hello:1", client.ImageRemoveOptions{})
	if err != nil || len(d.Items) != 1 || d.Items[0].Untagged != "hello:1" {
		t.Errorf("remove %+v, %v", d, err)
	}
}

func TestClientImageWork(t *testing.T) {
	e := apitest.NewEngine()
	c, ctx := dial(t, handler(e, apitest.NewSwarm()))
	if _, err := c.ImageTag(ctx, client.ImageTagOptions{Source: "hello:1", Target: "team/hello"}); err != nil || len(e.ByRef["team/hello:latest"].RepoTags) != 1 {
		t.Errorf("tag: %v, %v", err, e.ByRef)
	}
	if h, err := c.ImageHistory(ctx, "hello:1"); err != nil || len(h.Items) != 1 || h.Items[0].CreatedBy != "COPY hello /" {
		t.Errorf("history %+v, %v", h, err)
	}
	read := func(what string, r io.ReadCloser, err error, want string) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer r.Close()
		if b, err := io.ReadAll(r); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s, %v; want %s", what, b, err, want)
		}
	}
	saved, err := c.ImageSave(ctx, []string{"hello:1", "team/hello"})
	read("save", saved, err, "hello:1\nteam/hello")
	imported, err := c.ImageImport(ctx, client.ImageImportSource{Source: strings.NewReader("tar"), SourceName: "-"}, "new/image",
		client.ImageImportOptions{Tag: "7", Message: "m", Changes: []string{"CMD x"}, Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}})
	read("import", imported, err, `{"status":"sha256:cc`)
	if o := e.Imported; o.Name != "new/image:7" || o.Message != "m" || !slices.Equal(o.Changes, []string{"CMD x"}) || o.Platform == nil || o.Platform.Architecture != "arm64" {
		t.Errorf("import got %+v", o)
	}
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"u","password":"water"}`))
	pushed, err := c.ImagePush(ctx, "team/hello", client.ImagePushOptions{RegistryAuth: auth, Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}})
	read("push", pushed, err, `{"status":"1: digest: sha256:aa`)
	if o := e.Pushed; o.Auth == nil || o.Auth.Password != "water" || o.AllTags || o.Platform == nil {
		t.Errorf("push got %+v", o)
	}
	pushed, err = c.ImagePush(ctx, "secret/x:1", client.ImagePushOptions{})
	read("a push that is refused", pushed, err, `"error":"push access denied`)
	if pushed, err = c.ImagePush(ctx, "team/hello", client.ImagePushOptions{All: true}); err == nil {
		_ = pushed.Close()
	}
	if err != nil || !e.Pushed.AllTags {
		t.Errorf("push of all tags: %+v, %v", e.Pushed, err)
	}
	pulled, err := c.ImagePull(ctx, "team/all", client.ImagePullOptions{All: true, Platforms: []ocispec.Platform{{OS: "linux", Architecture: "arm64"}}})
	read("pull", pulled, err, "Pulling from")
	if o := e.Pulled; !o.AllTags || o.Platform == nil || o.Platform.Architecture != "arm64" {
		t.Errorf("pull got %+v", o)
	}
	if l, err := c.RegistryLogin(ctx, client.RegistryLoginOptions{Username: "token", Password: "water", ServerAddress: "r.test"}); err != nil || l.Auth.Status != "Login Succeeded" || l.Auth.IdentityToken != "t" {
		t.Errorf("login %+v, %v", l, err)
	}
	if p, err := c.ImagePrune(ctx, client.ImagePruneOptions{Filters: client.Filters{}.Add("dangling", "false")}); err != nil || len(p.Report.ImagesDeleted) != 3 || p.Report.SpaceReclaimed != 15 {
		t.Errorf("prune %+v, %v", p, err)
	}
	if i, err := c.ImageInspect(ctx, "hello:1", client.ImageInspectWithManifests(true)); err != nil || len(i.Manifests) != 1 {
		t.Errorf("inspect with manifests %+v, %v", i, err)
	}
	if i, err := c.ImageInspect(ctx, "hello:1"); err != nil || i.Manifests != nil {
		t.Errorf("inspect %+v, %v", i, err)
	}
}

// Both forms of the answer, and what is left out of each.
func TestClientDiskUsage(t *testing.T) {
	h := handler(apitest.NewEngine(), apitest.NewSwarm())
	c, ctx := dial(t, h)
	u, err := c.DiskUsage(ctx, client.DiskUsageOptions{Verbose: true})
	if err != nil || u.Images.TotalSize != 12<<20 || len(u.Images.Items) != 1 || u.Containers.TotalSize != 11 {
		t.Errorf("usage %+v, %v", u, err)
	}
	for path, want := range map[string]string{
		"/v1.52/system/df?verbose=0&type=image": `{"ImageUsage":{"Reclaimable":3145728,"TotalCount":1,"TotalSize":12582912}}`,
		"/v1.51/system/df?type=volume":          `{"Volumes":[]}`,
		"/v1.51/system/df?type=build-cache":     `{"BuildCache":[]}`,
		"/v1.52/system/df?type=container":       `{"ContainerUsage":{"Reclaimable":11,"TotalSize":11},"Containers":[]}`,
	} {
		if w := ask(t, h, "GET", path, "", ""); strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %s; want %s", path, w.Body, want)
		}
	}
	w := ask(t, h, "GET", "/v1.41/system/df?type=volume", "", "") // the parameter came with 1.42
	for _, want := range []string{`"LayersSize":12582912`, `"Images":[{`, `"Containers":[]`, `"Volumes":[]`, `"BuildCache":[]`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("usage of 1.41: %s; want %s", w.Body, want)
		}
	}
}

func TestClientVolumes(t *testing.T) {
	e := apitest.NewEngine()
	c, ctx := dial(t, handler(e, apitest.NewSwarm()))
	v, err := c.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil || v.Volume.Name != "data" || v.Volume.Driver != "local" || v.Volume.Scope != "local" || v.Volume.Labels["a"] != "b" {
		t.Fatalf("create %+v, %v", v, err)
	}
	if again, err := c.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "data"}); err != nil || again.Volume.Labels["a"] != "b" {
		t.Errorf("create again %+v, %v", again, err)
	}
	unnamed, err := c.VolumeCreate(ctx, client.VolumeCreateOptions{})
	if err != nil || len(unnamed.Volume.Name) != 64 {
		t.Fatalf("create without a name %+v, %v", unnamed, err)
	}
	l, err := c.VolumeList(ctx, client.VolumeListOptions{Filters: client.Filters{}.Add("label", "a=b")})
	if err != nil || len(l.Items) != 1 || l.Items[0].Name != "data" {
		t.Errorf("list %+v, %v", l, err)
	}
	if i, err := c.VolumeInspect(ctx, "data", client.VolumeInspectOptions{}); err != nil || i.Volume.Mountpoint == "" {
		t.Errorf("inspect %+v, %v", i, err)
	}
	p, err := c.VolumePrune(ctx, client.VolumePruneOptions{})
	if err != nil || len(p.Report.VolumesDeleted) != 1 || p.Report.VolumesDeleted[0] != unnamed.Volume.Name {
		t.Errorf("prune %+v, %v", p, err)
	}
	if _, err := c.VolumeRemove(ctx, "data", client.VolumeRemoveOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.VolumeRemove(ctx, "data", client.VolumeRemoveOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := c.VolumeRemove(ctx, "data", client.VolumeRemoveOptions{Force: true}); err != nil {
		t.Errorf("forced: %v", err)
	}
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "a", Config: &container.Config{Image: "hello:1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerRemove(ctx, "a", client.ContainerRemoveOptions{RemoveVolumes: true}); err != nil || len(e.Purged) != 1 {
		t.Errorf("rm -v: %v, purged %v", err, e.Purged)
	}
	old, ctx := dial(t, handler(e, apitest.NewSwarm()), client.WithAPIVersion("1.44"))
	if _, err := old.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "named"}); err != nil {
		t.Fatal(err)
	}
	if p, err := old.VolumePrune(ctx, client.VolumePruneOptions{All: true}); err != nil || len(p.Report.VolumesDeleted) != 1 {
		t.Errorf("prune all %+v, %v", p, err)
	}
}

func TestClientEvents(t *testing.T) {
	e := apitest.NewEngine()
	c, ctx := dial(t, handler(e, apitest.NewSwarm()))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := c.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "container").Add("label", "keep=yes")})
	e.Feed <- engine.Event{Type: "image", Action: "pull", ID: "i"}
	e.Feed <- engine.Event{Type: "container", Action: "start", ID: "c1", Attributes: map[string]string{"keep": "no"}}
	e.Feed <- engine.Event{Type: "container", Action: "die", ID: "c2", Attributes: map[string]string{"keep": "yes", "exitCode": "3"}, Time: time.Unix(5, 7)}
	select {
	case m := <-r.Messages:
		if m.Actor.ID != "c2" || m.Action != "die" || m.Actor.Attributes["exitCode"] != "3" || m.TimeNano != 5_000_000_007 || m.Scope != "local" {
			t.Errorf("%+v", m)
		}
	case err := <-r.Err:
		t.Fatal(err)
	}
}

func TestClientSwarm(t *testing.T) {
	s := apitest.NewSwarm()
	c, ctx := dial(t, handler(apitest.NewEngine(), s))
	if _, err := c.ServiceList(ctx, client.ServiceListOptions{}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), apitest.NotManager) {
		t.Errorf("outside a swarm: %v", err)
	}
	init, err := c.SwarmInit(ctx, client.SwarmInitOptions{ListenAddr: "0.0.0.0:2377"})
	if err != nil || init.NodeID != "node1id" {
		t.Fatalf("init %+v, %v", init, err)
	}
	if _, err := c.SwarmUpdate(ctx, client.SwarmUpdateOptions{RotateWorkerToken: true}); err != nil || !s.Rotate.WorkerToken || s.Rotate.ManagerToken {
		t.Errorf("rotate %+v, %v", s.Rotate, err)
	}
	in, err := c.SwarmInspect(ctx, client.SwarmInspectOptions{})
	if err != nil || in.Swarm.JoinTokens.Worker != "SWMTKN-1-w" {
		t.Errorf("inspect %+v, %v", in, err)
	}
	replicas := uint64(1)
	spec := swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: "hello"},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "hello:1"}},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
	}
	created, err := c.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec, QueryRegistry: true})
	if err != nil || created.ID != "helloid" || len(created.Warnings) != 0 {
		t.Fatalf("create %+v, %v", created, err)
	}
	if image := s.ByName["hello"].Spec.TaskTemplate.ContainerSpec.Image; !strings.HasPrefix(image, "hello:1@sha256:") {
		t.Errorf("the client did not pin the image: %s", image)
	}
	if s.Query {
		t.Error("the server was asked to pin what the client has pinned")
	}
	got, err := c.ServiceInspect(ctx, "hello", client.ServiceInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ServiceUpdate(ctx, "hello", client.ServiceUpdateOptions{Version: got.Service.Version, Spec: got.Service.Spec, Rollback: "previous", RegistryAuthFrom: swarm.RegistryAuthFromPreviousSpec}); err != nil {
		t.Fatal(err)
	}
	if s.Options.Rollback != "previous" || s.Options.RegistryAuthFrom != swarm.RegistryAuthFromPreviousSpec {
		t.Errorf("update options %+v", s.Options)
	}
	ls, err := c.ServiceList(ctx, client.ServiceListOptions{Status: true})
	if err != nil || len(ls.Items) != 1 || ls.Items[0].ServiceStatus == nil {
		t.Errorf("list %+v, %v", ls, err)
	}
	tasks, err := c.TaskList(ctx, client.TaskListOptions{Filters: client.Filters{}.Add("service", "hello")})
	if err != nil || len(tasks.Items) != 1 {
		t.Errorf("tasks %+v, %v", tasks, err)
	}
	nodes, err := c.NodeList(ctx, client.NodeListOptions{})
	if err != nil || len(nodes.Items) != 1 || !nodes.Items[0].ManagerStatus.Leader {
		t.Errorf("nodes %+v, %v", nodes, err)
	}
	nets, err := c.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil || len(nets.Items) != 3 || nets.Items[0].Name != "bridge" {
		t.Errorf("networks %+v, %v", nets, err)
	}
	if _, err := c.ServiceRemove(ctx, "hello", client.ServiceRemoveOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.SwarmLeave(ctx, client.SwarmLeaveOptions{}); !errdefs.IsUnavailable(err) {
		t.Errorf("leave without force: %v", err)
	}
}

// TestClientOld speaks the oldest version that the stock client still has words for.
func TestClientOld(t *testing.T) {
	c, ctx := dial(t, handler(apitest.NewEngine(), apitest.NewSwarm()), client.WithAPIVersion("1.44"))
	i, err := c.Info(ctx, client.InfoOptions{})
	if err != nil || !strings.Contains(string(i.Info.Name), "node1") {
		t.Errorf("%+v, %v", i, err)
	}
	if c.ClientVersion() != "1.44" {
		t.Errorf("the client speaks %s", c.ClientVersion())
	}
}
