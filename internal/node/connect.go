package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"shoal.dev/shoal/internal/agent"
	"shoal.dev/shoal/internal/link"
)

// nextAfter is how long a manager may take to answer before the next one is asked as well. One that is there answers within
// milliseconds; one whose host has no power never does, and several of those in a row must not keep a node from the swarm
// for as long as makes it count as lost.
const nextAfter = 500 * time.Millisecond

// connect opens the agent's link to the first manager that answers.
func (m *member) connect(n *Node) func(context.Context) (agent.Session, error) {
	return func(ctx context.Context) (agent.Session, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		l, err := firstOf(ctx, m.nextManagers(), func(ctx context.Context, addr string) (*link.Link, error) {
			l, err := link.Dial(ctx, addr, link.DialConfig{Identity: m.identity, Handler: n.serveManagers(), Dial: n.machine.Dial, Log: n.log})
			m.judge(n, err)
			if err != nil {
				return nil, fmt.Errorf("connecting to the manager at %s: %w", addr, err)
			}
			return l, nil
		})
		if err != nil {
			return agent.Session{}, err
		}
		m.link.Store(l)
		return agent.Session{RoundTripper: l, Done: l.Done(), Close: func() { l.Close() }}, nil
	}
}

// firstOf dials addresses one after the other, the next one as soon as one fails or has not answered for [nextAfter], and
// returns the first link that there is. Links that come later are closed. The error is of all.
func firstOf[L interface{ Close() error }](ctx context.Context, addrs []string, dial func(context.Context, string) (L, error)) (first L, err error) {
	type result struct {
		link L
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan result, len(addrs))
	waiting := 0
	defer func() {
		cancel()
		go func() { // ends with the dials, which ctx ends
			for range waiting {
				if r := <-answers; r.err == nil {
					r.link.Close()
				}
			}
		}()
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	for len(addrs) > 0 || waiting > 0 {
		select {
		case <-next.C:
		case r := <-answers:
			waiting--
			if r.err == nil {
				return r.link, nil
			}
			if err == nil {
				err = r.err
			} else {
				err = fmt.Errorf("%w; %w", err, r.err)
			}
		}
		if len(addrs) > 0 {
			addr := addrs[0]
			addrs = addrs[1:]
			waiting++
			go func() {
				l, err := dial(ctx, addr)
				answers <- result{l, err}
			}()
			next.Reset(nextAfter)
		}
	}
	if err == nil {
		err = errors.New("this node knows no manager of its swarm")
	}
	return first, err
}

// nextManagers are the managers' addresses, each time another one first. A manager has itself only.
func (m *member) nextManagers() []string {
	if m.manager != nil {
		return []string{loopback(m.manager.server.Addr().String())}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.st.Managers) == 0 {
		return nil
	}
	at := int(m.nextAddr.Add(1)) % len(m.st.Managers)
	var addrs []string
	for _, p := range slices.Concat(m.st.Managers[at:], m.st.Managers[:at]) {
		addrs = append(addrs, p.Addr)
	}
	return addrs
}
