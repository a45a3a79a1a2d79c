package swarm

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// kind is a verb of the control API.
type kind int

const (
	create kind = iota
	inspect
	update
	remove
)

func (k kind) String() string { return [...]string{"create", "inspect", "update", "remove"}[k] }

// result is what a request's answer says.
type result int

const (
	done    result = iota
	missing        // there is no such service
	taken          // the name is in use
	passed         // the version is an old one
	unknown        // nobody knows what became of it
)

func (r result) String() string {
	return [...]string{"done", "not found", "exists already", "out of sequence", "unknown"}[r]
}

// input is one request about the service of a name. Every value is written once, so a value stands for a version.
type input struct {
	kind   kind
	value  string // that is written
	expect string // update: the value of the version that the request names
}

type output struct {
	result result
	value  string // inspect: what was read
}

// history is what clients asked and heard. It is safe for concurrent use.
type history struct {
	mu   sync.Mutex
	tick int64
	byID map[string]string // "ID@version" -> value, as they were read
	ops  map[string][]porcupine.Operation
	// counts
	acked, reads, stale, refused, lost int
}

func (h *history) begin() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tick++
	return h.tick
}

// end records a request that may have had an effect.
func (h *history) end(client int, host, name string, call int64, in input, out output) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tick++
	switch {
	case out.result == unknown && in.kind == inspect:
		return
	case out.result == unknown:
		h.lost++
	case in.kind == inspect:
		h.reads++
	default:
		h.acked++
	}
	h.ops[name] = append(h.ops[name], porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: h.tick, Metadata: host})
}

// saw checks that a version has one value only.
func (h *history) saw(id string, version uint64, value string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := fmt.Sprintf("%s@%d", id, version)
	if had, ok := h.byID[key]; ok && had != value {
		return fmt.Errorf("service %s has two values at version %d: %q and %q", id, version, had, value)
	}
	h.byID[key] = value
	return nil
}

// service is the model: a name's service, or none.
type service struct {
	exists bool
	value  string
}

// model says what a service may answer when requests follow each other.
func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return service{} },
		Step: func(state, in, out any) (bool, any) { return step(state.(service), in.(input), out.(output)) },
		DescribeOperation: func(in, out any) string {
			return fmt.Sprintf("%v -> %v", in, out)
		},
	}
}

// step is a request. One of unknown outcome takes effect at its place in the order, which may be the last.
func step(s service, in input, out output) (bool, service) {
	if in.kind == inspect {
		return out == output{result: missing} && !s.exists || out.result == done && s.exists && out.value == s.value, s
	}
	want, next := done, service{true, in.value}
	switch {
	case in.kind == create && s.exists:
		want, next = taken, s
	case in.kind != create && !s.exists:
		want, next = missing, s
	case in.kind == update && in.expect != s.value:
		want, next = passed, s
	case in.kind == remove:
		next = service{}
	}
	return out.result == want || out.result == unknown, next
}

// checkTime bounds the search for an order, in real time.
const checkTime = 20 * time.Second

// check says which service's history no order explains. It must not be called in a bubble: it uses real time.
func (h *history) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, ops := range h.ops {
		ops = slices.Clone(ops)
		end := h.tick + 1
		for i := range ops {
			if ops[i].Output.(output).result == unknown {
				ops[i].Return = end // it may take effect whenever
			}
		}
		switch porcupine.CheckOperationsTimeout(model(), ops, checkTime) {
		case porcupine.Illegal:
			return fmt.Errorf("the history of service %s is not linearizable:\n%s", name, describe(ops))
		case porcupine.Unknown:
			return fmt.Errorf("the history of service %s, %d requests, was not checked in %v", name, len(ops), checkTime)
		}
	}
	return nil
}

func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var s string
	for _, o := range ops {
		in, out := o.Input.(input), o.Output.(output)
		s += fmt.Sprintf("  [%d, %d] client %d at %s: %v", o.Call, o.Return, o.ClientId, o.Metadata, in.kind)
		if in.expect != "" {
			s += fmt.Sprintf(" of %q", in.expect)
		}
		if in.value != "" {
			s += fmt.Sprintf(" to %q", in.value)
		}
		s += fmt.Sprintf(": %v", out.result)
		if out.value != "" {
			s += fmt.Sprintf(" %q", out.value)
		}
		s += "\n"
	}
	return s
}
