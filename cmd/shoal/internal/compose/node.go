package compose

import (
	"iter"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// inner goes through a document and an alias to what they stand for.
func inner(n *yaml.Node) *yaml.Node {
	for n != nil {
		switch {
		case n.Kind == yaml.DocumentNode && len(n.Content) > 0:
			n = n.Content[0]
		case n.Kind == yaml.AliasNode:
			n = n.Alias
		default:
			return n
		}
	}
	return nil
}

// pairs are the keys and values of a mapping, with those that are merged into it; nothing else has any.
func pairs(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(*yaml.Node, *yaml.Node) bool) { each(inner(n), 0, yield) }
}

// maxMerges bounds how deep mappings are merged into mappings.
const maxMerges = 10

func each(n *yaml.Node, depth int, yield func(*yaml.Node, *yaml.Node) bool) bool {
	if n == nil || n.Kind != yaml.MappingNode || depth > maxMerges {
		return true
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Tag == "!!merge" {
			merged := []*yaml.Node{inner(v)}
			if merged[0] != nil && merged[0].Kind == yaml.SequenceNode {
				merged = merged[0].Content
			}
			for _, m := range merged {
				if !each(inner(m), depth+1, yield) {
					return false
				}
			}
			continue
		}
		if !yield(k, v) {
			return false
		}
	}
	return true
}

// entry is a mapping's key and its value, or a sequence's element twice, by its place or its text; nil if there is none.
func entry(n *yaml.Node, key string) (k, v *yaml.Node) {
	n = inner(n)
	if n != nil && n.Kind == yaml.SequenceNode {
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
		for _, v := range n.Content {
			if v = inner(v); v != nil && v.Kind == yaml.ScalarNode && v.Value == key {
				return v, v
			}
		}
		return nil, nil
	}
	for k, v := range pairs(n) {
		if k.Value == key {
			return k, v
		}
	}
	return nil, nil
}

func child(n *yaml.Node, key string) *yaml.Node {
	_, v := entry(n, key)
	return v
}
