package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"

	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/dryrun"
	"shoal.dev/shoal/internal/link"
)

// A manager answers for the containers of every node: requests that name another node, or a container of a task there,
// go to that node's own API, over the link that it holds to a manager. There they are not looked at for names again, so
// that none goes round.
const (
	// NodeHeader names the node, by its ID, its name or a prefix of its ID, whose API a request is for.
	NodeHeader = "Shoal-Node"

	// enginePrefix is where a node serves its Engine API to managers over a link.
	enginePrefix = "/engine"
	// maxExec is how many bytes of an answer about an exec are read: one with its whole command line has a few thousand.
	maxExec = 1 << 20
)

// destination is where a request goes.
type destination struct {
	nodeID, name string // of the node
	path         string
	// exec says that the answer is about an exec, whose ID gets the node's added.
	exec bool
}

// anywhere passes on what other nodes have to answer, and gives the rest to next.
func (n *Node) anywhere(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := n.manager()
		d, err := n.destination(m, r)
		switch {
		case err != nil:
			answer(w, nil, err)
			return
		case d == nil:
			next.ServeHTTP(w, r)
			return
		case d.nodeID == m.st.NodeID:
			r = r.Clone(r.Context())
			r.Header.Del(NodeHeader)
			r.URL.Path, r.URL.RawPath = d.path, ""
			next.ServeHTTP(w, r)
			return
		}
		to, err := m.reach(r.Context(), d.nodeID, m.managers())
		if err != nil {
			unavailable(w, d.gone(err))
			return
		}
		p := relay(to, enginePrefix+d.path)
		p.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) { unavailable(w, d.gone(err)) }
		p.ModifyResponse = d.answered
		p.ServeHTTP(w, r)
	})
}

func (d *destination) gone(err error) string {
	return fmt.Sprintf("node %s is not available: %s", d.name, err)
}

// containerPath has the API's version, the container's name or ID and what is asked of it; execPath likewise.
var (
	containerPath = regexp.MustCompile(`^((?:/v[0-9]+\.[0-9]+)?/containers/)/?([^/]+)(/[a-z]+)?$`)
	execPath      = regexp.MustCompile(`^((?:/v[0-9]+\.[0-9]+)?/exec/)([0-9a-f]+)\.([0-9a-z]+)(/[a-z]+)$`)
)

// destination says where a request goes that does not belong to this node without question; nil is here.
func (n *Node) destination(m *manager, r *http.Request) (*destination, error) {
	if name := r.Header.Get(NodeHeader); name != "" {
		id, shown, err := n.control.LocateNode(r.Context(), name)
		if err == nil && m == nil {
			err = errdefs.ErrUnavailable.WithMessage(control.NotManager)
		}
		if err != nil {
			return nil, err // of a node that is not a manager, too
		}
		return &destination{nodeID: id, name: shown, path: r.URL.Path}, nil
	}
	if m == nil || r.Header.Get(dryrun.Header) != "" {
		return nil, nil // a dry run touches no container
	}
	if p := execPath.FindStringSubmatch(r.URL.Path); p != nil {
		return &destination{p[3], control.NameOfNode(m.store.Snapshot(), p[3]), p[1] + p[2] + p[4], p[4] == "/json"}, nil
	}
	p := containerPath.FindStringSubmatch(r.URL.Path)
	// Without a verb only DELETE has a name: the others are /containers/json, create and prune.
	if p == nil || p[3] == "" && r.Method != http.MethodDelete {
		return nil, nil
	}
	ref := p[2]
	if _, err := n.engine.Inspect(r.Context(), ref); !errdefs.IsNotFound(err) {
		return nil, nil // a container of this node comes first
	}
	// Docker's `inspect` asks for a container first, and then for a task: the ID of a task is that of the task.
	at, err := n.control.LocateTask(r.Context(), ref, p[3] != "/json")
	switch {
	case errdefs.IsConflict(err), errdefs.IsInvalidArgument(err):
		return nil, err
	case err != nil:
		return nil, nil // this node has the words for a container that is not there
	}
	shown := control.NameOfNode(m.store.Snapshot(), at.NodeID)
	return &destination{at.NodeID, shown, p[1] + at.ContainerID + p[3], p[3] == "/exec"}, nil
}

// answered looks at an answer before it is passed on.
func (d *destination) answered(resp *http.Response) error {
	if d.exec && resp.StatusCode < http.StatusMultipleChoices {
		return d.nameExec(resp)
	}
	return markBroken(resp)
}

// nameExec adds the node's ID to the ID of an exec, so that every manager knows where it is.
func (d *destination) nameExec(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxExec))
	if err != nil {
		return err
	}
	resp.Body.Close()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return fmt.Errorf("reading its answer: %w", err)
	}
	for _, key := range []string{"Id", "ID"} {
		var id string
		if json.Unmarshal(fields[key], &id) == nil && id != "" {
			fields[key] = json.RawMessage(`"` + id + "." + d.nodeID + `"`)
		}
	}
	if body, err = json.Marshal(fields); err != nil {
		return err
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
	return nil
}

// serveEngine serves this node's API to managers, which may do all that root on this node may.
func (n *Node) serveEngine(w http.ResponseWriter, r *http.Request, path string) {
	p, ok := link.PeerFrom(r.Context())
	if !ok || !n.trusts(p) {
		answer(w, nil, errdefs.ErrPermissionDenied.WithMessage("only managers may use a node's API"))
		return
	}
	r = r.Clone(r.Context())
	r.Header.Del(NodeHeader)
	r.URL.Path, r.URL.RawPath = path, ""
	n.own().ServeHTTP(w, r)
}

// markBroken has a hijacked stream end with the reason where the connection to the node breaks: such a stream has no
// other place for it, and its client would take the end for that of the command.
func markBroken(resp *http.Response) error {
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode == http.StatusSwitchingProtocols && ok {
		resp.Body = &breakable{ReadWriteCloser: rwc, muxed: resp.Header.Get("Content-Type") == types.MediaTypeMultiplexedStream}
	}
	return nil
}

// breakable is a hijacked stream from a node. It is read by one goroutine.
type breakable struct {
	io.ReadWriteCloser
	muxed bool
	last  []byte // what is still to be said
	err   error
}

// Read reads from the node and, when that fails, the reason.
func (b *breakable) Read(p []byte) (int, error) {
	if b.err == nil {
		n, err := b.ReadWriteCloser.Read(p)
		if err == nil || err == io.EOF || errors.Is(err, context.Canceled) {
			return n, err
		}
		b.err = err
		b.last = []byte("\r\nshoal: the stream broke off: " + err.Error() + "\r\n")
		if b.muxed { // a frame on stderr, see httpapi
			head := []byte{2, 0, 0, 0, 0, 0, byte(len(b.last) >> 8), byte(len(b.last))}
			b.last = append(head, b.last...)
		}
		if n > 0 {
			return n, nil
		}
	}
	if len(b.last) == 0 {
		return 0, b.err
	}
	n := copy(p, b.last)
	b.last = b.last[n:]
	return n, nil
}

// CloseWrite ends the direction to the node.
func (b *breakable) CloseWrite() error {
	if c, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
