package firewall

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
)

// maxRuleset is how many bytes of a ruleset are looked at: some 100,000 rules.
const maxRuleset = 64 << 20

// Ruleset is what other programs filter.
type Ruleset struct {
	bases  []*chain
	chains map[chainKey]*chain
	own    []mark // our rules in others' chains
}

// identifier is what nft takes for a name as it stands.
var identifier = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9/\\_.-]*$`)

type chainKey struct{ family, table, name string }

type chain struct {
	chainKey
	hook  string // "" if only other chains lead to it
	drop  bool   // the policy
	rules [][]map[string]any
}

// mark is a rule of ours in somebody else's chain.
type mark struct {
	chainKey
	handle int
}

// Read asks nft for the host's rules.
func Read(ctx context.Context, nft Nft) (*Ruleset, error) {
	// Terse: named sets may have millions of addresses.
	out, err := nft(ctx, "", "-j", "-t", "list", "ruleset")
	if err != nil {
		return nil, fmt.Errorf("list the host's packet filter: %w", err)
	}
	return Parse(out)
}

// Parse reads what `nft -j list ruleset` prints. Shoal's own tables are left out.
func Parse(data []byte) (*Ruleset, error) {
	if len(data) > maxRuleset {
		return nil, fmt.Errorf("the host's packet filter has more than %d MB of rules", maxRuleset>>20)
	}
	var list struct {
		Nftables []struct {
			Chain *struct{ Family, Table, Name, Hook, Policy string }
			Rule  *struct {
				Family, Table, Chain, Comment string
				Handle                        int
				Expr                          []map[string]any
			}
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read what nft lists: %w", err)
	}
	r := &Ruleset{chains: map[chainKey]*chain{}}
	for _, o := range list.Nftables {
		switch {
		case o.Chain != nil && o.Chain.Table != ownTable && filters(o.Chain.Family):
			c := &chain{
				chainKey: chainKey{o.Chain.Family, o.Chain.Table, o.Chain.Name}, hook: o.Chain.Hook, drop: o.Chain.Policy == "drop",
			}
			r.chains[c.chainKey] = c
			if c.hook != "" {
				r.bases = append(r.bases, c)
			}
		case o.Rule != nil && o.Rule.Table != ownTable:
			k := chainKey{o.Rule.Family, o.Rule.Table, o.Rule.Chain}
			if c := r.chains[k]; c != nil {
				c.rules = append(c.rules, o.Rule.Expr)
			}
			if o.Rule.Comment == comment && identifier.MatchString(k.table+k.name) {
				r.own = append(r.own, mark{k, o.Rule.Handle})
			}
		}
	}
	return r, nil
}

// filters says whether packets of IPv4 pass the tables of a family.
func filters(family string) bool { return family == "ip" || family == "inet" }
