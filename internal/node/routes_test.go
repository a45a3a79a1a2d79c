package node

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

func TestOnlyChangesOfTheSwarmAreForwarded(t *testing.T) {
	for _, tc := range []struct {
		method, path string
		want         bool
	}{
		{"POST", "/v1.50/services/create", true},
		{"POST", "/services/web/update", true},
		{"DELETE", "/v1.56/services/web", true},
		{"POST", "/v1.56/nodes/n1/update", true},
		{"POST", "/swarm/update", true},
		{"POST", "/v1.56/secrets/create", true},
		{"DELETE", "/configs/a", true},
		{"GET", "/v1.56/secrets", false},
		{"GET", "/v1.56/services", false},
		{"POST", "/v1.56/swarm/init", false},
		{"POST", "/v1.56/swarm/join", false},
		{"POST", "/v1.56/swarm/leave", false},
		{"POST", "/v1.56/containers/create", false},
		{"POST", "/v1.56/images/create", false},
	} {
		if got := changesSwarm(httptest.NewRequest(tc.method, tc.path, nil)); got != tc.want {
			t.Errorf("%s %s: %v", tc.method, tc.path, got)
		}
	}
}

func TestTokensMakeRoles(t *testing.T) {
	s := &cluster.Swarm{}
	s.JoinTokens = swarm.JoinTokens{Worker: "SWMTKN-1-a-w", Manager: "SWMTKN-1-a-m"}
	for token, want := range map[string]swarm.NodeRole{"SWMTKN-1-a-w": "worker", "SWMTKN-1-a-m": "manager", "": "", "SWMTKN-1-a": ""} {
		role, err := roleOf(s, token)
		if role != want || (err == nil) != (want != "") {
			t.Errorf("token %q: %s, %v", token, role, err)
		}
		if err != nil && token != "" && strings.Contains(err.Error(), token) {
			t.Errorf("the refusal shows the token: %v", err)
		}
	}
}

func TestAManagersRoutesAreForManagers(t *testing.T) {
	called := false
	m := &manager{store: store.New()}
	h := m.managersOnly(func(http.ResponseWriter, *http.Request) { called = true })
	for _, role := range []swarm.NodeRole{"", swarm.NodeRoleWorker} {
		r := httptest.NewRequest("POST", pathIssue, nil)
		if role != "" {
			r = r.WithContext(link.WithPeer(r.Context(), link.Peer{NodeID: "w", Role: role}))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || called {
			t.Errorf("role %q: status %d", role, w.Code)
		}
	}
}

func TestRefusalsTravelWithTheirClassAndWords(t *testing.T) {
	for _, class := range classes {
		want := class.class.WithMessage("no: " + class.class.Error())
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, nil, want) }))
		client := &http.Client{Transport: rewrite{srv.URL}}
		err := post(t.Context(), client, "/x", struct{}{}, nil)
		srv.Close()
		if !errors.Is(err, class.class) || err.Error() != want.Error() {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// rewrite sends every request to one server.
type rewrite struct{ to string }

func (t rewrite) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Host = strings.TrimPrefix(t.to, "http://")
	return http.DefaultTransport.RoundTrip(r)
}

func TestNewNode(t *testing.T) {
	n, err := newNode("id", swarm.NodeRoleManager, &joinRequest{AdvertiseAddr: "198.18.0.2:2377"})
	if err != nil {
		t.Fatal(err)
	}
	if n.Status.Addr != "198.18.0.2" || n.DataPathAddr != netip.MustParseAddr("198.18.0.2") || n.ManagerStatus.Addr != "198.18.0.2:2377" ||
		n.Spec.Availability != swarm.NodeAvailabilityActive {
		t.Errorf("%+v", n)
	}
	if _, err := newNode("id", swarm.NodeRoleWorker, &joinRequest{AdvertiseAddr: "example:2377"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name is no address: %v", err)
	}
}

func TestARemovedNodeIsNotAdmitted(t *testing.T) {
	s := store.New()
	store.NewLocal(s)
	worker := &cluster.Node{}
	worker.ID, worker.Spec.Role = "w", swarm.NodeRoleWorker
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(worker))
		tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimRemoved("gone")}))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	m := &manager{store: s}
	for _, tc := range []struct {
		peer link.Peer
		ok   bool
	}{
		{link.Peer{NodeID: "w", Role: swarm.NodeRoleWorker}, true},
		{link.Peer{NodeID: "gone", Role: swarm.NodeRoleWorker}, false},
		{link.Peer{NodeID: "new", Role: swarm.NodeRoleManager}, true},
	} {
		if err := m.admit(tc.peer); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc.peer, err)
		}
	}
}

func TestStateIsKeptAndDamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	if s, err := loadState(dir); s != nil || err != nil {
		t.Fatal(s, err)
	}
	want := &state{
		SwarmID: "s", NodeID: "n", Role: swarm.NodeRoleManager, ListenAddr: "0.0.0.0:2377", AdvertiseAddr: "198.18.0.1:2377",
		DataPathAddr: netip.MustParseAddr("198.18.1.1"), DataPathPort: 4789, Managers: []swarm.Peer{{NodeID: "n", Addr: "198.18.0.1:2377"}},
		RaftKey: newRaftKey(), Bootstrap: true,
	}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
	if err := writeFile(statePath(dir), []byte(`{"SwarmID": "s`)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "state.json")) {
		t.Errorf("damage is not named: %v", err)
	}
}

func TestCertificatesAreRenewedInTime(t *testing.T) {
	ca, err := pki.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Sign(ca, csr, "s", "n", swarm.NodeRoleWorker, 90*24*time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.NewIdentity(key, cert, ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[time.Time]bool{}
	for range 1000 {
		at := renewAt(id)
		life := id.NotAfter().Sub(id.NotBefore())
		if at.Before(id.NotBefore().Add(life/2)) || at.After(id.NotBefore().Add(4*life/5)) {
			t.Fatalf("a certificate from %s to %s is renewed at %s", id.NotBefore(), id.NotAfter(), at)
		}
		seen[at] = true
	}
	if len(seen) < 900 {
		t.Errorf("%d different times of 1000: nodes would ask at once", len(seen))
	}
}
