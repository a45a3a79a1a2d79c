package cluster

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Constraint is one expression of a service's placement constraints: KEY==VALUE or KEY!=VALUE. Values compare without
// regard to case, as in Swarm.
type Constraint struct {
	Key   string
	Not   bool
	Value string
}

// What keys and values may look like; the character sets are Swarm's.
var (
	constraintKey   = regexp.MustCompile(`^(?i)[a-z_][a-z0-9\-_.]+$`)
	constraintValue = regexp.MustCompile(`^(?i)[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+$`)
)

// ParseConstraint reads one expression. The error's words are Swarm's.
func ParseConstraint(expr string) (Constraint, error) {
	op := "=="
	key, value, ok := strings.Cut(expr, op)
	if !ok {
		op = "!="
		if key, value, ok = strings.Cut(expr, op); !ok {
			return Constraint{}, fmt.Errorf("constraint expected one operator from ==, !=")
		}
	}
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if !constraintKey.MatchString(key) {
		return Constraint{}, fmt.Errorf("key '%s' is invalid", key)
	}
	if !constraintValue.MatchString(value) {
		return Constraint{}, fmt.Errorf("value '%s' is invalid", value)
	}
	return Constraint{Key: key, Not: op == "!=", Value: value}, nil
}

// Match says whether the node satisfies the constraint. A key that nobody knows matches no node, also with !=.
func (c Constraint) Match(n *Node) bool {
	if strings.EqualFold(c.Key, "node.ip") {
		return c.matchIP(n.Status.Addr)
	}
	have, ok := nodeFact(c.Key, n)
	return ok && strings.EqualFold(have, c.Value) != c.Not
}

// Have is what the node has where the constraint compares, "" if it has nothing or the key is unknown.
func (c Constraint) Have(n *Node) string {
	if strings.EqualFold(c.Key, "node.ip") {
		return n.Status.Addr
	}
	have, _ := nodeFact(c.Key, n)
	return have
}

// matchIP compares with an address or a subnet.
func (c Constraint) matchIP(addr string) bool {
	have, _ := netip.ParseAddr(addr) // a node without an address has the zero address, which is in no subnet
	if ip, err := netip.ParseAddr(c.Value); err == nil {
		return (ip == have) != c.Not
	}
	if p, err := netip.ParsePrefix(c.Value); err == nil {
		return p.Contains(have) != c.Not
	}
	return false
}

// nodeFact is what a constraint's key stands for on a node; ok is false for an unknown key.
func nodeFact(key string, n *Node) (value string, ok bool) {
	switch {
	case strings.EqualFold(key, "node.id"):
		return n.ID, true
	case strings.EqualFold(key, "node.hostname"):
		return n.Description.Hostname, true
	case strings.EqualFold(key, "node.role"):
		return string(n.Spec.Role), true
	case strings.EqualFold(key, "node.platform.os"):
		return n.Description.Platform.OS, true
	case strings.EqualFold(key, "node.platform.arch"):
		return n.Description.Platform.Architecture, true
	}
	return NodeLabel(key, n)
}

// NodeLabel is the value of a label descriptor, node.labels.NAME or engine.labels.NAME; ok is false if key is neither.
// A node without the label has the empty value.
func NodeLabel(key string, n *Node) (value string, ok bool) {
	for prefix, labels := range map[string]map[string]string{
		"node.labels.": n.Spec.Labels, "engine.labels.": n.Description.Engine.Labels,
	} {
		if len(key) > len(prefix) && strings.EqualFold(key[:len(prefix)], prefix) {
			return labels[key[len(prefix):]], true
		}
	}
	return "", false
}
