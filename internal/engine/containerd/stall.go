package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// patient ends requests to which a server says nothing for limit, be it before its answer or in the middle of one, and
// those of which it takes nothing. How long a request takes in all is not bounded as long as bytes move.
type patient struct {
	next  http.RoundTripper
	limit time.Duration
}

var errStalled = errors.New("stalled")

// RoundTrip implements http.RoundTripper.
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	w := &watchdog{limit: p.limit, host: r.URL.Host, ctx: ctx, cancel: cancel,
		timer: time.AfterFunc(p.limit, func() { cancel(errStalled) })}
	r = r.Clone(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &sent{r.Body, w}
	}
	resp, err := p.next.RoundTrip(r)
	w.answered.Store(true)
	w.timer.Stop()
	if err != nil {
		err = w.explain(err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &received{resp.Body, w}
	return resp, nil
}

type watchdog struct {
	limit  time.Duration
	host   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer

	answered atomic.Bool
}

// explain says that the server stalled, if that is why err happened.
func (w *watchdog) explain(err error) error {
	if err == nil || !errors.Is(context.Cause(w.ctx), errStalled) {
		return err
	}
	return &silence{w.host, w.limit}
}

// silence is errStalled with what a user wants to know.
type silence struct {
	host  string
	limit time.Duration
}

func (s *silence) Error() string {
	return fmt.Sprintf("the registry %s has been silent for %s", s.host, s.limit)
}

func (s *silence) Is(target error) bool { return target == errStalled }

// sent is the body of a request. Each byte that the server takes is a sign of life.
type sent struct {
	io.ReadCloser
	w *watchdog
}

func (s *sent) Read(b []byte) (int, error) {
	if !s.w.answered.Load() { // an answer may come before all was sent
		s.w.timer.Reset(s.w.limit)
	}
	return s.ReadCloser.Read(b)
}

// received is the body of an answer. It may rest while nobody reads it.
type received struct {
	io.ReadCloser
	w *watchdog
}

func (r *received) Read(b []byte) (int, error) {
	r.w.timer.Reset(r.w.limit)
	n, err := r.ReadCloser.Read(b)
	r.w.timer.Stop()
	if err == io.EOF {
		return n, err
	}
	return n, r.w.explain(err)
}

func (r *received) Close() error {
	defer r.w.cancel(nil)
	r.w.timer.Stop()
	return r.ReadCloser.Close()
}
