package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// packet is the first one of a connection.
type packet struct {
	what, hook string
	in, out    string // interfaces; "" is one that is not known
	proto      string
	port       uint16 // its destination; 0: any
	dnat       bool   // its destination was translated
}

// answer is whether a rule's condition holds.
type answer uint8

const (
	no answer = iota
	maybe
	yes
)

func is(b bool) answer {
	if b {
		return yes
	}
	return no
}

// fate is what a chain does to a packet.
type fate uint8

const (
	passes fate = iota // to the next rule of who called, or the policy
	accepts
	drops
)

// maxDepth is how deep chains may lead to each other; the kernel's own limit is 16.
const maxDepth = 16

// walk follows a packet. Of a condition that cannot be told it takes that it does not hold; a careful one takes that it
// does where that lets the packet through.
type walk struct {
	rules   *Ruleset
	packet  packet
	careful bool
	culprit string // what dropped
	seen    map[*chain]fate
}

// base follows the packet through a chain that the kernel calls.
func (w *walk) base(c *chain) fate {
	w.seen = map[*chain]fate{}
	got := w.chain(c, 0)
	if got == passes && c.drop {
		w.culprit = "its policy"
		return drops
	}
	return got
}

func (w *walk) chain(c *chain, depth int) fate {
	if got, ok := w.seen[c]; ok || depth > maxDepth {
		return got
	}
	w.seen[c] = passes // one that leads to itself, which the kernel refuses, ends
	got := passes
	for _, exprs := range c.rules {
		f, ends := w.rule(c, exprs, depth)
		if ends {
			got = f
			break
		}
	}
	w.seen[c] = got
	return got
}

// rule says what a rule does, and whether that ends its chain.
func (w *walk) rule(c *chain, exprs []map[string]any, depth int) (fate, bool) {
	holds := yes
	for _, e := range exprs {
		for kind, v := range e {
			switch kind {
			case "match":
				holds = min(holds, w.match(v))
			case "xt":
				holds = min(holds, w.foreign(v))
				if what := text(v, "name"); text(v, "type") == "target" && what == "REJECT" && holds == yes {
					return w.dropped(c), true
				}
			case "limit":
				holds = min(holds, maybe)
			case "vmap":
				if f, ends := w.verdictMap(c, v, holds, depth); ends {
					return f, true
				}
			case "accept", "drop", "reject", "return", "jump", "goto":
				if f, ends := w.verdict(c, kind, v, holds, depth); ends {
					return f, true
				}
			}
			if holds == no {
				return passes, false
			}
		}
	}
	return passes, false
}

// verdict says what a verdict does to the packet under a condition, and whether it ends the chain.
func (w *walk) verdict(c *chain, kind string, v any, holds answer, depth int) (fate, bool) {
	takes := holds == yes || holds == maybe && w.careful
	switch kind {
	case "accept":
		return accepts, takes
	case "drop", "reject":
		if holds != yes {
			return passes, false
		}
		return w.dropped(c), true
	case "return":
		return passes, takes
	}
	to := w.rules.chains[chainKey{c.family, c.table, text(v, "target")}]
	if to == nil || holds == no {
		return passes, false
	}
	was := w.culprit
	got := w.chain(to, depth+1)
	switch {
	case got == accepts && takes, got == drops && holds == yes:
		return got, true
	case got == drops:
		w.culprit = was
	}
	return passes, kind == "goto" && holds == yes
}

func (w *walk) dropped(c *chain) fate {
	w.culprit = "a rule of it"
	if c.hook == "" {
		w.culprit = "a rule of chain " + c.name
	}
	return drops
}

// verdictMap looks for the packet in a verdict map.
func (w *walk) verdictMap(c *chain, v any, holds answer, depth int) (fate, bool) {
	m, _ := v.(map[string]any)
	for _, e := range elements(m["data"]) {
		pair, _ := e.([]any)
		if len(pair) != 2 {
			continue
		}
		verdict, _ := pair[1].(map[string]any)
		hit := min(holds, w.compare(m["key"], pair[0]))
		for kind, to := range verdict {
			if f, ends := w.verdict(c, kind, to, hit, depth); ends && hit != no {
				return f, true
			}
		}
		if hit == yes {
			return passes, false
		}
	}
	return passes, false
}

// match says whether a condition of nft's own holds.
func (w *walk) match(v any) answer {
	m, _ := v.(map[string]any)
	op, _ := m["op"].(string)
	if op != "==" && op != "!=" && op != "in" {
		return maybe
	}
	got := w.anyOf(m["left"], m["right"])
	if op == "!=" && got != maybe {
		return yes - got
	}
	return got
}

// anyOf compares with a value, or with each of several. What a named set has is not listed.
func (w *walk) anyOf(left, right any) answer {
	list, several := right.([]any)
	if m, ok := right.(map[string]any); ok && m["set"] != nil {
		list, several = elements(right), true
	}
	if name, ok := right.(string); ok && strings.HasPrefix(name, "@") {
		return maybe
	}
	if !several {
		return w.compare(left, right)
	}
	got := no
	for _, e := range list {
		got = max(got, w.compare(left, e))
	}
	return got
}

// elements are those of a set or map that is written out in a rule.
func elements(v any) []any {
	m, _ := v.(map[string]any)
	list, _ := m["set"].([]any)
	return list
}

// compare says whether what is left of a comparison has a value.
func (w *walk) compare(left, value any) answer {
	l, _ := left.(map[string]any)
	if parts, ok := l["concat"].([]any); ok {
		return w.compareAll(parts, value)
	}
	if masked, ok := l["&"].([]any); ok && len(masked) == 2 && text(masked[0], "ct") != "" && masked[1] == value {
		return w.compare(masked[0], value)
	}
	switch {
	case text(l["meta"], "key") == "iifname":
		return interfaceIs(w.packet.in, value)
	case text(l["meta"], "key") == "oifname":
		return interfaceIs(w.packet.out, value)
	case text(l["meta"], "key") == "nfproto":
		return is(value == "ipv4")
	case text(l["meta"], "key") == "protocol":
		return is(value == "ip")
	case text(l["meta"], "key") == "l4proto", text(l["payload"], "protocol") == "ip" && text(l["payload"], "field") == "protocol":
		return is(value == w.packet.proto)
	case text(l["ct"], "key") == "state":
		return is(value == "new")
	case text(l["ct"], "key") == "status":
		if value == "dnat" {
			return is(w.packet.dnat)
		}
	case text(l["payload"], "field") == "dport":
		return w.portIs(text(l["payload"], "protocol"), value)
	}
	return maybe
}

func (w *walk) compareAll(parts []any, value any) answer {
	m, _ := value.(map[string]any)
	values, _ := m["concat"].([]any)
	if len(values) != len(parts) {
		return maybe
	}
	got := yes
	for i := range parts {
		got = min(got, w.compare(parts[i], values[i]))
	}
	return got
}

// interfaceIs compares an interface with a name, which may be the beginning of several and a star.
func interfaceIs(name string, value any) answer {
	pattern, ok := value.(string)
	if !ok {
		return maybe
	}
	if name == "" {
		if strings.HasPrefix(pattern, "shoal") || pattern == "lo" {
			return no
		}
		return maybe
	}
	if begin, ok := strings.CutSuffix(pattern, "*"); ok {
		return is(strings.HasPrefix(name, begin))
	}
	return is(name == pattern)
}

func (w *walk) portIs(proto string, value any) answer {
	if proto != "th" && proto != w.packet.proto {
		return no
	}
	if w.packet.port == 0 {
		return maybe
	}
	switch v := value.(type) {
	case float64:
		return is(v == float64(w.packet.port))
	case map[string]any:
		if r, _ := v["range"].([]any); len(r) == 2 {
			low, ok1 := r[0].(float64)
			high, ok2 := r[1].(float64)
			if ok1 && ok2 {
				return is(low <= float64(w.packet.port) && float64(w.packet.port) <= high)
			}
		}
	}
	return maybe
}

// foreign says whether a match of iptables' own holds, of which nft lists the name only. The one that is everywhere is
// for connections that are known or broken, which that of a first packet is not.
func (w *walk) foreign(v any) answer {
	if text(v, "type") == "match" && slices.Contains([]string{"conntrack", "state"}, text(v, "name")) {
		return no
	}
	if text(v, "type") == "match" && text(v, "name") == "comment" || text(v, "type") == "target" {
		return yes
	}
	return maybe
}

// text is a field of an object that should have it.
func text(v any, key string) string {
	m, _ := v.(map[string]any)
	switch s := m[key].(type) {
	case string:
		return s
	case nil:
		return ""
	default:
		return fmt.Sprint(s)
	}
}
