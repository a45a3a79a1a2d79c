package protocol_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/store"
)

func sample(t testing.TB) *protocol.Frame {
	in := &network.Ingress{
		Subnet: netip.MustParsePrefix("10.0.0.0/24"), VNI: 4096, Port: 4789,
		Nodes:     []network.Node{{ID: "n1", Index: 1, Underlay: netip.MustParseAddr("198.18.0.1"), Addr: netip.MustParseAddr("10.0.0.2")}},
		Endpoints: []network.Endpoint{{Addr: netip.MustParseAddr("10.0.0.5"), NodeID: "n1"}},
	}
	b, err := store.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	task := &cluster.Task{ServiceName: "web", StartAt: time.Unix(5, 7).UTC()}
	task.ID, task.DesiredState = "a", swarm.TaskStateRunning
	return &protocol.Frame{
		Complete: true, Epoch: 2, Version: 9, Now: time.Unix(1, 2).UTC(), HeartbeatPeriod: time.Second,
		Managers: []swarm.Peer{{NodeID: "m1", Addr: "198.18.0.1:2377"}}, Tasks: []*cluster.Task{task}, Removed: []string{"b"},
		Mesh: &protocol.Mesh{Ingress: b},
	}
}

var byValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestFramesArriveAsTheyWere(t *testing.T) {
	var buf bytes.Buffer
	first, second := sample(t), &protocol.Frame{Version: 10}
	for _, f := range []*protocol.Frame{first, second} {
		if err := protocol.Write(&buf, f); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []*protocol.Frame{first, second} {
		got, err := protocol.Read(&buf)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, byValue); d != "" {
			t.Error(d)
		}
	}
	if _, err := protocol.Read(&buf); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestBadFrames(t *testing.T) {
	frame := func(n uint32, b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, n), b...) }
	for _, tc := range []struct {
		name string
		data []byte
		want string
	}{
		{"cut off in the length", []byte{0, 0}, "unexpected EOF"},
		{"cut off", frame(10, []byte{1}), "unexpected EOF"},
		{"too large", frame(protocol.MaxFrame+1, nil), "a frame of 134217729 bytes is too large, at most 134217728"},
		{"nonsense", frame(3, []byte("abc")), "reading a frame"},
		{"a task without an ID", frame(8, []byte("\xa1eTasks\x81\xa0")), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.want == "" {
				var buf bytes.Buffer
				if err := protocol.Write(&buf, &protocol.Frame{Tasks: []*cluster.Task{{}}}); err != nil {
					t.Fatal(err)
				}
				tc.data, tc.want = buf.Bytes(), "a frame has a task without an ID"
			}
			_, err := protocol.Read(bytes.NewReader(tc.data))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// A length that promises much must not make the reader allocate it.
func TestALengthAloneAllocatesNothing(t *testing.T) {
	data := binary.BigEndian.AppendUint32(nil, protocol.MaxFrame)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := protocol.Read(bytes.NewReader(data)); err == nil {
		t.Error("a frame of nothing was read")
	}
	runtime.ReadMemStats(&after)
	got := after.TotalAlloc - before.TotalAlloc
	if got > 64<<10 {
		t.Errorf("%d bytes were allocated", got)
	}
}

func TestMeshResolves(t *testing.T) {
	f := sample(t)
	in, err := f.Mesh.Resolve(nil)
	if err != nil || in.VNI != 4096 {
		t.Fatalf("%+v, %v", in, err)
	}
	next := *in
	next.Endpoints = nil
	b, err := store.Marshal(network.Diff(in, &next))
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&protocol.Mesh{Delta: b}).Resolve(in)
	if err != nil || network.Diff(got, &next) != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := (&protocol.Mesh{}).Resolve(in); got != nil || err != nil {
		t.Errorf("no mesh any more: %+v, %v", got, err)
	}
	if _, err := (&protocol.Mesh{Delta: b}).Resolve(nil); err == nil {
		t.Error("a change of nothing was taken")
	}
	for _, m := range []protocol.Mesh{{Ingress: []byte("x")}, {Delta: []byte("x")}} {
		if _, err := m.Resolve(in); err == nil {
			t.Errorf("nonsense was taken: %+v", m)
		}
	}
}

func TestRequests(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req protocol.StatusRequest
		switch err := protocol.Decode(w, r, &req); {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		case len(req.Nodes) == 0:
			http.Error(w, "later", http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	rt := redirect{srv.Listener.Addr().String()}
	if err := protocol.Post(t.Context(), rt, "/x", protocol.StatusRequest{Nodes: []protocol.NodeReport{{NodeID: "n1"}}}); err != nil {
		t.Error(err)
	}
	var se *protocol.StatusError
	err := protocol.Post(t.Context(), rt, "/x", protocol.StatusRequest{})
	if !errors.As(err, &se) || se.Code != 503 || se.Text != "later" || protocol.Refused(err) {
		t.Errorf("an answer to try again: %v", err)
	}
	err = protocol.Post(t.Context(), rt, "/x", strings.Repeat("x", protocol.MaxRequest+1))
	if !protocol.Refused(err) || !strings.Contains(err.Error(), "too large") {
		t.Errorf("a large request: %v", err)
	}
}

type redirect struct{ addr string }

func (d redirect) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Host = d.addr
	return http.DefaultTransport.RoundTrip(r)
}

func FuzzRead(f *testing.F) {
	var buf bytes.Buffer
	if err := protocol.Write(&buf, sample(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add([]byte{0, 0, 0, 1, 0xa0})
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, err := protocol.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		if fr.Mesh != nil {
			fr.Mesh.Resolve(nil)
			fr.Mesh.Resolve(&network.Ingress{})
		}
		var out bytes.Buffer
		if err := protocol.Write(&out, fr); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := protocol.Read(&out); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
